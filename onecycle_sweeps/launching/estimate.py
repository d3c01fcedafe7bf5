"""How long trials will take: from the pace of earlier ones of their kind, or of a few steps taken here."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from onecycle_sweeps import images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.sweep import RANGE_TEST
from onecycle_sweeps.trial_folder import TrialFolder

# So many steps are timed, after those that warm up.
PROBED_STEPS, WARM_UP_STEPS = 20, 5
# Of a step's time, what a batch of an evaluation takes: it has no backward pass.
FORWARD_SHARE = 1 / 3


class NoEstimate(Exception):
    """No pace could be measured; the message is its cause in one line."""


def hours(configs: Sequence[Config], runs_dir: Path, device: str) -> tuple[list[float], str]:
    """How long each of the planned trials takes, in hours, on cpu or cuda as earlier ones were, and how that is known.

    Raises NoEstimate where a kind of trial has no earlier one and its probe fails.
    """
    earlier = _earlier(runs_dir, device)
    kinds = {_kind(config): config for config in configs}
    probed, where = _probed({kind: config for kind, config in kinds.items() if kind not in earlier}, runs_dir)
    paces = {kind: median(found) for kind, found in earlier.items()} | probed
    sources = []
    if used := sum(len(earlier[kind]) for kind in kinds if kind in earlier):
        sources.append(f"{used} earlier trial{'s' if used > 1 else ''}")
    if probed:
        of = f", for each of {len(probed)} kinds of trial" if len(probed) > 1 else ""
        sources.append(f"{PROBED_STEPS} steps timed on THIS machine's {where}{of}")
    return [_steps(c, runs_dir, _kind(c) in probed) * paces[_kind(c)] / 3600 for c in configs], " and ".join(sources)


def _steps(config: Config, runs_dir: Path, probed: bool) -> float:
    """The steps of a trial; a pace that was probed knows nothing of evaluations, so they are added as steps."""
    if config["task"] == RANGE_TEST:
        return config["range_test"]["steps"] * len(config["range_test"]["seeds"])
    cache = runs_dir / "data" / config["needs"]["data"]
    with nodes.environment(config):
        facts = images.prepare(nodes.loader(config), cache, **schema.split(config))
    evaluations = config["evaluations_per_epoch"] * facts.val / config["batch_size"] * FORWARD_SHARE
    return config["epochs"] * (facts.train // config["batch_size"] + (evaluations if probed else 0))


def _kind(config: Mapping[str, object]) -> str:
    """What the pace of a trial depends on: model, data, batch size, precision."""
    data, needs = config["data"], config["needs"]
    assert isinstance(data, dict)
    assert isinstance(needs, dict)
    parts = (config["model"], needs["data"], data.get("augment"), config["batch_size"], config["precision"])
    return json.dumps(parts, sort_keys=True)


def _earlier(runs_dir: Path, device: str) -> dict[str, list[float]]:
    """The seconds per step of the trials that have a result from such a device, by kind."""
    paces: dict[str, list[float]] = {}
    for path in runs_dir.glob("*/result.json"):
        trial = TrialFolder(path.parent)
        try:
            result, resolved, config = trial.result(), trial.resolved(), trial.config()
        except Unreadable:
            continue
        if not result or not resolved or not resolved["device"].startswith(device):
            continue
        if result["steps"] and (seconds := result["metrics"].get("seconds")):
            paces.setdefault(_kind(config), []).append(seconds / result["steps"])
    return paces


def _probed(kinds: Mapping[str, Config], runs_dir: Path) -> tuple[dict[str, float], str]:
    """The seconds per step of each kind of trial, and the device that took them.

    They are timed in a process of their own: torch would more than double the memory of the one that submits.
    """
    paces, where = {}, ""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        try:
            for kind, config in kinds.items():
                paces[kind], where = other.submit(_probe, config, runs_dir).result()
        except BrokenProcessPool as error:
            raise NoEstimate("the process that took them was killed: out of memory, perhaps") from error
    return paces, where


def _probe(config: Config, runs_dir: Path) -> tuple[float, str]:
    """The seconds per step of a trial's first steps here, and the device that took them; nothing of it is kept."""
    from onecycle_sweeps import trial

    times: list[float] = []

    def stopped() -> bool:
        times.append(time.monotonic())
        return len(times) > WARM_UP_STEPS + PROBED_STEPS

    with TemporaryDirectory() as folder:
        probe = TrialFolder(Path(folder) / "probe")
        # A range test needs no rate, and its first steps cannot diverge.
        probe.create(schema.range_test(config) | {"device": "auto"})
        (Path(folder) / "data").symlink_to(runs_dir / "data")
        try:
            trial.run(probe, stopped)
        except trial.Stopped:
            resolved = probe.resolved()
            assert resolved
            device = "CPU" if resolved["device"] == "cpu" else "GPU"
            pairs = zip(times[WARM_UP_STEPS:], times[WARM_UP_STEPS + 1 :], strict=False)
            return median(after - before for before, after in pairs), device
        except trial.TrialFailed as error:
            raise NoEstimate(str(error)) from error
    raise NoEstimate("the trial is over before its pace is known")
