"""The values of a config, checked before anything runs: each refusal names the key, the bound and the value."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from onecycle_sweeps import keys

MINIMUM_RANGE_TEST_STEPS = 100


class ConfigError(ValueError):
    """What was asked cannot be done; the message is one line for the user."""


class UnknownKey(ConfigError):
    """Nothing reads this `key`, wherever it was written."""

    def __init__(self, line: str, key: str) -> None:
        super().__init__(line)
        self.key = key


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False) -> "Check":
    """A finite number from `low` to `high`; `above` and `below` leave the bound itself out."""

    def check(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if above else value >= low) and (value < high if below else value <= high)

    return check


def whole(low: int) -> "Check":
    """A whole number of at least `low`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def one_of(*choices: Any) -> "Check":
    """One of the values listed."""
    return lambda value: any(value is choice or value == choice for choice in choices) and value not in (0, 1)


def switch(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def either(*checks: "Check") -> "Check":
    """Whatever one of the checks accepts."""
    return lambda value: any(check(value) for check in checks)


def device(value: Any) -> bool:
    """A device that torch would take."""
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    return kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))


def seeds(value: Any) -> bool:
    """A list of at least one seed, each once."""
    return isinstance(value, list) and len(value) > 0 and all(map(whole(0), value)) and len(set(value)) == len(value)


def class_numbers(value: Any) -> bool:
    """A list of whole numbers."""
    return isinstance(value, list) and all(map(whole(0), value))


def nodes(value: Any) -> bool:
    """A list of config nodes, each with a `_target_`."""
    return isinstance(value, list) and all(isinstance(node, dict) and text(node.get("_target_")) for node in value)


def none(value: Any) -> bool:
    """No value."""
    return value is None


def text(value: Any) -> bool:
    """A text that says something."""
    return isinstance(value, str) and value.strip() != ""


Check = Callable[[Any], bool]
POSITIVE = number(0, above=True)
MOMENTUM = number(0, 1, below=True)
TARGET = (text, "the dotted name of a class or function")
TRANSFORMS = (nodes, "a list of transforms, such as [{_target_: onecycle_sweeps.images.augmentation.Flip}]")
CHECKS: dict[str, tuple[Check, str]] = {
    "model._target_": TARGET,
    "data._target_": TARGET,
    "policy._target_": TARGET,
    "optimizer._target_": TARGET,
    "task": (one_of("train", "range_test"), "train or range_test"),
    "epochs": (whole(1), "a whole number of at least 1"),
    "batch_size": (whole(1), "a whole number of at least 1"),
    "seed": (whole(0), "a whole number of at least 0"),
    "evaluations_per_epoch": (whole(1), "a whole number of at least 1"),
    "max_lr": (either(POSITIVE, one_of("auto")), "a number above 0 or auto"),
    "max_lr_scale": (POSITIVE, "a number above 0"),
    "policy.max_lr": (either(POSITIVE, one_of("auto")), "a number above 0 or auto"),
    "policy.base_momentum": (MOMENTUM, "a number in [0, 1)"),
    "policy.max_momentum": (MOMENTUM, "a number in [0, 1)"),
    "optimizer.momentum": (MOMENTUM, "a number in [0, 1)"),
    "optimizer.beta2": (MOMENTUM, "a number in [0, 1)"),
    "optimizer.weight_decay": (number(0), "a number of at least 0"),
    "optimizer.body_lr_scale": (POSITIVE, "a number above 0"),
    "range_test.mode": (one_of("exp", "linear"), "exp or linear"),
    "range_test.start_lr": (number(0), "a number of at least 0"),
    "range_test.end_lr": (POSITIVE, "a number above 0"),
    "range_test.steps": (whole(MINIMUM_RANGE_TEST_STEPS), f"a whole number of at least {MINIMUM_RANGE_TEST_STEPS}"),
    "range_test.seeds": (seeds, "a list of whole numbers, each once, such as [0,1,2]"),
    "data.val_fraction": (number(0, 1, below=True), "a number in [0, 1)"),
    "data.split_seed": (whole(0), "a whole number of at least 0"),
    "data.classes": (either(none, class_numbers), "null or a list of class numbers such as [3,7]"),
    "data.path": (text, "the path of a folder or .tar of images"),
    "data.size": (whole(1), "a whole number of at least 1"),
    "data.test_part": (either(none, one_of("val", "test")), "null, val or test"),
    "data.max_cached_gb": (number(0), "a number of at least 0"),
    "data.fingerprint": (one_of("content", "stat"), "content or stat"),
    "data.augment": TRANSFORMS,
    "data.evaluation": TRANSFORMS,
    "label_smoothing": (number(0, 1, below=True), "a number in [0, 1)"),
    "clip_norm": (either(none, POSITIVE), "a number above 0 or null"),
    "precision": (one_of("auto", "fp32", "bf16"), "auto, fp32 or bf16"),
    "device": (device, "auto, cpu, cuda or cuda:N"),
    "threads": (either(whole(1), one_of("auto")), "a whole number of at least 1 or auto"),
    "deterministic": (switch, "true or false"),
    "bn_recalibrate": (switch, "true or false"),
    "save_model": (switch, "true or false"),
    "rerun": (switch, "true or false"),
    "checkpoint_minutes": (POSITIVE, "a number above 0"),
    "target_accuracy": (either(none, number(0, 1, above=True)), "a number in (0, 1] or null"),
    "runs_dir": (text, "the path of a folder"),
    "tracking.uri": (text, "a URI such as sqlite:///mlflow.db"),
    "tracking.experiment": (text, "a name"),
}
# Not every policy, optimizer and data set has these.
OPTIONAL = (
    *("policy.base_momentum", "policy.max_momentum"),
    *("data.path", "data.size", "data.test_part", "data.max_cached_gb", "data.fingerprint"),
    *("data.augment", "data.evaluation"),
    *("optimizer.momentum", "optimizer.beta2", "optimizer.weight_decay", "optimizer.body_lr_scale"),
)
# Nodes whose other keys are those of their `_target_`.
BUILT = tuple(key.removesuffix("._target_") for key in CHECKS if key.endswith("._target_"))
# What a preset is compared with, which has checks of its own.
OF_THE_SWEEP = "published"
KEYS = (*BUILT, *(key for key in CHECKS if key.partition(".")[0] not in BUILT), OF_THE_SWEEP)

# Groups whose files set keys all over the config.
GLOBAL_GROUPS = ("experiment", "recipe")
# Keys of torch's optimizers that a trial sets by itself.
REPLACED = {
    "lr": "the rate is max_lr={}",
    "betas": "here they are optimizer.momentum and optimizer.beta2",
}

LAUNCHER = "hydra.launcher"

# What no run needs more of. More would fail later, in torch, in memory or on the disk, or never end.
MOST_SEED, MOST_RATE = 2**32 - 1, 1e9
MOST: dict[str, float] = {
    "epochs": 10**6,
    "batch_size": 10**9,
    "seed": MOST_SEED,
    "max_lr": MOST_RATE,
    "max_lr_scale": MOST_RATE,
    "policy.max_lr": MOST_RATE,
    "optimizer.weight_decay": MOST_RATE,
    "optimizer.body_lr_scale": MOST_RATE,
    "range_test.start_lr": MOST_RATE,
    "range_test.end_lr": MOST_RATE,
    "range_test.steps": 10**5,
    "range_test.seeds": MOST_SEED,
    "data.split_seed": MOST_SEED,
    "data.size": 4096,
    "clip_norm": 1e9,
    "checkpoint_minutes": 10**6,
}
MOST_RANGE_TEST_SEEDS = 100
WORKERS_PER_CPU = 16

LOCAL_LAUNCHER = {
    "workers": (either(whole(1), one_of("auto")), "a whole number of at least 1 or auto"),
    "jobs_per_gpu": (whole(1), "a whole number of at least 1"),
}

# Variables that a trial does not take from hydra.job.env_set, and what to type in their place.
NOT_BY_ENV_SET = {
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS": "a trial has as many threads as threads=... says",
    r"CUDA_VISIBLE_DEVICES": "the launcher gives each trial its GPU: set it before the command",
    r"MLFLOW_.*": "the tracker is no part of a job: take tracking.uri=..., or set it before the command",
    r"ONECYCLE_DATA": "it is read when the config is composed: take data.root=...",
    r"PYTHON[A-Z]+|(LD|DYLD)_.*": "it is read when Python starts: set it before the command",
    r"(.*_)?(PASS|PASSWORD|PASSWD|PWD|SECRET|TOKEN|KEY|APIKEY|CREDENTIALS?)|(.*_)?(PASSWORD|SECRET)_.*": (
        "it looks like a secret, and env_set is written to disk: set it before the command, its jobs inherit it"
    ),
}


def check_launcher(
    settings: Mapping[str, Any], known: Mapping[str, tuple[Check, str]], most: Mapping[str, float] | None = None
) -> None:
    """Raise ConfigError for a key of hydra.launcher that is not known, or whose value cannot be used."""
    for key in settings:
        if key not in known:
            raise ConfigError(unknown_to_launcher(key, settings[key], list(known)))
    for key, (accepts, what) in known.items():
        if key not in settings:
            raise ConfigError(f"{LAUNCHER}.{key} is missing, it must be {what}")
        if not accepts(settings[key]):
            raise ConfigError(f"{LAUNCHER}.{key} must be {what}, got {settings[key]!r}")
        _check_most(f"{LAUNCHER}.{key}", settings[key], (most or {}).get(key, math.inf))


def check_local_launcher(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of hydra/launcher=local whose value cannot be used on this machine."""
    check_launcher(settings, LOCAL_LAUNCHER, {"workers": WORKERS_PER_CPU * _cpus(), "jobs_per_gpu": 64})


def unknown_to_launcher(key: str, value: Any, known: Sequence[str]) -> str:
    """The line for a key that a launcher has not."""
    key, known = f"{LAUNCHER}.{key}", [f"{LAUNCHER}.{one}" for one in known]
    if keys.suggestion(key, known):
        return keys.unknown(key, known)
    if (others := f"{LAUNCHER}.additional_parameters") in known:
        option = key.removeprefix(f"{LAUNCHER}.")
        return f"unknown key {key}; sbatch's other options are typed as '{others}={{{option}: \"{value}\"}}'"
    return f"{keys.unknown(key, known)}; those of a cluster need hydra/launcher=slurm"


def check_keys(config: Mapping[str, Any], read_elsewhere: Iterable[str] = ()) -> None:
    """Raise ConfigError for the first key that nothing reads, of a config whose interpolations are not resolved.

    `read_elsewhere` are keys that are read from outside of the config. Those of a node with a `_target_` are left to
    the target, but for those that a trial would overwrite.
    """
    values = dict(keys.leaves(config))
    optimizer = config.get("optimizer")
    for key, meant in REPLACED.items():
        if isinstance(optimizer, Mapping) and key in optimizer and (key != "betas" or "beta2" in optimizer):
            raise UnknownKey(f"unknown key optimizer.{key}; {meant.format(optimizer[key])}", f"optimizer.{key}")
    for key in (unread := keys.unread(values, KEYS, read_elsewhere)):
        if (group := re.split(r"[.\[]", key)[0]) in GLOBAL_GROUPS:
            file = f"a file of {group}/ that sets keys of the whole config begins with the line # @package _global_"
            raise UnknownKey(f"unknown key {key}: {file}", key)
        known = [*KEYS, *GLOBAL_GROUPS, *(other for other in values if other not in unread)]
        raise UnknownKey(keys.unknown(key.removesuffix("._target_"), known, values[key]), key)


def check(config: dict[str, Any]) -> None:
    """Raise ConfigError for the first key whose value cannot be used."""
    for key in _missing(config):
        raise ConfigError(f"{key} has no default, it must be given: {key}=...")
    for key, (accepts, what) in CHECKS.items():
        node: Any = config
        *parents, leaf = key.split(".")
        for parent in parents:
            node = found if isinstance(found := node.get(parent), dict) else {}
        if leaf not in node:
            if key not in OPTIONAL:
                raise ConfigError(f"{key} is missing, it must be {what}")
        elif not accepts(node[leaf]):
            raise ConfigError(f"{key} must be {what}, got {node[leaf]!r}")
        else:
            _check_most(key, node[leaf], MOST.get(key, math.inf))
    test = config["range_test"]
    if test["start_lr"] >= test["end_lr"]:
        raise ConfigError(
            f"range_test.start_lr must be below range_test.end_lr ({test['end_lr']}), got {test['start_lr']}"
        )
    # The same bound as the ramp's own, which stands above this module.
    if (test["end_lr"] - test["start_lr"]) / test["end_lr"] <= test["steps"] * 2.0**-50:
        raise ConfigError(
            f"range_test.end_lr must be so far above range_test.start_lr ({test['start_lr']}) that the rate rises at "
            f"each of {test['steps']} steps, got {test['end_lr']}"
        )
    if (count := len(test["seeds"])) > MOST_RANGE_TEST_SEEDS:
        raise ConfigError(f"range_test.seeds must be at most {MOST_RANGE_TEST_SEEDS} seeds, got {count}")
    if test["mode"] == "exp" and test["start_lr"] == 0:
        raise ConfigError("range_test.start_lr must be above 0 where range_test.mode is exp, got 0")
    check_env_set(config.get("env_set", ()))


def check_env_set(names: Iterable[str]) -> None:
    """Raise ConfigError for a variable that a job cannot be given by hydra.job.env_set."""
    for name in names:
        for pattern, instead in NOT_BY_ENV_SET.items():
            if re.fullmatch(pattern, name, re.IGNORECASE):
                raise ConfigError(f"hydra.job.env_set.{name} cannot be set for a job: {instead}")


def _missing(node: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys that hold Hydra's mark of a value still to be given."""
    for key, value in node.items():
        if value == "???":
            yield f"{above}{key}"
        elif isinstance(value, dict):
            yield from _missing(value, f"{above}{key}.")


def check_batch(batch_size: int, samples: int) -> None:
    """Raise ConfigError if a batch is larger than the training set."""
    if batch_size > samples:
        raise ConfigError(f"batch_size must be at most the {samples} training samples, got {batch_size}")


def check_threads(threads: Any, cpus_elsewhere: int | None) -> None:
    """Raise ConfigError for more threads than there are CPUs: here, or where a job is granted so many elsewhere."""
    if isinstance(threads, int) and threads > (cpus_elsewhere or _cpus()):
        granted = f"hydra.launcher.cpus_per_task={cpus_elsewhere}"
        bound = granted if cpus_elsewhere else f"the {_cpus()} CPUs of this machine"
        raise ConfigError(f"threads must be at most {bound}, got {threads}")


def check_evaluations(per_epoch: int, steps_per_epoch: int) -> None:
    """Raise ConfigError for more evaluations in an epoch than it has steps."""
    if per_epoch > steps_per_epoch:
        raise ConfigError(
            f"evaluations_per_epoch must be at most the {steps_per_epoch} steps of an epoch, got {per_epoch}"
        )


def _check_most(key: str, value: Any, most: float) -> None:
    """Raise ConfigError for a number, or one of a list, above the bound."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and number > most:
            raise ConfigError(f"{key} must be at most {most:.0f}, got {number}")


def _cpus() -> int:
    return os.cpu_count() or 1
