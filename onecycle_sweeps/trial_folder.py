"""A trial's folder: its records, its lock, and what they say about the trial's state and progress."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onecycle_sweeps import files, journal, measures
from onecycle_sweeps.files import Damaged, Fields, Replaceable, UnknownFormat, Unreadable
from onecycle_sweeps.measures import Measure

WAITING, QUEUED, RUNNING, FINISHED = "waiting", "queued", "running", "finished"
DIVERGED, FAILED, CANCELLED, LOST = "diverged", "failed", "cancelled", "lost"
ENDED = (FINISHED, DIVERGED, FAILED, CANCELLED, LOST)
# The end of an attempt that saved a checkpoint and left when it was asked to.
STOPPED = "stopped"

LEFT_BY_ATTEMPTS = (
    *("journal", "result.json", "job.json", "resolved.json", "failure.json", "checkpoint.pt", "model.pt", "log.txt"),
    *("lr_momentum.png", "range_test.png", "range_test.csv"),
)
# Written only by an attempt that holds the trial's lock.
WRITTEN_UNDER_LOCK = ("result.json", "resolved.json", "failure.json", "checkpoint.pt", "model.pt")
CAUSE: Fields = {"cause": (str, type(None))}
RESULT: Fields = {
    **CAUSE,
    **{"kind": str, "status": str, "metrics": dict, "steps": int, "warnings": list},
    **{"attempt": int, "finished": (int, float)},
}
RESOLVED: Fields = {"max_lr": (int, float, type(None)), "total_steps": int}
FAILURE: Fields = {**CAUSE, "time": (int, float)}
JOB: Fields = {"status": str, "submission": str, "index": int}
SET_ASIDE = "the sweep's command puts it aside and goes on"
WRITTEN_AGAIN = "the sweep's command writes it again"
LOCK_SECONDS = 0.2
# PyYAML's own loader and dumper in Python take ten times as long.
LOADER, DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ROOT, UNMAPPED = 0, 65534


class Busy(Exception):
    """Another process works on the trial at this moment."""


class Superseded(Exception):
    """A later attempt has taken the trial over."""


class EarlierVersion(UnknownFormat):
    """The records have no format: they can be read, but nothing is continued or reused from them."""


@dataclass(frozen=True)
class TrialState:
    """A trial's status at one moment, cheap enough to be read for all trials of a sweep every second.

    `cause` says why it failed or is lost. `result` is empty before there is one. `is_unreadable` says that the trial is
    lost because a record is unreadable.
    """

    status: str
    cause: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict, compare=False)
    is_unreadable: bool = field(default=False, compare=False)

    @property
    def has_result(self) -> bool:
        return self.status in (FINISHED, DIVERGED)


@dataclass(frozen=True)
class Progress:
    """The last step in a running trial's journal, with its rate and loss; `started` and `time` in seconds."""

    step: int
    total_steps: int
    lr: float
    loss: float
    started: float
    first_step: int
    time: float

    @property
    def seconds_left(self) -> float | None:
        """The time left at the attempt's pace so far; None before there is one."""
        done, spent = self.step + 1 - self.first_step, self.time - self.started
        return spent / done * (self.total_steps - self.step - 1) if done > 0 and spent > 0 else None


class TrialFolder:
    """`RUNS_DIR/<signature>`, the only way to a trial's records: whoever runs, ships or shows a trial has its folder.

    A trial that runs on another machine or in a later command is known by nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def signature(self) -> str:
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        return self.path.parent

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def sibling(self, signature: str) -> "TrialFolder":
        """Another trial's folder in the same RUNS_DIR."""
        return TrialFolder(self.runs_dir / signature)

    # What the records say

    def state(self) -> TrialState:
        """The trial's state: by its result, or else its lock, its cancellation, its job, and how it ended last.

        A trial with an unreadable record has no result: it is lost, and the cause names the file.
        """
        try:
            return self._state()
        except Damaged as error:
            return TrialState(LOST, f"{error}: {error.remedy}", is_unreadable=True)
        except Unreadable as error:
            return TrialState(LOST, str(error), is_unreadable=True)

    def _state(self) -> TrialState:
        if result := self.checked_result():
            return TrialState(result["status"], result["cause"], result)
        self.resolved()
        if self.path.exists():
            self.check_config()
        if self.is_locked():
            return TrialState(RUNNING)
        # It may have ended since its result was looked for.
        if result := self.checked_result():
            return TrialState(result["status"], result["cause"], result)
        if self.is_cancelled():
            return TrialState(CANCELLED)
        job = self.job() or {}
        if job.get("status") in (QUEUED, RUNNING):
            return TrialState(job["status"], job.get("cause"))
        if failure := self.failure():
            return TrialState(FAILED, failure["cause"])
        attempts = journal.attempts(self.journal)
        if job.get("status") == LOST:
            return TrialState(LOST, job["cause"])
        if not attempts or attempts[-1].end == STOPPED or job.get("again"):
            return TrialState(WAITING, job.get("cause"))
        if attempts[-1].end == FAILED:
            return TrialState(FAILED, attempts[-1].cause)
        return TrialState(LOST, f"attempt {attempts[-1].number} on {attempts[-1].host} left no result and no reason")

    def checked_result(self) -> Mapping[str, Any]:
        """The result, empty if there is none; raises Unreadable if a record that belongs to it is missing or damaged.

        Of the journal only the first and the last step are looked at: a report reads what lies between.
        """
        if (result := self.result()) is None:
            return {}
        end = journal.end_of_attempt(self.journal, result["attempt"])
        if end is None:
            raise Damaged(f"the journal in {self.journal} is damaged: attempt {result['attempt']} is missing or empty")
        if end < result["steps"]:
            raise Damaged(f"the journal in {self.journal} is damaged: it ends at step {end} of {result['steps']}")
        if self.resolved() is None:
            raise Damaged(f"{self.path / 'resolved.json'} is missing, which tells the rate and the code of the result")
        self.check_config()
        return result

    def unusable(self) -> Unreadable | None:
        """Why nothing that earlier attempts left may be reused or continued; None if it may."""
        try:
            for read in (self.check_config, self.failure, self.job):
                with suppress(Replaceable):
                    read()
            if 0 in self._formats():
                return EarlierVersion(f"{self.path} was recorded by an earlier version of the program")
            with suppress(Replaceable):
                self.checked_result()
        except Unreadable as error:
            return error
        return None

    def progress(self) -> Progress | None:
        """Where a running trial is; None before its first block of steps, and if that is unreadable."""
        try:
            resolved = self.resolved()
            block, attempt = journal.latest_block(self.journal), journal.latest_attempt(self.journal)
        except Unreadable:
            return None
        if not resolved or not block or not attempt:
            return None
        losses = block.metrics[journal.TRAIN_LOSS]
        return Progress(
            step=block.step + len(losses) - 1,
            total_steps=resolved["total_steps"],
            lr=block.metrics[journal.LR][-1],
            loss=losses[-1],
            started=attempt.time,
            first_step=attempt.start,
            time=block.time,
        )

    def is_done(self, config: dict[str, Any]) -> bool:
        """Whether nothing is left to do for this config: there is a result, and the model if it is to be kept."""
        model = config["save_model"] and config["task"] == "train"
        return self.result() is not None and (not model or (self.path / "model.pt").exists())

    def is_cancelled(self) -> bool:
        """Whether the user has cancelled the trial and not asked for it again."""
        return (self.path / "cancel.json").exists()

    # The records

    def config(self) -> dict[str, Any]:
        """The trial's config as asked; raises Unreadable if it is missing or damaged."""
        try:
            return _read_yaml(self.path / "config.yaml")
        except Damaged as error:
            raise Replaceable(str(error), WRITTEN_AGAIN) from error

    def check_config(self) -> None:
        """Raise what `config` raises; a file that was found whole is read again only after it has changed."""
        path = self.path / "config.yaml"
        try:
            found = path.stat()
        except OSError:
            self.config()
        else:
            _check_config(self.path, found.st_ino, found.st_size, found.st_mtime_ns)

    @property
    def needs_hydra(self) -> bool:
        """Whether Hydra's config asks for something around the trial, such as callbacks or an environment."""
        return (self.path / "hydra.yaml").exists()

    def hydra(self) -> dict[str, Any]:
        """Hydra's own config of the trial's job; raises PermissionError for one that another user wrote."""
        check_owner(self.path / "hydra.yaml")
        return _read_yaml(self.path / "hydra.yaml")

    def resolved(self) -> dict[str, Any] | None:
        """What the first attempt fixed: rate, precision, device, versions; None before it."""
        found = files.read_json(path := self.path / "resolved.json", RESOLVED)
        try:
            measures.of_trial(found)
        except ValueError as error:
            raise Damaged(f"{path} is damaged ({error})") from error
        return found

    def max_lr(self) -> float | None:
        """The rate that the first attempt fixed; None before it, and if it is unreadable."""
        return _or_empty(self.resolved).get("max_lr")

    def headline(self) -> Measure:
        """The measure that the trial is judged by; accuracy before the first attempt, and if it is unreadable."""
        return measures.of_trial(_or_empty(self.resolved))[0]

    def result(self) -> dict[str, Any] | None:
        """The trial's result; None while there is none."""
        return files.read_json(self.path / "result.json", RESULT)

    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt failed; None if it did not."""
        return self._read_replaceable("failure.json", FAILURE)

    def last_failure(self) -> dict[str, Any]:
        """The same, but empty if there was none or it is unreadable."""
        return _or_empty(self.failure)

    def job(self) -> dict[str, Any] | None:
        """The trial's latest job on a cluster, and how it was seen last; None if there was none."""
        return self._read_replaceable("job.json", JOB)

    def last_job(self) -> dict[str, Any]:
        """The same, but empty if there was none or it is unreadable."""
        return _or_empty(self.job)

    def _read_replaceable(self, name: str, fields: Fields) -> dict[str, Any] | None:
        try:
            return files.read_json(self.path / name, fields)
        except Damaged as error:
            raise Replaceable(str(error), SET_ASIDE) from error

    def _formats(self) -> set[int]:
        """The formats of the records that exist of attempts and their result."""
        found = {attempt.format for attempt in journal.attempts(self.journal)}
        for name, fields in (("resolved.json", RESOLVED), ("result.json", RESULT)):
            if read := files.read_json_with_format(self.path / name, fields):
                found.add(read[0])
        return found

    def create(self, config: dict[str, Any], hydra: dict[str, Any] | None = None) -> None:
        """Make the folder, and write the trial's config.yaml and, if it has one, its hydra.yaml."""
        self.journal.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        if hydra is None:
            self.remove("hydra.yaml")
        else:
            _write_yaml(self.path / "hydra.yaml", hydra)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the trial's config.yaml."""
        _write_yaml(self.path / "config.yaml", config)

    def write(self, name: str, data: dict[str, Any], *, attempt: int | None = None) -> None:
        """Write NAME.json whole or not at all; with `attempt` as `put` does."""
        content = files.to_json(data)
        if attempt is None:
            files.write(self.path / f"{name}.json", content)
        else:
            self.put(f"{name}.json", content, attempt)

    def put(self, name: str, content: str | memoryview, attempt: int) -> None:
        """Replace a file on behalf of an attempt; raises Superseded, and the file stays, if a later one has begun.

        An attempt that begins between the check and the replacement removes the temporary file.
        """
        try:
            files.write(self.path / name, content, before_replacing=lambda: self.check_current(attempt))
        except FileNotFoundError:
            self.check_current(attempt)
            raise

    def remove(self, name: str) -> None:
        """Remove a file of the folder if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def remove_temporary(self) -> None:
        """Remove the temporary files of earlier attempts, so that one which is still writing cannot replace a file."""
        files.remove_temporary(self.path, WRITTEN_UNDER_LOCK)

    def set_aside(self, names: Collection[str] = LEFT_BY_ATTEMPTS) -> None:
        """Move what earlier attempts left into a subfolder `before-*`; raises Busy while the trial is running."""
        if not self.path.exists():
            return
        with self.lock():
            place = files.temporary_path(self.path / time.strftime("before-%Y%m%d-%H%M%S"))
            place = place.with_name(place.name.removeprefix("."))
            place.mkdir()
            for name in names:
                if (self.path / name).exists():
                    os.replace(self.path / name, place / name)

    def set_aside_damaged(self) -> list[str]:
        """Set aside those damaged files that the trial can go on without; returns a line for each of them."""
        lines = []
        for name, read in (("failure.json", self.failure), ("job.json", self.job)):
            try:
                read()
            except Replaceable as error:
                self.set_aside([name])
                lines.append(f"{error}: it is put aside, and the trial goes on")
            except Unreadable:
                pass
        return lines

    # The lock and the attempts

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the trial; raises Busy if another process holds it. The lock ends with its process."""
        try:
            # `is_locked` holds the lock for an instant, so a first refusal may mean nothing.
            lock = files.lock(self.path / "lock", seconds=LOCK_SECONDS)
        except files.AlreadyLocked as error:
            raise Busy(f"another process works on {self.path}") from error
        with lock:
            yield

    def break_lock(self) -> None:
        """Take the lock from its holder, who finds out at its next save that it is superseded."""
        (self.path / "lock").unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether a process works on the trial at this moment."""
        return files.is_locked(self.path / "lock")

    def attempts(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return max((int(path.stem) for path in journal.attempt_files(self.journal)), default=0)

    def check_current(self, attempt: int) -> None:
        """Raise Superseded if there is a later attempt than this one."""
        if (newest := self.attempts()) > attempt:
            raise Superseded(f"attempt {newest} has taken over from attempt {attempt} in {self.path}")


def check_owner(path: Path) -> None:
    """Raise PermissionError for a file that says what code is run and belongs to another user.

    Files owned by root or by an unmapped uid, as on some shared file systems, are allowed.
    """
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        return
    if owner not in (os.geteuid(), ROOT, UNMAPPED):
        raise PermissionError(f"{path} says what code is run, and belongs to user {owner}: take a runs_dir of your own")


def _or_empty(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """A record's content; empty if there is none or it is unreadable."""
    try:
        return read() or {}
    except Unreadable:
        return {}


def _read_yaml(path: Path) -> dict[str, Any]:
    if (data := files.read_bytes(path)) is None:
        raise Damaged(f"{path} is missing")
    try:
        content = yaml.load(data, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged (no YAML)") from error
    return files.split_format(path, content)[1]


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    files.write(path, yaml.dump(files.with_format(content), Dumper=DUMPER, sort_keys=False))


@cache
def _check_config(path: Path, *_: int) -> None:
    TrialFolder(path).config()
