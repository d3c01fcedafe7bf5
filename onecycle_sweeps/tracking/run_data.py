"""What MLflow shows of a trial and of a sweep: params, tags, points, files and times, as MLflow can store them."""

import getpass
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from onecycle_sweeps import journal, trial_folder
from onecycle_sweeps.credentials import address, redacted
from onecycle_sweeps.journal import Block
from onecycle_sweeps.outcome import Outcome, Series
from onecycle_sweeps.sweep import TRAIN, Sweep
from onecycle_sweeps.trial_folder import DUMPER

# A trial that waits to be continued is SCHEDULED in MLflow: it neither runs nor has failed.
MLFLOW_STATUS = {
    trial_folder.WAITING: "SCHEDULED",
    trial_folder.QUEUED: "SCHEDULED",
    trial_folder.RUNNING: "RUNNING",
    trial_folder.FINISHED: "FINISHED",
    trial_folder.DIVERGED: "FINISHED",
    trial_folder.FAILED: "FAILED",
    trial_folder.LOST: "FAILED",
    trial_folder.CANCELLED: "KILLED",
}
ARTIFACTS = ("resolved.json", "lr_momentum.png", "range_test.png", "range_test.csv", "model.pt")
NOT_PARAMS = ("needs", "tracking", "max_lr")
RESOLVED_PARAMS = ("max_lr", "precision", "device", "threads", "total_steps", "steps_per_epoch")
# The most points in one request, and characters in a value; MLflow cuts longer values without a warning.
BATCH = 1000
# The series of a training that have a value at each step.
PER_STEP = (journal.LR, journal.MOMENTUM, journal.TRAIN_LOSS)
PARAM_LENGTH, TAG_LENGTH = 6000, 8000


class Point(NamedTuple):
    """One value of a metric; `time` in ms."""

    step: int
    name: str
    value: float
    time: int


def has_run(outcome: Outcome) -> bool:
    """Whether the trial gets a run: its name contains the learning rate, which is not known before it begins."""
    return bool(outcome.resolved) or outcome.status in trial_folder.ENDED


def standing(outcome: Outcome) -> list[Any]:
    """What the ledger compares: it changes whenever the store may lack something of the trial."""
    # The pictures of a trial are drawn after its end.
    sizes = [_size(outcome.folder.path / name) for name in ARTIFACTS] if outcome.status in trial_folder.ENDED else []
    return [outcome.status, outcome.cause, outcome.attempts, outcome.written, sizes]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def first_attempt(outcome: Outcome) -> float:
    """When the trial's first attempt began, in seconds; 0 before it."""
    return outcome.history[0].time if outcome.history else 0.0


def start_time(outcome: Outcome, sweep: Sweep) -> int:
    """When the trial last began at step 0, in ms; the time of the sweep if it never did."""
    return milliseconds(next((each.time for each in reversed(outcome.history) if each.start == 0), sweep.created))


def end_time(outcome: Outcome, sweep: Sweep) -> int:
    """When the trial wrote its result, its failure, or else its last record, in ms."""
    if outcome.result:
        return milliseconds(outcome.result["finished"])
    block = journal.latest_block(outcome.folder.journal)
    times = [each.time for each in outcome.history] + ([block.time] if block else [])
    return milliseconds(max([outcome.written or sweep.created, *times]))


def params(outcome: Outcome) -> dict[str, str]:
    """The config, with the values used in place of `auto`; empty before they are fixed. A range test has no max_lr."""
    if not outcome.resolved:
        return {}
    config = {key: value for key, value in outcome.config.items() if key not in NOT_PARAMS}
    used = {key: outcome.resolved[key] for key in RESOLVED_PARAMS if outcome.resolved.get(key) is not None}
    return as_params(flat(config) | used)


def tags(outcome: Outcome, sweep: Sweep) -> dict[str, str]:
    """The tags by which the trial's run can be searched for and grouped."""
    result, varies = outcome.result, outcome.entry.varies
    return as_tags(
        {
            "kind": outcome.entry.kind,
            "policy": varies.get("policy"),
            **{group: varies.get(group, sweep.choices.get(group)) for group in ("data", "model")},
            "signature": outcome.entry.signature,
            "status": outcome.status,
            "cause": outcome.cause,
            "attempts": str(outcome.attempts),
            **(outcome.history[-1].place if outcome.history else {}),
            "reused": "true" if outcome.entry.reused else None,
            "max_lr_from": outcome.resolved.get("max_lr_from"),
            "verdict": result.get("verdict", {}).get("word"),
            "warnings": "\n".join(result.get("warnings", ())),
        }
    )


def batches(outcome: Outcome, sweep: Sweep, start: int = 0, first_size: int = BATCH) -> Iterator[list[Point]]:
    """The points from step `start` on that no later attempt can repeat, then the figures of the result.

    Of a training's steps there are those that the sweep's `tracking_every` leaves, the first and the last. The first
    batch has at most `first_size` points.
    """
    stop = sys.maxsize if outcome.result else journal.durable(outcome.history)
    is_thinned = sweep.tracking_every > 1 and outcome.entry.kind == TRAIN
    if is_thinned and not outcome.result:
        # The last step of all is shipped, so the last durable one waits until the result tells whether it is that.
        stop -= 1
    blocks = journal.blocks(outcome.folder.journal, outcome.history, start, stop)
    if is_thinned:
        blocks = _thinned(blocks, sweep.tracking_every, outcome.result.get("steps", 0) - 1)
    return in_batches(blocks, _figures(outcome, sweep), first_size=first_size)


def _thinned(blocks: Iterable[Block], every: int, last: int) -> Iterator[Block]:
    """Blocks whose series of all steps have only the multiples of `every`, and the last step."""
    for block in blocks:
        if rest := {name: values for name, values in block.metrics.items() if name not in PER_STEP}:
            yield replace(block, metrics=rest)
        whole = replace(block, metrics={name: values for name, values in block.metrics.items() if name in PER_STEP})
        for step in range(whole.step, whole.end):
            if step % every == 0 or step == last:
                yield whole.between(step, step + 1)


def config_file(outcome: Outcome) -> str:
    """The trial's config.yaml without credentials."""
    config = dict(outcome.config)
    if "uri" in (tracking := config.get("tracking", {})):
        config["tracking"] = tracking | {"uri": address(tracking["uri"])}
    return redacted(yaml.dump(config, Dumper=DUMPER, sort_keys=False))


def artifacts(outcome: Outcome) -> list[Path]:
    """The other files of an ended trial that its run gets."""
    return [path for name in ARTIFACTS if (path := outcome.folder.path / name).exists()]


def _figures(outcome: Outcome, sweep: Sweep) -> list[Point]:
    """The end metrics, all at step 0: MLflow's charts show such metrics as bars, one for each run."""
    if not outcome.result:
        return []
    figures = outcome.metrics | {"steps_to_target": _with_evaluations(outcome).steps_to_target}
    time = end_time(outcome, sweep)
    return [Point(0, name, storable(value), time) for name, value in figures.items() if value is not None]


def _with_evaluations(outcome: Outcome) -> Outcome:
    """The outcome with the headline measure of each evaluation, read block by block: a journal may be long."""
    if outcome.entry.target is None:
        return outcome
    steps: list[int] = []
    values: list[float] = []
    for block in journal.blocks(outcome.folder.journal, outcome.history):
        found = block.metrics.get(outcome.headline.val, ())
        steps += range(block.step, block.step + len(found))
        values += found
    return replace(outcome, evaluations={outcome.headline.val: Series(tuple(steps), tuple(values))})


def dataset(outcome: Outcome, sweep: Sweep) -> dict[str, str] | None:
    """The trial's data as MLflow lists a run's data sets, without loading any; None where it has none of its own.

    The digest is the fingerprint that counts for the trial's signature; the profile has the numbers of samples.
    """
    config = outcome.config
    if not (digest := config.get("needs", {}).get("data")) or "data" not in config:
        return None
    source = {"uri": config["data"].get("path") or config["data"].get("_target_", "")}
    return {
        "name": outcome.entry.varies.get("data", sweep.choices.get("data", "data")),
        "digest": digest,
        "source_type": "local",
        "source": redacted(json.dumps(source)),
        "profile": json.dumps(outcome.resolved.get("data", {})),
    }


def sweep_name(sweep: Sweep) -> str:
    """The name of a sweep's run: `fashion_mnist, simple_cnn: 4 policies x 3 seeds`."""
    about = ", ".join(sweep.choices[group] for group in ("data", "model", "loop") if group in sweep.choices)
    trained = [entry for entry in sweep.trials if entry.kind == TRAIN]
    policies, groups = {entry.varies["policy"] for entry in trained}, {entry.group for entry in trained}
    seeds = len({entry.varies["seed"] for entry in trained})
    if not about:
        return f"sweep {sweep.id}"
    if not trained:
        return f"{about}: {_counted(len(sweep.trials), 'range test')}"
    what = next(iter(policies)) if len(policies) == 1 else f"{len(policies)} policies"
    settings = f" in {len(groups)} settings" if len(groups) > len(policies) else ""
    return f"{about}: {what}{settings} x {_counted(seeds, 'seed')}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    """The tags that all runs of a sweep share."""
    commit = sweep.git_commit or ""
    return as_tags(
        {
            "sweep": sweep.id,
            "git_commit": commit,
            "mlflow.source.git.commit": commit.removesuffix("-dirty"),
            "mlflow.source.name": "onecycle-sweeps",
            "mlflow.user": _user(),
        }
    )


def sweep_description(sweep: Sweep) -> str:
    """What a sweep's page shows until there is a report: its trials by kind, and the command."""
    kinds = [entry.kind for entry in sweep.trials]
    counts = ", ".join(f"{kinds.count(kind)} x {kind.replace('_', ' ')}" for kind in dict.fromkeys(kinds))
    return shortened(f"{counts}\n\n```\n{' '.join(sweep.command)}\n```", TAG_LENGTH)


def sweep_status(outcomes: Sequence[Outcome]) -> str:
    """The MLflow status of a sweep: whether its trials run or wait, else the worst of their ends."""
    found = {MLFLOW_STATUS[outcome.status] for outcome in outcomes}
    return next((word for word in ("RUNNING", "SCHEDULED", "FAILED", "KILLED") if word in found), "FINISHED")


def sweep_end(outcomes: Sequence[Outcome]) -> int:
    """When the last of the trials ended, in ms."""
    return milliseconds(max((outcome.written or 0.0 for outcome in outcomes), default=0.0))


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def milliseconds(seconds: float) -> int:
    """A time in MLflow's unit."""
    return round(seconds * 1000)


def storable(value: float) -> float:
    """The value, or NaN if it is infinite: MLflow would store 1.8e308, which ruins the scale of a chart."""
    return float(value) if math.isfinite(value) else math.nan


def shortened(text: str, limit: int) -> str:
    """A text without credentials, and with a note of its length where it had to be cut."""
    text = redacted(text)
    note = f" [... shortened from {len(text)} characters]"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values by their dotted keys, written as JSON unless they are texts."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(values).items()}
    return {re.sub(r"[^\w\-. :/]", "_", key): shortened(text, PARAM_LENGTH) for key, text in texts.items()}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, with their keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{key}.{rest}": inner for rest, inner in flat(value).items()}
        else:
            found[str(key)] = value
    return found


def as_tags(values: Mapping[str, str | None]) -> dict[str, str]:
    """The tags that have a value."""
    return {key: shortened(value, TAG_LENGTH) for key, value in values.items() if value}


def in_batches(
    blocks: Iterable[Block], figures: Iterable[Point] = (), *, first_size: int = BATCH
) -> Iterator[list[Point]]:
    """The points of blocks in order of steps, then the figures, in batches of whole steps that fit one request.

    The first batch has at most `first_size` points.
    """
    batch, size = list[Point](), first_size
    for points in chain(_in_order(blocks), [figures]):
        batch += points
        while len(batch) > size:
            end = size
            while batch[end - 1].step == batch[end].step:
                end -= 1
            yield batch[:end]
            batch, size = batch[end:], BATCH
    if batch:
        yield batch


def _in_order(blocks: Iterable[Block]) -> Iterator[list[Point]]:
    """The points of blocks in order of steps, sorted together where blocks overlap."""
    group: list[Point] = []
    end = 0
    for block in blocks:
        if block.step >= end:
            yield sorted(group, key=lambda point: point.step)
            group = []
        end = max(end, block.end)
        time = milliseconds(block.time)
        for name, values in block.metrics.items():
            group += [Point(step, name, storable(value), time) for step, value in enumerate(values, block.step)]
    yield sorted(group, key=lambda point: point.step)
