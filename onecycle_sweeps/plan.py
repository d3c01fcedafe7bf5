"""From configs to trials: what was asked is checked, given its signature, and told what it needs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from onecycle_sweeps import checks, dataset, provenance, settings
from onecycle_sweeps.checks import ConfigError
from onecycle_sweeps.settings import Config

# Keys that say where and how a trial runs, or what is read from it, not what it computes.
BYSTANDERS = ("runs_dir", "tracking", "threads", "target_accuracy", "checkpoint_minutes", "save_model", "rerun")
# What a preset is compared with belongs to its sweep, and to no trial.
OF_THE_SWEEP = "published"
PLACE_OF_DATA = ("root", "path", "files", "download", "max_cached_gb")
# Where a range test is still to find the rate, the other keys of a policy are checked below a rate out of reach.
UNREACHED_RATE = 1e9


@dataclass(frozen=True)
class Request:
    """One job as Hydra composed it: its plain config, the overrides typed for it, the choice made in each group.

    `hydra` is Hydra's own config of the job, where it asks for more than that the trial is run.
    """

    config: Config
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    hydra: Config | None = None


@dataclass(frozen=True)
class Trial:
    """A checked config and its name; a trial whose rate is to be found carries the range test that finds it."""

    signature: str
    config: Config
    request: Request
    range_test: "Trial | None" = None


@dataclass(frozen=True)
class Data:
    """A data set: its source, which counts for signatures, and its cache in RUNS_DIR/data, which its code makes."""

    source: str
    cache: str


class Planner:
    """Turns requests into trials; what it learns of a data set serves all requests that use it.

    `elsewhere` is whether they will run on another machine, whose devices are not known here.
    """

    def __init__(self, runs_dir: Path, *, elsewhere: bool = False) -> None:
        self.runs_dir, self.elsewhere = runs_dir, elsewhere
        self._data: dict[str, tuple[dataset.Facts, Data]] = {}
        self._built: set[str] = set()

    def plan(self, request: Request) -> Trial:
        """The trial that a request asks for; raises ConfigError with one line that names key, bound and value."""
        try:
            return self._plan(request)
        except (ValueError, TypeError, OSError, ImportError, HydraException) as error:
            raise ConfigError(" ".join(str(error).split())) from error

    def _plan(self, request: Request) -> Trial:
        checks.check(request.config)
        with settings.environment(request.config):
            return self._plan_in_its_environment(request)

    def _plan_in_its_environment(self, request: Request) -> Trial:
        config = request.config
        if config["device"].startswith("cuda") and not self.elsewhere:
            _check_cuda(config["device"])
        facts, data = self._describe_data(config)
        checks.check_batch(config["batch_size"], facts.train)
        env_set = config.get(settings.ENV_SET)
        self._build_once(partial(settings.transforms, config, facts), config["data"], env_set)
        test = _trial(settings.range_test(config), request, data)
        if config["task"] == "range_test":
            return test
        rate, steps = settings.max_lr(config), facts.train // config["batch_size"]
        build = partial(settings.policy, config, rate or UNREACHED_RATE, steps)
        self._build_once(build, config["policy"], config["epochs"], rate, steps, env_set)
        return _trial(config, request, data, None if rate else test)

    def _build_once(self, build: Callable[[], object], *of: Any) -> None:
        """Build what a trial will, which raises where it cannot be built, unless the same was built before."""
        key = json.dumps(of, sort_keys=True)
        if key not in self._built:
            build()
            self._built.add(key)

    def _describe_data(self, config: Config) -> tuple[dataset.Facts, Data]:
        """The facts of the data set, split as asked, and where it comes from and is kept."""
        node = {k: v for k, v in config["data"].items() if k not in settings.TRANSFORM_KEYS}
        # What a loader reads from the environment may decide on what it loads.
        apart = {settings.ENV_SET: config[settings.ENV_SET]} if settings.ENV_SET in config else {}
        key = json.dumps({**node, **apart}, sort_keys=True)
        if key not in self._data:
            load, place = settings.loader(config), Path(node.get("root", "."))
            files = [place / name for name in (*node.get("files", ()), *filter(None, [node.get("path")]))]
            if not all(file.exists() for file in files):
                load()
            asked = {k: v for k, v in node.items() if k not in (*settings.SPLIT_KEYS, *PLACE_OF_DATA)}
            source = _hash({**asked, **apart, "files": [_fingerprint(file) for file in files]})
            data = Data(source, _hash([source, provenance.code_hashes(node)]))
            facts = dataset.prepare(load, self.runs_dir / "data" / data.cache, **settings.split(config))
            self._data[key] = facts, data
        return self._data[key]


def _trial(config: Config, request: Request, data: Data, range_test: Trial | None = None) -> Trial:
    config = {key: value for key, value in config.items() if key != OF_THE_SWEEP}
    identity = {key: value for key, value in config.items() if key not in BYSTANDERS}
    identity["data"] = {k: v for k, v in config["data"].items() if k not in PLACE_OF_DATA} | {"source": data.source}
    if config["task"] == "train":
        del identity["range_test"], identity["max_lr"]
        rate = range_test.signature if range_test else config["policy"]["max_lr"]
        identity["policy"] = config["policy"] | {"max_lr": rate}
    if weights := config["model"].get("weights_file"):
        if not (path := Path(weights).expanduser()).is_file():
            raise ValueError(f"model.weights_file must be the path of a file of weights, got {path.absolute()}")
        identity["model"] = config["model"] | {"weights_file": _fingerprint(path)}
    needs = {"data": data.cache, "range_test": range_test.signature if range_test else None}
    return Trial(_hash(identity), config | {"needs": needs}, request, range_test)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: Any) -> Any:
    """The same value with equal numbers written alike: 1.0 as 1."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fingerprint(path: Path) -> str:
    """A file's checksum, or the names and sizes of a folder's files."""
    if path.is_dir():
        files = [name for name in dataset.walk(path)[1] if (path / name).is_file()]
        return _hash([(name, (path / name).stat().st_size) for name in files])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_cuda(device: str) -> None:
    import torch

    index = int(device.partition(":")[2] or 0)
    if (count := torch.cuda.device_count()) <= index:
        raise ValueError(f"device={device} needs a CUDA device, and torch {torch.__version__} finds {count} here")
