"""A trial's folder: the names of its files and its lock."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from onecycle_sweeps import files
from onecycle_sweeps.files import Damaged, Fields, Replaceable, Unreadable

ATTEMPTS_LEAVE = (
    *("journal", "result.json", "job.json", "resolved.json", "failure.json", "checkpoint.pt", "model.pt", "log.txt"),
    *("lr_momentum.png", "range_test.png", "range_test.csv"),
)
# What only an attempt writes, which holds the trial's lock.
OF_AN_ATTEMPT = ("result.json", "resolved.json", "failure.json", "checkpoint.pt", "model.pt")
CAUSE: Fields = {"cause": (str, type(None))}
RESULT: Fields = {
    **CAUSE,
    **{"kind": str, "status": str, "metrics": dict, "steps": int, "warnings": list},
    **{"attempt": int, "finished": (int, float)},
}
RESOLVED: Fields = {"max_lr": (int, float, type(None)), "total_steps": int}
FAILURE: Fields = {**CAUSE, "time": (int, float)}
JOB: Fields = {"status": str, "submission": str, "index": int}
# What a trial goes on without where it is damaged: who runs it next replaces it.
SPARE = ("failure.json", "job.json")
PUT_ASIDE, WRITTEN_AGAIN = "the sweep's command puts it aside and goes on", "the sweep's command writes it again"
LOOK_SECONDS = 0.2
# PyYAML's own in Python take ten times as long.
LOADER, DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
ROOT, UNKNOWN = 0, 65534


class Busy(Exception):
    """Another process works on the trial at this moment."""


class Superseded(Exception):
    """A later attempt has taken the trial over."""


class TrialFolder:
    """`RUNS_DIR/<signature>`; each property is one of the files that DESIGN and README name."""

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

    def create(self, config: dict[str, Any], hydra: dict[str, Any] | None = None) -> None:
        """Make the folder with the trial's config.yaml, and hydra.yaml if there is one, as they were asked for last."""
        self.journal.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        if hydra is None:
            self.remove("hydra.yaml")
        else:
            files.write(self.path / "hydra.yaml", yaml.dump(files.with_format(hydra), Dumper=DUMPER, sort_keys=False))

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the trial's config.yaml."""
        files.write(self.path / "config.yaml", yaml.dump(files.with_format(config), Dumper=DUMPER, sort_keys=False))

    def put_aside(self, names: Collection[str] = ATTEMPTS_LEAVE) -> None:
        """Move what earlier attempts left into a folder of its own; raises Busy while the trial is at work."""
        if not self.path.exists():
            return
        with self.lock():
            place = files.temporary_path(self.path / time.strftime("before-%Y%m%d-%H%M%S"))
            place = place.with_name(place.name.removeprefix("."))
            place.mkdir()
            for name in names:
                if (self.path / name).exists():
                    os.replace(self.path / name, place / name)

    def done(self, config: dict[str, Any]) -> bool:
        """Whether there is nothing left to do for this config: a result, and the model where it is to be kept."""
        model = config["save_model"] and config["task"] == "train"
        return self.result() is not None and (not model or (self.path / "model.pt").exists())

    def config(self) -> dict[str, Any]:
        """The trial's config as asked; raises Unreadable where it is missing or damaged."""
        try:
            return _yaml(self.path / "config.yaml")
        except Damaged as error:
            raise Replaceable(str(error), WRITTEN_AGAIN) from error

    def check_config(self) -> None:
        """Raise what `config` raises; a file that was found whole is read again only once it is another."""
        path = self.path / "config.yaml"
        try:
            found = path.stat()
        except OSError:
            self.config()
        else:
            _check_config(self.path, found.st_ino, found.st_size, found.st_mtime_ns)

    @property
    def is_hydras(self) -> bool:
        """Whether Hydra's config asks for something around the trial, such as callbacks or an environment."""
        return (self.path / "hydra.yaml").exists()

    def hydra(self) -> dict[str, Any]:
        """Hydra's own config of the trial's job; raises PermissionError for one that another user wrote."""
        check_mine(self.path / "hydra.yaml")
        return _yaml(self.path / "hydra.yaml")

    def resolved(self) -> dict[str, Any] | None:
        """What the first attempt fixed: rate, precision, device, versions; None before it."""
        return files.read_json(self.path / "resolved.json", RESOLVED)

    def max_lr(self) -> float | None:
        """The rate that the first attempt fixed; None before it, and where that cannot be read."""
        return _or_empty(self.resolved).get("max_lr")

    def result(self) -> dict[str, Any] | None:
        """What the trial came to; None while it has not."""
        return files.read_json(self.path / "result.json", RESULT)

    def formats(self) -> set[int]:
        """The formats of what the trial fixed and came to, as far as it has."""
        found = (
            files.read_json_with_format(self.path / name, fields)
            for name, fields in (("resolved.json", RESOLVED), ("result.json", RESULT))
        )
        return {each[0] for each in found if each}

    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt failed; None if it did not."""
        return self._spare("failure.json", FAILURE)

    def last_failure(self) -> dict[str, Any]:
        """The same, empty where there was none, and where it cannot be read."""
        return _or_empty(self.failure)

    def job(self) -> dict[str, Any] | None:
        """The job that a cluster was given last for the trial, and how it was seen last; None if there was none."""
        return self._spare("job.json", JOB)

    def last_job(self) -> dict[str, Any]:
        """The same, empty where there was none, and where it cannot be read."""
        return _or_empty(self.job)

    def _spare(self, name: str, fields: Fields) -> dict[str, Any] | None:
        try:
            return files.read_json(self.path / name, fields)
        except Damaged as error:
            raise Replaceable(str(error), PUT_ASIDE) from error

    def put_spare_aside(self) -> list[str]:
        """Move what is damaged of what the trial goes on without; returns a line on each such file."""
        found = []
        for name, read in zip(SPARE, (self.failure, self.job), strict=True):
            try:
                read()
            except Replaceable as error:
                self.put_aside([name])
                found.append(f"{error}: it is put aside, and the trial goes on")
            except Unreadable:
                pass
        return found

    def is_cancelled(self) -> bool:
        """Whether its user wants no attempt at it, until the trial is asked for again."""
        return (self.path / "cancel.json").exists()

    def write(self, name: str, data: dict[str, Any], *, attempt: int | None = None) -> None:
        """Write NAME.json whole or not at all; for an attempt as `put` does."""
        content = files.to_json(data)
        if attempt is None:
            files.write(self.path / f"{name}.json", content)
        else:
            self.put(f"{name}.json", content, attempt)

    def put(self, name: str, content: str | memoryview, attempt: int) -> None:
        """Replace a file of an attempt's; raises Superseded, and the file stays, if a later attempt has begun.

        One that begins after the check, and before the file is replaced, removes what is to replace it.
        """
        try:
            files.write(self.path / name, content, before_replacing=lambda: self.check_current(attempt))
        except FileNotFoundError:
            self.check_current(attempt)
            raise

    def remove(self, name: str) -> None:
        """Remove a file of the folder if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def remove_temporary(self) -> None:
        """Remove what earlier attempts were writing: one that still wants to put it in place finds it gone."""
        files.remove_temporary(self.path, OF_AN_ATTEMPT)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the trial; raises Busy when another process holds it. The lock ends with its process."""
        try:
            # Whoever looks whether the trial is at work holds the lock for an instant.
            held = files.lock(self.path / "lock", seconds=LOOK_SECONDS)
        except files.AlreadyLocked as error:
            raise Busy(f"another process works on {self.path}") from error
        with held:
            yield

    def seize(self) -> None:
        """Take the lock's place from its holder, who is to find out at its next save that it is superseded."""
        (self.path / "lock").unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether a process works on the trial at this moment."""
        return files.is_locked(self.path / "lock")

    def attempts(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        found = (path.stem for path in self.journal.glob("[0-9]*.jsonl"))
        return max((int(stem) for stem in found if stem.isdecimal()), default=0)

    def check_current(self, attempt: int) -> None:
        """Raise Superseded if there is a later attempt than this one."""
        if (newest := self.attempts()) > attempt:
            raise Superseded(f"attempt {newest} has taken over from attempt {attempt} in {self.path}")


def _or_empty(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What a record holds; nothing where there is none, or it cannot be read."""
    try:
        return read() or {}
    except Unreadable:
        return {}


def _yaml(path: Path) -> dict[str, Any]:
    if (data := files.read_bytes(path)) is None:
        raise Damaged(f"{path} is missing")
    try:
        content = yaml.load(data, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged (no YAML)") from error
    return files.split_format(path, content)[1]


@cache
def _check_config(path: Path, *_: int) -> None:
    TrialFolder(path).config()


def check_mine(path: Path) -> None:
    """Raise PermissionError for a file that says what code is run and was written by another user.

    Root is none, and neither is an owner whom this machine does not know, as on some shared file systems.
    """
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        return
    if owner not in (os.geteuid(), ROOT, UNKNOWN):
        raise PermissionError(f"{path} says what code is run, and belongs to user {owner}: take a runs_dir of your own")
