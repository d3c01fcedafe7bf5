"""The keys of hydra/launcher=slurm: their bounds, and the parameters of submitit that they become."""

import inspect
import re
import shutil
from collections.abc import Mapping
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from onecycle_sweeps.config import paths, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.validation import NULL, SWITCH, Allowed, list_of, number, text, whole

Settings = Mapping[str, Any]

LAUNCHER = "hydra/launcher=slurm"
# A job gets the signal to save this long before its time limit, or after nine tenths of a short limit. SLURM may send
# it up to a minute early.
NOTICE_SECONDS, NOTICE_SHARE = 120, 0.1
NEVER_PARAMETERS = ("array", "dependency", "job-name", "name", "output", "error", "signal", "chdir", "time", "export")
# Keys that the program reads itself, or that submitit has under another name. Those that submitit lacks are options of
# sbatch.
READ_HERE = ("wait", "dry_run", "timeout_min", "mem_gb", "array_size")
# The time limit of the job that writes the report, and for how many trials it gets a minute more.
REPORT_MINUTES, TRIALS_PER_MINUTE = 10, 200
# The memory of that job for a sweep of a thousand trials, in GiB.
REPORT_GB = 1.0

LINE = Allowed(lambda value: isinstance(value, str), ("a text",))
NAME = text("a name") | NULL
OPTIONS = Allowed(lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value), ("options",))
# The upper bounds catch typing errors: no cluster has more.
KEYS = {
    "timeout_min": whole(1, most=10**6).described("a whole number of minutes from 1 on"),
    "partition": NAME,
    "account": NAME,
    "qos": NAME,
    "constraint": NAME,
    "gpus_per_node": (NULL | whole(0, most=64) | text()).described("a whole number, a text such as a100:1, or null"),
    "cpus_per_task": whole(1, most=4096),
    "mem_gb": number(above=0, most=10**6) | NULL,
    "array_parallelism": whole(1, most=10**6),
    "array_size": NULL | whole(1, most=10**6),
    "setup": list_of(LINE, "a list of shell lines"),
    "srun_args": list_of(LINE, "a list of arguments of srun"),
    "additional_parameters": (NULL | OPTIONS).described("sbatch's other long options, such as {reservation: mine}"),
    "wait": SWITCH,
    "dry_run": SWITCH,
}


def check(settings: Settings) -> None:
    """Raise ConfigError for a value that cannot be used, and for a program of SLURM's that is missing here."""
    schema.check_launcher(settings, KEYS)
    for option in settings["additional_parameters"] or ():
        if option.replace("_", "-") in NEVER_PARAMETERS:
            raise ConfigError(f"hydra.launcher.additional_parameters.{option} is set by {LAUNCHER}: leave it out")
    for program in ("sbatch", "srun", "squeue"):
        if not settings["dry_run"] and shutil.which(program) is None:
            raise ConfigError(f"{LAUNCHER} needs {program}, which is not on the PATH here: run this on a login node")


def gpus_requested(settings: Settings) -> int:
    """How many GPUs `gpus_per_node` requests, such as `2` or `a100:2`."""
    count = str(settings["gpus_per_node"] or 0).rpartition(":")[2]
    return int(count) if re.fullmatch(r"\d+", count) else 1


def idle_gpus(settings: Settings) -> str | None:
    """A warning if each trial requests more GPUs than the one that it uses."""
    if (count := gpus_requested(settings)) < 2:
        return None
    return (
        f"each trial uses one of the {count} GPUs of hydra.launcher.gpus_per_node={settings['gpus_per_node']}, and the "
        "others stay idle: with gpus_per_node=1, as many trials run at once as there are GPUs"
    )


def parameters(settings: Settings) -> dict[str, Any]:
    """The parameters of submitit's executor."""
    # The record of an earlier submission may lack keys that were added later.
    given = {key: settings.get(key) for key in KEYS if key not in READ_HERE}
    submitits = inspect.signature(_make_sbatch_string).parameters
    same = {key: value for key, value in given.items() if key in submitits}
    own_options = {key.replace("_", "-"): v for key, v in given.items() if key not in submitits and v is not None}
    own: dict[str, Any] = {"time": settings["timeout_min"], "signal_delay_s": notice(settings["timeout_min"])}
    if settings["mem_gb"]:
        own["mem"] = f"{round(1024 * settings['mem_gb'])}MB"
    typed = paths.with_homes(settings["additional_parameters"] or {})
    others = {option.replace("_", "-"): value for option, value in typed.items()}
    requeued = {} if {"no-requeue", "requeue"} & set(others) else {"requeue": True}
    # srun does not inherit the batch job's number of cores (SLURM 22.05 to 23.02).
    arguments = [f"--cpus-per-task={settings['cpus_per_task']}", *paths.with_homes(settings["srun_args"])]
    own |= {"additional_parameters": own_options | others | requeued, "srun_args": arguments}
    own["setup"] = ["set -euo pipefail", *settings["setup"]]
    return same | own


def notice(timeout_min: int) -> int:
    """How long before its time limit a job gets the signal to save, in seconds."""
    return max(10, min(NOTICE_SECONDS, round(NOTICE_SHARE * 60 * timeout_min)))


def light(settings: Settings, trials: int) -> dict[str, Any]:
    """The settings of the job that writes the report: one core, no GPU, and the time and memory that the trials need.

    Its time limit is at most that of a trial, which the cluster accepts; without `mem_gb` the cluster decides.
    """
    others = {k: v for k, v in (settings["additional_parameters"] or {}).items() if not k.startswith(("gres", "gpu"))}
    minutes = min(REPORT_MINUTES + trials // TRIALS_PER_MINUTE, settings["timeout_min"])
    asked = settings.get("mem_gb")
    memory = asked and max(asked, REPORT_GB * (1 + trials / 1000))
    small = {"gpus_per_node": None, "cpus_per_task": 1, "timeout_min": minutes, "mem_gb": memory}
    return {**settings, **small, "additional_parameters": others}
