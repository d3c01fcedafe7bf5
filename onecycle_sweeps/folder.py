"""A trial's folder: the names of its files, its lock, and JSON that is either whole or absent."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

ATTEMPTS_LEAVE = (
    *("journal", "result.json", "resolved.json", "failure.json", "checkpoint.pt", "model.pt", "log.txt"),
    *("lr_momentum.png", "range_test.png", "range_test.csv"),
)
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
        write_atomically(self.path / "config.yaml", yaml.dump(config, Dumper=DUMPER, sort_keys=False))
        if hydra is None:
            self.remove("hydra.yaml")
        else:
            write_atomically(self.path / "hydra.yaml", yaml.dump(hydra, Dumper=DUMPER, sort_keys=False))

    def put_aside(self) -> None:
        """Move what earlier attempts left into a folder of its own; raises Busy while the trial is at work."""
        if not self.path.exists():
            return
        with self.lock():
            place = self.path / f"before-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            place.mkdir()
            for name in ATTEMPTS_LEAVE:
                if (self.path / name).exists():
                    os.replace(self.path / name, place / name)

    def done(self, config: dict[str, Any]) -> bool:
        """Whether there is nothing left to do for this config: a result, and the model where it is to be kept."""
        model = config["save_model"] and config["task"] == "train"
        return self.result() is not None and (not model or (self.path / "model.pt").exists())

    def config(self) -> dict[str, Any]:
        """The trial's config as asked."""
        return yaml.load((self.path / "config.yaml").read_text(), Loader=LOADER)

    @property
    def is_hydras(self) -> bool:
        """Whether Hydra's config asks for something around the trial, such as callbacks or an environment."""
        return (self.path / "hydra.yaml").exists()

    def hydra(self) -> dict[str, Any]:
        """Hydra's own config of the trial's job."""
        return yaml.load((self.path / "hydra.yaml").read_text(), Loader=LOADER)

    def resolved(self) -> dict[str, Any] | None:
        """What the first attempt fixed: rate, precision, device, versions; None before it."""
        return read_json(self.path / "resolved.json")

    def result(self) -> dict[str, Any] | None:
        """What the trial came to; None while it has not."""
        return read_json(self.path / "result.json")

    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt failed; None if it did not."""
        return read_json(self.path / "failure.json")

    def job(self) -> dict[str, Any] | None:
        """The job that a cluster was given last for the trial, and how it was seen last; None if there was none."""
        return read_json(self.path / "job.json")

    def is_cancelled(self) -> bool:
        """Whether its user wants no attempt at it, until the trial is asked for again."""
        return (self.path / "cancel.json").exists()

    def write(self, name: str, data: dict[str, Any]) -> None:
        """Write NAME.json whole or not at all."""
        write_json(self.path / f"{name}.json", data)

    def remove(self, name: str) -> None:
        """Remove a file of the folder if it is there, and what killed writers left of it."""
        for path in (self.path / name, *self.path.glob(f".{name}.*")):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the trial; raises Busy when another process holds it. The lock ends with its process."""
        with (self.path / "lock").open("a") as file:
            # Whoever looks whether the trial is at work holds the lock for an instant.
            deadline = time.monotonic() + LOOK_SECONDS
            while not _try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise Busy(f"another process works on {self.path}")
                time.sleep(LOOK_SECONDS / 10)
            yield

    def seize(self) -> None:
        """Take the lock's place from its holder, who is to find out at its next save that it is superseded."""
        (self.path / "lock").unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether a process works on the trial at this moment."""
        try:
            with (self.path / "lock").open("r") as file:
                return not _try_lock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def attempts(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return max((int(path.stem) for path in self.journal.glob("[0-9]*.jsonl")), default=0)

    def check_current(self, attempt: int) -> None:
        """Raise Superseded if there is a later attempt than this one."""
        if (newest := self.attempts()) > attempt:
            raise Superseded(f"attempt {newest} has taken over from attempt {attempt} in {self.path}")


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


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a durable new version of it: a reader sees the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace a JSON file, whole or not at all."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content; None where there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
