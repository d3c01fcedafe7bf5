"""A sweep: its command, its trials and their names, and its folder with sweep.json."""

import hashlib
import json
import os
import shlex
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from onecycle_sweeps import files
from onecycle_sweeps.config import preset
from onecycle_sweeps.config.preset import Published
from onecycle_sweeps.config.schema import PROBE, RANGE_TEST, TRAIN, Config
from onecycle_sweeps.credentials import without_logins
from onecycle_sweeps.files import Damaged, Unreadable
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.trial_folder import TrialFolder

# The groups that say what is trained on what, and the keys that a trial's name has at its beginning or its end.
NAMED_GROUPS = ("data", "model", "loop")
NAMED_APART = ("policy", "recipe", "seed")

Group = tuple[tuple[str, str], ...]
# All overrides of a request.
Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One trial as sweep.json lists it, from which a report names it and finds its folder.

    `Trial` cannot replace it: a name depends on the other trials of the sweep, and a report has only what is on disk.

    varies: the overrides that distinguish it from the other trials, in the order of its name.
    needs: the signature of the probe or range test that finds its rate.
    reused: whether its result is from before the sweep.
    also: the names of other groups whose overrides ask for the same trial.
    """

    signature: str
    kind: str
    varies: dict[str, str]
    needs: str | None = None
    target: float | None = None
    reused: bool = False
    also: tuple[str, ...] = ()

    @property
    def group(self) -> Group:
        """The overrides that trials are compared by: all that vary, except the seed."""
        return tuple((key, value) for key, value in self.varies.items() if key != "seed")

    def name(self, max_lr: float | None) -> str:
        """The trial's name, as in a legend: `onecycle max_lr=0.8 seed=0`; before it has a rate, with what was typed."""
        if self.kind == RANGE_TEST:
            return " ".join(["range test", *(f"{k}={v}" for k, v in self.varies.items())])
        if self.kind == PROBE:
            return " ".join(["probe", *(v if k == "policy" else f"{k}={v}" for k, v in self.varies.items())])
        rest = [f"{k}={v}" for k, v in self.varies.items() if k not in ("policy", "max_lr", "policy.max_lr")]
        typed = self.varies.get("policy.max_lr", self.varies.get("max_lr"))
        shown = typed if max_lr is None else f"{max_lr:.3g}"
        rate = [] if shown is None else [f"max_lr={shown}"]
        return " ".join([self.varies["policy"], *rate, *rest])


@dataclass(frozen=True)
class Sweep:
    """The trials of one command, and how it was called.

    single: whether the command was without -m, so that its run has no parent.
    published: the results that a preset is compared with.
    launcher: the keys of hydra.launcher.
    sequential: whether the sweeper chose trials by the results of earlier ones.
    tracking_every: of how many steps of a training one is in MLflow.
    ui_uri: the tracking server's address for browsers, if it is not tracking_uri.
    choices: the names of its data sets and of its models, as their groups have them.
    """

    id: str
    runs_dir: Path
    command: tuple[str, ...]
    cwd: str
    created: float
    git_commit: str | None
    tracking_uri: str
    experiment: str
    single: bool
    trials: tuple[Entry, ...]
    published: Published | None = None
    launcher: dict[str, Any] | None = None
    sequential: bool = False
    tracking_every: int = 1
    ui_uri: str | None = None
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.runs_dir / "sweeps" / self.id

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def command_line(self) -> str:
        """The command for a shell, without the logins in its URIs."""
        return without_logins(f"python -m onecycle_sweeps {shlex.join(self.command)}".strip())

    def trial(self, signature: str) -> TrialFolder:
        """The folder of one of its trials."""
        return TrialFolder(self.runs_dir / signature)

    def configs(self) -> list[Config]:
        """The configs that the command asked for: of its trainings or, if it has none, of its range tests."""
        kind = TRAIN if any(entry.kind == TRAIN for entry in self.trials) else RANGE_TEST
        return [self.trial(entry.signature).config() for entry in self.trials if entry.kind == kind]

    def save(self) -> None:
        """Write sweep.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = asdict(self)
        del data["runs_dir"]
        files.remove_temporary(self.folder)
        files.write_json(self.folder / "sweep.json", data)


def load(folder: Path) -> Sweep:
    """Read a sweep; raises FileNotFoundError if the folder is not a sweep's, Unreadable if its record is."""
    data = files.read_json(path := folder / "sweep.json")
    if data is None:
        raise FileNotFoundError(f"{folder} is not a sweep: it has no sweep.json")
    try:
        data["published"] = preset.read(data.get("published"))
        data["trials"] = tuple(map(_entry, data["trials"]))
        return Sweep(**data | {"runs_dir": folder.parent.parent, "command": tuple(data["command"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {error})") from error


def _entry(record: dict[str, Any]) -> Entry:
    """An entry of sweep.json, where `target` may have the name that it had when accuracy was the only measure."""
    target = record.pop("target_accuracy", None)
    return Entry(**{"target": target, **record, "also": tuple(record.get("also", ()))})


def is_folder(path: str) -> bool:
    """Whether this is the path of a sweep's folder, which may have a `=` as an override has."""
    # Path.is_file raises OSError for an override that is longer than a file's name may be.
    return os.path.isfile(os.path.join(path, "sweep.json"))


def find(runs_dir: Path, name: str | None = None, on_skipped: Callable[[str], object] | None = None) -> Sweep:
    """The sweep with an id, a prefix of one, or a path; without a name the latest.

    Without a name, sweeps with an unreadable record are skipped, and `on_skipped` is called with the reason.
    Raises LookupError if none or several match, Unreadable if the record of the named one is unreadable.
    """
    if name and is_folder(name):
        return load(Path(name).resolve())
    known = [path.parent for path in (runs_dir / "sweeps").glob("*/sweep.json")]
    matching = [path for path in known if path.name.startswith(name or "")]
    if name and len(matching) > 1 and name not in {path.name for path in matching}:
        raise LookupError(f"several sweeps begin with {name}: {', '.join(sorted(path.name for path in matching))}")
    if name and matching:
        exact = [path for path in matching if path.name == name]
        return load((exact or matching)[0])
    for latest in _latest_first(matching, on_skipped):
        return latest
    place = f"{runs_dir / 'sweeps'}{f', which has {len(known)}' if known else ''}"
    wanted = f"no sweep begins with {name}" if name else "there is no readable sweep" if known else "there is no sweep"
    raise LookupError(f"{wanted} in {place}; use runs_dir=... to look elsewhere")


def find_all(runs_dir: Path, on_skipped: Callable[[str], object] | None = None) -> Iterator[Sweep]:
    """All sweeps in a RUNS_DIR, the latest first; `on_skipped` is called with the reason for each unreadable one."""
    yield from _latest_first([path.parent for path in (runs_dir / "sweeps").glob("*/sweep.json")], on_skipped)


def _latest_first(folders: Iterable[Path], on_skipped: Callable[[str], object] | None) -> Iterator[Sweep]:
    for folder in sorted(folders, key=lambda path: (path / "sweep.json").stat().st_mtime, reverse=True):
        try:
            yield load(folder)
        except Unreadable as error:
            if on_skipped:
                on_skipped(str(error))


def identity(signatures: Iterable[str]) -> str:
    """A sweep's id: the hash of its trials' signatures, in any order."""
    return hashlib.sha256(json.dumps(sorted(set(signatures))).encode()).hexdigest()[:8]


def fresh_identity() -> str:
    """A random id, for a sweep whose trials are unknown at its start."""
    return uuid.uuid4().hex[:8]


def entries(trials: Sequence[Trial]) -> tuple[Entry, ...]:
    """The distinct trials of a sweep, range tests and probes first, named by the overrides in which they differ."""
    varying, leaders = _varying(trials), _leaders(trials)
    found = {entry.signature: entry for entry in _range_tests(trials, varying)}
    found |= {entry.signature: entry for entry in _probes(trials, varying, leaders)}
    for trial in trials:
        if trial.config["task"] == TRAIN:
            rest = {k: v for k, v in varying[trial.request.overrides].items() if k not in NAMED_APART}
            varies = {"policy": leaders[trial.request.overrides], **rest, "seed": str(trial.config["seed"])}
            needs = trial.rate_from.signature if trial.rate_from else None
            entry = Entry(trial.signature, TRAIN, varies, needs, trial.config["target"])
            found[trial.signature] = _with_name(found.setdefault(trial.signature, entry), entry)
    return tuple(found.values())


def _with_name(known: Entry, entry: Entry) -> Entry:
    """The known entry of a trial, with the name of another group that has the same trial added to `also`."""
    if entry.group == known.group or (name := group_name(entry.group)) in known.also:
        return known
    return replace(known, also=(*known.also, name))


def choices(trials: Iterable[Trial]) -> dict[str, str]:
    """The choices of all trials in the groups that say what is trained on what, several of a group in one text."""
    found: dict[str, dict[str, None]] = {}
    for trial in trials:
        for group in NAMED_GROUPS:
            if choice := trial.request.choices.get(group):
                found.setdefault(group, {})[choice] = None
    return {group: ", ".join(names) for group, names in found.items()}


def group_name(group: Group) -> str:
    """A group's name: its policy, then every other key with its value."""
    return " ".join(value if key == "policy" else f"{key}={value}" for key, value in group)


def other_names(listed: Iterable[Entry]) -> list[str]:
    """A line for each group of trainings that is the same as another one."""
    pairs = ((group_name(entry.group), name) for entry in listed for name in entry.also)
    return [f"{name} is the same training as {known}: they share one row" for known, name in dict.fromkeys(pairs)]


def _range_tests(trials: Sequence[Trial], varying: Mapping[Overrides, dict[str, str]]) -> Iterator[Entry]:
    """An entry for each range test, named by the varying overrides that all trials that need it share."""
    served: dict[str, list[Mapping[str, str]]] = {}
    for trial in trials:
        if (test := trial.chain[0]).config["task"] == RANGE_TEST:
            served.setdefault(test.signature, []).append(varying[trial.request.overrides])
    # A recipe is part of the name if it distinguishes several range tests.
    left_out = ("policy", "seed") if len(served) > 1 else ("policy", "seed", "recipe")
    for signature, (first, *others) in served.items():
        same = {k: v for k, v in first.items() if k not in left_out and all(other.get(k) == v for other in others)}
        yield Entry(signature, RANGE_TEST, same)


def _probes(
    trials: Sequence[Trial], varying: Mapping[Overrides, dict[str, str]], leaders: Mapping[Overrides, str]
) -> Iterator[Entry]:
    """An entry for each probe, named as the trainings that it serves by what these share."""
    served: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.rate_from and trial.rate_from.config["task"] == PROBE:
            served.setdefault(trial.rate_from.signature, []).append(trial)
    for signature, (first, *others) in served.items():
        rest = {
            key: value
            for key, value in varying[first.request.overrides].items()
            if key not in NAMED_APART and all(varying[o.request.overrides].get(key) == value for o in others)
        }
        test = first.chain[0].signature
        yield Entry(signature, PROBE, {"policy": leaders[first.request.overrides], **rest}, test)


def _leaders(trials: Sequence[Trial]) -> dict[Overrides, str]:
    """The beginning of each trial's name: its policy, or its recipe without the folder of its preset."""
    recipes = {recipe for t in trials if (recipe := t.request.choices.get("recipe"))}
    short = len({PurePath(recipe).name for recipe in recipes}) == len(recipes)
    several = len({t.request.choices.get("policy") for t in trials if "policy" in t.request.typed()}) > 1
    found = {}
    for trial in trials:
        choices = trial.request.choices
        leader = policy = choices.get("policy", "policy")
        if recipe := choices.get("recipe"):
            leader = (PurePath(recipe).name if short else recipe) + (f" {policy}" if several else "")
        found[trial.request.overrides] = leader
    return found


def _varying(trials: Sequence[Trial]) -> dict[Overrides, dict[str, str]]:
    """The overrides of each trial that not all trials share; the keys are all overrides of a trial."""
    parsed = {t.request.overrides: t.request.typed() for t in trials}
    keys = {key for overrides in parsed.values() for key in overrides}
    shared = {key for key in keys if len({overrides.get(key) for overrides in parsed.values()}) == 1}
    return {key: {k: v for k, v in found.items() if k not in shared} for key, found in parsed.items()}
