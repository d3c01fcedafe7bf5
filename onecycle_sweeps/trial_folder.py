"""A trial's folder: its records and its lock, and the trial's state and progress, which follow from them."""

import hashlib
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
from onecycle_sweeps.progress import Follower, Progress

WAITING, QUEUED, RUNNING, FINISHED = "waiting", "queued", "running", "finished"
DIVERGED, FAILED, CANCELLED, LOST = "diverged", "failed", "cancelled", "lost"
ENDED = (FINISHED, DIVERGED, FAILED, CANCELLED, LOST)
# The end of an attempt that saved a checkpoint and stopped on request.
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
SET_ASIDE = "the sweep's command moves it away and continues"
WRITTEN_AGAIN = "the sweep's command writes it again"
LOCK_SECONDS = 0.2
# How a YAML file begins: parsing one takes a thousand times as long as comparing its hash.
CHECKSUM = b"# SHA-256 of what follows: "
# PyYAML's loader and dumper in Python take ten times as long.
LOADER, DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ROOT, UNMAPPED = 0, 65534


class Busy(Exception):
    """Another process is working on the trial."""


class Superseded(Exception):
    """A later attempt has taken over the trial."""


class EarlierVersion(UnknownFormat):
    """The records have no format: they can be read, but neither continued nor reused."""


@dataclass(frozen=True)
class TrialState:
    """A trial's status at one moment; reading it for all trials of a sweep every second is cheap enough.

    cause: why the trial failed or is lost.
    result: empty before there is one.
    is_unreadable: whether the trial is lost because a record is unreadable.
    """

    status: str
    cause: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict, compare=False)
    is_unreadable: bool = field(default=False, compare=False)

    @property
    def has_result(self) -> bool:
        return self.status in (FINISHED, DIVERGED)


class TrialFolder:
    """`RUNS_DIR/<signature>`, through which a trial's records are read and written.

    It is all that processes, machines and later commands share of a trial.
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

    # The state and the progress, from the records

    def state(self) -> TrialState:
        """The trial's state, from its result, or else its lock, its cancellation, its job and how it last ended.

        A trial with an unreadable record is lost, and the cause names the file.
        """
        try:
            return files.steadily(self.path, self._state)
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
        # The trial may have ended since its result was read.
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
            return TrialState(WAITING, job.get("cause") or (attempts[-1].cause if attempts else None))
        if attempts[-1].end == FAILED:
            return TrialState(FAILED, attempts[-1].cause)
        return TrialState(
            LOST, f"attempt {attempts[-1].number} on {attempts[-1].host} ended without recording a result or a reason"
        )

    def checked_result(self) -> Mapping[str, Any]:
        """The result, empty if there is none; raises Unreadable if a record that belongs to it is missing or damaged.

        Of the journal only the head and the last block are checked.
        """
        if (result := self.result()) is None:
            return {}
        files.once_whole(self.path, lambda: self._check_records_of(result))
        self.check_config()
        return result

    def _check_records_of(self, result: Mapping[str, Any]) -> None:
        end = journal.end_of_attempt(self.journal, result["attempt"])
        if end is None:
            raise Damaged(f"the journal in {self.journal} is damaged: attempt {result['attempt']} is missing or empty")
        if end < result["steps"]:
            raise Damaged(f"the journal in {self.journal} is damaged: it ends at step {end} of {result['steps']}")
        if self.resolved() is None:
            raise Damaged(f"{self.path / 'resolved.json'}, the record of the result's rate and code, is missing")

    def unusable(self) -> Unreadable | None:
        """Why the records of earlier attempts cannot be reused or continued; None if they can."""
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

    def is_of_earlier_version(self) -> bool:
        """Whether an earlier version of the program, which wrote no formats, has recorded the trial."""
        try:
            for name in ("result.json", "resolved.json"):
                if read := files.read_json_with_format(self.path / name):
                    return read[0] == 0
            return any(attempt.format == 0 for attempt in journal.attempts(self.journal))
        except Unreadable:
            return False

    def will_start_again(self) -> bool:
        """Whether a training that was stopped has taken steps, and has saved nothing to go on from."""
        return self.state().status == WAITING and not self.checkpoint.exists() and self.progress() is not None

    def progress(self) -> Progress | None:
        """How far a running trial is; None before its first block of steps, and if a record is unreadable."""
        try:
            return self.follower().progress()
        except Unreadable:
            return None

    def follower(self) -> Follower:
        """Follows how far the trial is, without reading its whole journal each time."""
        return Follower(self.journal, self.resolved)

    def is_done(self, config: dict[str, Any]) -> bool:
        """Whether the trial has its result and, if the config asks for it, its model."""
        model = config["save_model"] and config["task"] == "train"
        return self.result() is not None and (not model or (self.path / "model.pt").exists())

    def is_cancelled(self) -> bool:
        """Whether the user cancelled the trial and has not started it again."""
        return (self.path / "cancel.json").exists()

    # The records

    def config(self) -> dict[str, Any]:
        """The trial's config as asked; raises Unreadable if it is missing or damaged."""
        try:
            return _read_yaml(self.path / "config.yaml")
        except Damaged as error:
            raise Replaceable(str(error), WRITTEN_AGAIN) from error

    def check_config(self) -> None:
        """Raise what `config` raises; a file is read again only after it has changed."""
        try:
            found = (self.path / "config.yaml").stat()
        except OSError:
            self.config()
        else:
            _check_config(self.path, found.st_ino, found.st_size, found.st_mtime_ns)

    @property
    def needs_hydra(self) -> bool:
        """Whether Hydra's config asks for more than running the trial, such as callbacks or an environment."""
        return (self.path / "hydra.yaml").exists()

    def hydra(self) -> dict[str, Any]:
        """Hydra's own config of the trial's job; raises PermissionError for one that another user wrote."""
        check_owner(self.path / "hydra.yaml")
        return _read_yaml(self.path / "hydra.yaml")

    def resolved(self) -> dict[str, Any] | None:
        """What the first attempt fixed, such as rate, precision, device and versions; None before it."""
        found = files.read_json(path := self.path / "resolved.json", RESOLVED)
        try:
            measures.of_trial(found)
        except ValueError as error:
            raise Damaged(f"{path} is damaged ({error})") from error
        return found

    def max_lr(self) -> float | None:
        """The rate that the first attempt fixed; None before it, and if the record is unreadable."""
        return _or_empty(self.resolved).get("max_lr")

    def headline(self) -> Measure:
        """The measure that the trial is judged by; accuracy before the first attempt, and if it is unreadable."""
        return measures.of_trial(_or_empty(self.resolved))[0]

    def result(self) -> dict[str, Any] | None:
        """The trial's result; None while there is none."""
        if (result := files.read_json(path := self.path / "result.json", RESULT)) is None:
            return None
        if result["status"] not in (FINISHED, DIVERGED):
            raise Damaged(f"{path} is damaged (no whole 'status')")
        if not all(isinstance(value, (int, float)) for value in result["metrics"].values()):
            raise Damaged(f"{path} is damaged (no whole 'metrics')")
        return result

    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt failed; None if it did not fail."""
        return self._read_replaceable("failure.json", FAILURE)

    def last_failure(self) -> dict[str, Any]:
        """The record `failure`, empty if there is none or it is unreadable."""
        return _or_empty(self.failure)

    def job(self) -> dict[str, Any] | None:
        """The trial's latest job on a cluster, with its last known status; None if there was none."""
        return self._read_replaceable("job.json", JOB)

    def last_job(self) -> dict[str, Any]:
        """The record `job`, empty if there is none or it is unreadable."""
        return _or_empty(self.job)

    def _read_replaceable(self, name: str, fields: Fields) -> dict[str, Any] | None:
        try:
            return files.read_json(self.path / name, fields)
        except Damaged as error:
            raise Replaceable(str(error), SET_ASIDE) from error

    def _formats(self) -> set[int]:
        """The formats of the existing records of attempts and of their result."""
        found = {attempt.format for attempt in journal.attempts(self.journal)}
        for name, fields in (("resolved.json", RESOLVED), ("result.json", RESULT)):
            if read := files.read_json_with_format(self.path / name, fields):
                found.add(read[0])
        return found

    def create(self, config: dict[str, Any], hydra: dict[str, Any] | None = None) -> None:
        """Make the folder, and write config.yaml and, with a `hydra` config, hydra.yaml."""
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
        """Replace NAME.json as `put` does."""
        self.put(f"{name}.json", files.to_json(data), attempt)

    def put(self, name: str, content: str | memoryview, attempt: int | None) -> None:
        """Replace a file; on behalf of an attempt raises Superseded, and keeps the file, if a later one has begun.

        An attempt that begins between the check and the replacement removes the temporary file.
        """

        def check() -> None:
            if attempt is not None:
                self.check_current(attempt)

        try:
            files.write(self.path / name, content, before_replacing=check)
        except FileNotFoundError:
            check()
            raise

    def remove(self, name: str) -> None:
        """Remove a file of the folder if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def remove_temporary(self) -> None:
        """Remove temporary files of earlier attempts, so that none of them can still replace a file."""
        files.remove_temporary(self.path, WRITTEN_UNDER_LOCK)

    def set_aside(self, names: Collection[str] = LEFT_BY_ATTEMPTS) -> None:
        """Move the files of earlier attempts into a subfolder `before-*`; raises Busy while the trial is running."""
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
        """Set aside damaged files that the trial does not need; returns a message about each."""
        lines = []
        for name, read in (("failure.json", self.failure), ("job.json", self.job)):
            try:
                read()
            except Replaceable as error:
                self.set_aside([name])
                lines.append(f"{error}: it is moved away, and the trial continues")
            except Unreadable:
                pass
        return lines

    # The lock and the attempts

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the trial until the process ends at the latest; raises Busy if another process has locked it."""
        try:
            # `is_locked` takes the lock for an instant, so one failure to get it may mean nothing.
            lock = files.lock(self.path / "lock", seconds=LOCK_SECONDS)
        except files.AlreadyLocked as error:
            raise Busy(f"another process works on {self.path}") from error
        with lock:
            yield

    def break_lock(self) -> None:
        """Take the lock from its process, which notices at its next save that it is superseded."""
        (self.path / "lock").unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether a process is working on the trial."""
        return files.is_locked(self.path / "lock")

    def attempts(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return max((int(path.stem) for path in journal.attempt_files(self.journal)), default=0)

    def check_current(self, attempt: int) -> None:
        """Raise Superseded if there is a later attempt than this one."""
        if (newest := self.attempts()) > attempt:
            raise Superseded(f"attempt {newest} has taken over from attempt {attempt} in {self.path}")


def check_owner(path: Path) -> None:
    """Raise PermissionError if another user owns a file that decides which code is run.

    Files owned by root or by an unmapped uid, as on some shared file systems, are allowed.
    """
    if not is_own(path):
        owner = path.stat().st_uid
        raise PermissionError(f"{path} decides which code is run, and belongs to user {owner}: use your own runs_dir")


def is_own(path: Path) -> bool:
    """Whether a file or folder is this user's, as far as can be told; also if there is none."""
    try:
        return path.stat().st_uid in (os.geteuid(), ROOT, UNMAPPED)
    except FileNotFoundError:
        return True


def _or_empty(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """A record's content; empty if there is none or it is unreadable."""
    try:
        return read() or {}
    except Unreadable:
        return {}


def _read_yaml(path: Path) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        if (data := files.read_bytes(path)) is None:
            raise Damaged(f"{path} is missing")
        try:
            content = yaml.load(data, Loader=LOADER)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise Damaged(f"{path} is damaged (not YAML)") from error
        found = files.split_format(path, content)[1]
        if _sum_is_right(data) is False:
            raise Damaged(f"{path} is damaged (its checksum does not match)")
        return found

    return files.once_whole(path.parent, read)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    data = yaml.dump(files.with_format(content), Dumper=DUMPER, sort_keys=False).encode()
    files.write(path, CHECKSUM + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def _sum_is_right(data: bytes) -> bool | None:
    """Whether the content of a YAML file has the checksum in its first line; None if it has none."""
    head, _, rest = data.partition(b"\n")
    if not head.startswith(CHECKSUM):
        return None
    return head == CHECKSUM + hashlib.sha256(rest).hexdigest().encode()


@cache
def _check_config(path: Path, *_: int) -> None:
    data = files.read_bytes(path / "config.yaml") or b""
    is_known = data.partition(b"\n")[2].startswith(f"format: {files.FORMAT}\n".encode())
    if not (is_known and _sum_is_right(data)):
        TrialFolder(path).config()
