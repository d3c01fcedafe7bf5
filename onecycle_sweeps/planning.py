"""From configs to trials: what was asked is checked, given its signature, and told what it needs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onecycle_sweeps import fingerprints, images, provenance
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config, ConfigError
from onecycle_sweeps.fingerprints import Inputs
from onecycle_sweeps.images import Source
from onecycle_sweeps.images.transforms import transforms
from onecycle_sweeps.policies import check_policy
from onecycle_sweeps.terminal import in_one_line


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
    """A data set: its source, which counts for signatures, its cache in RUNS_DIR/data, which its code makes, its files.

    `files` has the fingerprint of each file and folder by its absolute path.
    """

    source: str
    cache: str
    files: Mapping[str, str]


class Planner:
    """Turns requests into trials; what it learns of a data set serves all requests that use it.

    `cpus_elsewhere` is how many CPUs each is granted where it will run on another machine, whose devices are not known
    here.
    """

    def __init__(self, runs_dir: Path, *, cpus_elsewhere: int | None = None) -> None:
        self.runs_dir, self.cpus_elsewhere = runs_dir, cpus_elsewhere
        self.memos = fingerprints.memos(runs_dir)
        self._read: set[str] = set()
        self._inputs: dict[str, Inputs] = {}
        self._data: dict[str, tuple[images.Facts, Data]] = {}
        self._built: set[str] = set()
        # Lines for the user on what no check can see.
        self.remarks: list[str] = []

    def plan(self, request: Request) -> Trial:
        """The trial that a request asks for; raises ConfigError with one line that names key, bound and value."""
        try:
            return self._plan(request)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(in_one_line(error)) from error

    def _plan(self, request: Request) -> Trial:
        schema.check(request.config)
        with nodes.environment(request.config):
            return self._plan_in_its_environment(request)

    def _plan_in_its_environment(self, request: Request) -> Trial:
        config = request.config
        schema.check_threads(config["threads"], self.cpus_elsewhere)
        if config["device"].startswith("cuda") and self.cpus_elsewhere is None:
            _check_cuda(config["device"])
        facts, data = self._describe_data(config)
        schema.check_batch(config["batch_size"], facts.train)
        env_set = config.get(schema.ENV_SET)
        self._build_once(partial(transforms, config, facts), config["data"], env_set)
        test = self._trial(schema.range_test(config), request, data)
        if config["task"] == "range_test":
            return test
        rate, steps = schema.max_lr(config), facts.train // config["batch_size"]
        schema.check_evaluations(config["evaluations_per_epoch"], steps)
        check = partial(_check_policy, config, steps)
        self._build_once(check, config["policy"], config["epochs"], rate, steps, env_set)
        return self._trial(config, request, data, None if rate else test)

    def steps_per_epoch(self, config: Config) -> int:
        """How many steps an epoch of a config has that was planned."""
        return self._describe_data(config)[0].train // config["batch_size"]

    def _build_once(self, build: Callable[[], object], *of: Any) -> None:
        """Build what a trial will, which raises where it cannot be built, unless the same was built before."""
        key = json.dumps(of, sort_keys=True)
        if key not in self._built:
            build()
            self._built.add(key)

    def _describe_data(self, config: Config) -> tuple[images.Facts, Data]:
        """The facts of the data set, split as asked, and where it comes from and is kept."""
        node = {k: v for k, v in config["data"].items() if k not in schema.TRANSFORM_KEYS}
        # What a loader reads from the environment may decide on what it loads.
        apart = {schema.ENV_SET: config[schema.ENV_SET]} if schema.ENV_SET in config else {}
        key = json.dumps([node, apart, config["rerun"]], sort_keys=True)
        if key not in self._data:
            load = nodes.loader(config)
            if fingerprints.lacks_files(node):
                load()
            try:
                self._data[key] = self._read_data(config, node, apart, load)
            except fingerprints.Changed:
                # A loader that fetches its files, or keeps something beside them, is done with that now.
                self._data[key] = self._read_data(config, node, apart, load)
        return self._data[key]

    def _read_data(
        self, config: Config, node: Config, apart: Config, load: Callable[[], Source]
    ) -> tuple[images.Facts, Data]:
        """Fingerprint a data set and decode it; raises Changed if its files are others once they have been read."""
        named_by_code = nodes.text_defaults(node)
        loaded = named_by_code | {key: value for key, value in node.items() if key not in schema.SPLIT_KEYS}
        named = fingerprints.of_data(loaded, self.memos, afresh=config["rerun"])

        def check() -> None:
            if fingerprints.of_data(loaded, self.memos) != named:
                names = ", ".join(named.prints) or f"what data={node['_target_']} names"
                raise fingerprints.Changed(
                    f"{names} changed while it was read: start the command again once nothing writes there, or list "
                    "in data.files what is read"
                )

        source = _hash([named.identity, apart])
        data = Data(source, _hash([source, provenance.code_hashes(node)]), named.prints)
        afresh = config["rerun"] and data.cache not in self._read
        folder = self.runs_dir / "data" / data.cache
        if not (named.prints or afresh or data.cache in self._read) and folder.is_dir():
            self._remark_unseen(node["_target_"])
        facts = images.prepare(load, folder, check=check, afresh=afresh, **schema.split(config))
        self._read.add(data.cache)
        return facts, data

    def _remark_unseen(self, loader: str) -> None:
        """Say of a loader of the user's own that its data comes from an earlier command, and may have changed."""
        if not loader.startswith(f"{provenance.PROGRAM}."):
            self.remarks.append(
                f"the data of {loader} is as an earlier command read it: no key of data names a file or folder, so "
                "that no change is noticed; rerun=true reads it afresh, and +data.files=[PATH] names what it reads"
            )

    def _trial(self, config: Config, request: Request, data: Data, range_test: Trial | None = None) -> Trial:
        config = {key: value for key, value in config.items() if key != schema.PUBLISHED}
        identity = schema.what_counts(config)
        files = dict(data.files)
        if config["task"] == "train":
            del identity["range_test"], identity["max_lr"]
            rate = range_test.signature if range_test else config["policy"]["max_lr"]
            identity["policy"] = config["policy"] | {"max_lr": rate}
        if (weights := config["model"].get("weights_file")) and not (path := Path(weights).expanduser()).is_file():
            raise ValueError(f"model.weights_file must be the path of a file of weights, got {path.absolute()}")
        of_the_split = (*schema.SPLIT_KEYS, *schema.TRANSFORM_KEYS)
        identity["data"] = {key: config["data"].get(key) for key in of_the_split}
        for name, node in identity.items():
            if isinstance(node, dict):
                named = self._named(node, config["rerun"])
                identity[name] = named.identity
                files |= named.prints
        identity["source"] = data.source
        needs = {"data": data.cache, "range_test": range_test.signature if range_test else None, "files": files}
        return Trial(_hash(identity), config | {"needs": needs}, request, range_test)

    def _named(self, node: Config, afresh: bool) -> Inputs:
        key = json.dumps([node, afresh], sort_keys=True)
        if key not in self._inputs:
            self._inputs[key] = fingerprints.of_node(node, self.memos, afresh=afresh)
        return self._inputs[key]


def _check_policy(config: Config, steps_per_epoch: int) -> None:
    name = f"policy._target_={config['policy']['_target_']}"
    check_policy(name, nodes.policy(config, schema.max_lr(config), steps_per_epoch), config["epochs"] * steps_per_epoch)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: Any) -> Any:
    """The same value with equal numbers written alike: 1.0 as 1."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_cuda(device: str) -> None:
    import torch

    index = int(device.partition(":")[2] or 0)
    if (count := torch.cuda.device_count()) <= index:
        raise ValueError(f"device={device} needs a CUDA device, and torch {torch.__version__} finds {count} here")
