"""How long trials will take, by the pace of earlier trials of their kind, or of a few steps that are timed here.

A user's own training function is not called before its sweep, so only earlier trials tell how long it takes.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from onecycle_sweeps import datasets
from onecycle_sweeps.config import function_node, nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.trial_folder import TrialFolder

# How many steps are timed, and how many precede them untimed, because the first steps take longer.
TIMED_STEPS, WARM_UP_STEPS = 20, 5
# A probe evaluates the untrained net, and after each of its trainings.
MOST_PROBED = 10
# A batch of an evaluation takes this share of a step's time, since it has no backward pass.
FORWARD_SHARE = 1 / 3
ONCE_FINISHED = "once a training has finished in this runs_dir, there is an estimate"


class NoEstimate(Exception):
    """No pace could be measured; the message says why."""


def hours(configs: Sequence[Config], runs_dir: Path, device: str) -> tuple[list[float], str]:
    """How long each of the planned trials takes on cpu or cuda, in hours, and what the estimate is based on.

    Raises NoEstimate if a kind of trial has no earlier one and its steps cannot be timed.
    """
    earlier = _earlier(runs_dir, device)
    kinds = {workload(config): config for config in configs}
    for kind, config in kinds.items():
        if schema.LOOP in config and kind not in earlier:
            raise NoEstimate(f"{function_node.name(config)} is not called before its sweep: {ONCE_FINISHED}")
    timed, where = _timed({kind: config for kind, config in kinds.items() if kind not in earlier}, runs_dir)
    paces = {kind: median(found) for kind, found in earlier.items()} | timed
    sources = []
    if used := sum(len(earlier[kind]) for kind in kinds if kind in earlier):
        sources.append(f"{used} earlier trial{'s' if used > 1 else ''}")
    if timed:
        of = f", for each of {len(timed)} kinds of trial" if len(timed) > 1 else ""
        sources.append(f"{TIMED_STEPS} steps timed on THIS machine's {where}{of}")
    return [_steps(c, runs_dir, workload(c) in timed) * paces[workload(c)] / 3600 for c in configs], " and ".join(
        sources
    )


def _steps(config: Config, runs_dir: Path, timed: bool) -> float:
    """The steps of a trial; with evaluations as further steps if its pace was `timed`, which leaves them out."""
    if config["task"] == schema.RANGE_TEST:
        return schema.planned_steps(config)
    if schema.LOOP in config:
        steps = _steps_of_function(config, runs_dir)
        return schema.probe_steps(config, round(steps)) if config["task"] == schema.PROBE else steps
    cache = runs_dir / "data" / config["needs"]["data"]
    with nodes.environment(config):
        facts = datasets.prepare(nodes.loader(config), cache, **schema.split(config))
    evaluation = facts.val / config["batch_size"] * FORWARD_SHARE
    if config["task"] == schema.PROBE:
        budget = schema.probe_steps(config, config["epochs"] * schema.steps_per_epoch(config, facts.train))
        return budget + (MOST_PROBED * evaluation if timed else 0)
    evaluations = config["evaluations_per_epoch"] * evaluation
    return config["epochs"] * (schema.steps_per_epoch(config, facts.train) + (evaluations if timed else 0))


def _steps_of_function(config: Config, runs_dir: Path) -> float:
    """The steps of a user's own function: the median of its earlier trainings of the same number of epochs.

    If there are none, the steps of trainings of other epochs are scaled in proportion.
    """
    found = [
        (earlier["epochs"], resolved["total_steps"])
        for _, resolved, earlier in _results(runs_dir)
        if earlier["task"] == schema.TRAIN and workload(earlier) == workload(config)
    ]
    alike = [(epochs, steps) for epochs, steps in found if epochs == config["epochs"]]
    if not found:
        raise NoEstimate(f"the number of steps of {function_node.name(config)} is not known yet: {ONCE_FINISHED}")
    return median(steps * config["epochs"] / epochs for epochs, steps in alike or found)


def workload(config: Config) -> str:
    """What the pace of a trial depends on: model, data, batch size, precision, or a user's own function."""
    data = (config["needs"]["data"], config.get("data", {}).get("augment"))
    # Range tests and probes have no key `compile`, and take as long as trainings with compile=false.
    kept = [config.get(key) or None for key in ("model", "batch_size", "precision", "compile", schema.LOOP)]
    return json.dumps([data, *kept], sort_keys=True)


def _earlier(runs_dir: Path, device: str) -> dict[str, list[float]]:
    """The seconds per step of the trials with a result from this kind of device, by kind of trial."""
    paces: dict[str, list[float]] = {}
    for result, resolved, config in _results(runs_dir):
        if not resolved["device"].startswith(device):
            continue
        if result["steps"] and (seconds := result["metrics"].get("seconds")):
            paces.setdefault(workload(config), []).append(seconds / result["steps"])
    return paces


def _results(runs_dir: Path) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Config]]:
    """The result of each trial that has one, what its first attempt resolved, and its config."""
    for path in runs_dir.glob("*/result.json"):
        trial = TrialFolder(path.parent)
        try:
            result, resolved, config = trial.result(), trial.resolved(), trial.config()
        except Unreadable:
            continue
        if result and resolved:
            yield result, resolved, config


def _timed(kinds: Mapping[str, Config], runs_dir: Path) -> tuple[dict[str, float], str]:
    """The seconds per step of each kind of trial on this machine, and on which device.

    Another process takes the steps: torch would more than double the memory of the one that submits.
    """
    paces, where = {}, ""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        try:
            for kind, config in kinds.items():
                paces[kind], where = other.submit(_time_steps, config, runs_dir).result()
        except BrokenProcessPool as error:
            raise NoEstimate("the process that timed a trial's steps was killed: out of memory, perhaps") from error
    return paces, where


def _time_steps(config: Config, runs_dir: Path) -> tuple[float, str]:
    """The seconds per step of a trial's first steps here, and on which device; the trial is not kept."""
    from onecycle_sweeps import trial

    times: list[float] = []

    def stopped() -> bool:
        times.append(time.monotonic())
        return len(times) > WARM_UP_STEPS + TIMED_STEPS

    with TemporaryDirectory() as folder:
        timed = TrialFolder(Path(folder) / "timed")
        # As a range test, it needs no rate, and its first steps do not diverge.
        timed.create(schema.range_test(config) | {"device": "auto"})
        (Path(folder) / "data").symlink_to(runs_dir / "data")
        try:
            trial.run(timed, stopped)
        except trial.Stopped:
            resolved = timed.resolved()
            assert resolved
            device = "CPU" if resolved["device"] == "cpu" else "GPU"
            pairs = zip(times[WARM_UP_STEPS:], times[WARM_UP_STEPS + 1 :], strict=False)
            return median(after - before for before, after in pairs), device
        except trial.TrialFailed as error:
            raise NoEstimate(f"a trial's steps could not be timed here: {error}") from error
    raise NoEstimate(f"a trial has fewer than {WARM_UP_STEPS + TIMED_STEPS} steps to be timed")
