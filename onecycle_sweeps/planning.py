"""From requests to trials: `Planner` checks a request and computes the signature of its trial."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onecycle_sweeps import datasets, fingerprints, images, measures, provenance
from onecycle_sweeps.config import function_node, keys, nodes, schema
from onecycle_sweeps.config.schema import PROBE, RANGE_TEST, TRAIN, Config, ConfigError
from onecycle_sweeps.datasets import Facts, transforms
from onecycle_sweeps.fingerprints import Inputs
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import check_policy
from onecycle_sweeps.range_test import probes
from onecycle_sweeps.samples import SampleFacts
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial_folder import TrialFolder

OURS = f"{provenance.PROGRAM}."
# The length of an epoch with which policies are checked as long as a user's own function has not run.
STAND_IN_STEPS_PER_EPOCH = 10**6


@dataclass(frozen=True)
class Request:
    """One job as Hydra composed it, not yet checked.

    Its overrides and its choices in groups, which a trial's config does not have, give the trial its name in tables.
    `hydra` is Hydra's own config of the job if it asks for more than running the trial.
    """

    config: Config
    overrides: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    hydra: Config | None = None

    def typed(self) -> dict[str, str]:
        """The values of its overrides by their keys."""
        split = (override.partition("=") for override in self.overrides)
        return {key.lstrip("+~"): value for key, _, value in split}


@dataclass(frozen=True)
class Trial:
    """A request that was checked, with its signature: its config needs no further check.

    `config` has under `needs` the data, the range test and the probe that the trial reads. With `max_lr: auto`,
    `rate_from` is the trial that finds the rate: a range test, or a probe, whose `rate_from` is a range test.
    """

    signature: str
    config: Config
    request: Request
    rate_from: "Trial | None" = None

    @property
    def chain(self) -> "tuple[Trial, ...]":
        """The trials that have to be done one after the other, this one last."""
        return (*(self.rate_from.chain if self.rate_from else ()), self)


@dataclass(frozen=True)
class Data:
    """A data set: its facts, the hash of its source, which counts for signatures, and its files.

    `cache` is its folder in RUNS_DIR/data; the name also depends on the loader's code. `files` has the fingerprints of
    files and folders by their absolute paths.
    """

    facts: Any
    source: str
    cache: str
    files: Mapping[str, str]


# A user's own function reads its data itself.
NO_DATA = Data(None, "", "", {})


class Planner:
    """Turns requests into trials, and reads each data set once for all of them.

    `cpus_elsewhere` is the number of CPUs per job if jobs run on other machines, whose devices are unknown here.
    """

    def __init__(self, runs_dir: Path, *, cpus_elsewhere: int | None = None) -> None:
        self.runs_dir, self.cpus_elsewhere = runs_dir, cpus_elsewhere
        self.memos = fingerprints.memo_folder(runs_dir)
        self._read: set[str] = set()
        self._inputs: dict[str, Inputs] = {}
        self._data: dict[str, Data] = {}
        self._built: set[str] = set()
        # Lines for the user about what cannot be checked.
        self.remarks: list[str] = []

    def plan(self, request: Request) -> Trial:
        """The trial that a request asks for; raises ConfigError with one line that names key, bound and value."""
        try:
            schema.check(request.config)
            with nodes.environment(request.config):
                return self._plan(request)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(in_one_line(error)) from error

    def _plan(self, request: Request) -> Trial:
        config = request.config
        schema.check_threads(config["threads"], self.cpus_elsewhere)
        if config["device"].startswith("cuda") and self.cpus_elsewhere is None:
            _check_cuda(config["device"])
        for key, instead in schema.EARLIER_NAMES.items():
            if (value := request.typed().get(key)) is not None:
                if instead in request.typed():
                    raise ConfigError(f"{key} and {instead} are one key: leave {key}={value} out")
                self._remark(f"{key}={value} is taken as {instead}={value}")
        if schema.LOOP in config:
            return self._plan_function(request)
        data = self._describe_data(config)
        schema.check_batch(config, data.facts.train)
        config = self._with_objective(config, data.facts)
        env_set = config.get(schema.ENV_SET)
        if isinstance(data.facts, images.Facts):
            self._build_once(partial(transforms, config, data.facts), config["data"], env_set)
        elif given := [key for key in schema.TRANSFORM_KEYS if config["data"].get(key)]:
            raise ConfigError(f"data.{given[0]} is for images, and {config['data']['_target_']} has none")
        test = self._trial(schema.range_test(config), request, data)
        if config["task"] == RANGE_TEST:
            return test
        rate, steps = schema.max_lr(config), schema.steps_per_epoch(config, data.facts.train)
        evaluations = config["evaluations_per_epoch"]
        schema.check_at_most("evaluations_per_epoch", evaluations, steps, f"the {steps} steps of an epoch")
        check = partial(_check_policy, config, steps)
        self._build_once(check, config["policy"], config["epochs"], rate, steps, env_set)
        return self._trial(config, request, data, None if rate else test)

    def _plan_function(self, request: Request) -> Trial:
        """The trial of a user's own training function; what does not reach it is no part of the config."""
        function_node.check(request.config, request.typed())
        _check_target(request.config["target"], function_node.measure(request.config))
        config, data = function_node.reduced(request.config), NO_DATA
        if "data" in config:
            data = self._describe_data(config)
            schema.check_at_most("batch_size", config["batch_size"], data.facts.train, "the training samples")
            if "objective" in config:
                config = self._with_objective(config, data.facts)
        elif config.get("objective", {}).get("_target_") == schema.AUTO_OBJECTIVE:
            raise ConfigError(f"objective=auto needs data, which {function_node.name(config)} has no parameter for")
        test = self._trial(schema.range_test(config), request, data)
        if config["task"] == RANGE_TEST:
            return test
        rate = schema.max_lr(config)
        check = partial(_check_policy, config, STAND_IN_STEPS_PER_EPOCH)
        self._build_once(check, config["policy"], config["epochs"], rate, config.get(schema.ENV_SET))
        return self._trial(config, request, data, None if rate else test)

    def with_probes(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, where those with `max_lr: auto` get their rate from a probe if there are enough steps for one.

        The trainings that share a probe decide how long it is. A probe that has a result is kept however long it was,
        so that adding seeds to a sweep changes no rate.
        """
        found = list(trials)
        sharing: dict[str, list[int]] = {}
        for number, trial in enumerate(trials):
            test = trial.rate_from
            if trial.config["task"] == TRAIN and test and trial.config["range_test"].get(schema.PROBE_SHARE):
                sharing.setdefault(self._probe(trial, test, 1).signature, []).append(number)
        costs: list[int] = []
        replaced: set[str] = set()
        for numbers in sharing.values():
            first = trials[numbers[0]]
            assert first.rate_from
            probe = self._probe(first, first.rate_from, len({trials[number].signature for number in numbers}))
            if (cost := self._cost(probe)) is None:
                continue
            costs += [cost] if cost else []
            for number in numbers:
                trial = trials[number]
                is_repeated = cost and not trial.config["rerun"]
                if is_repeated and TrialFolder(self.runs_dir / trial.signature).state().has_result:
                    replaced.add(trial.signature)
                found[number] = self._trial(trial.config, trial.request, self._data_of(trial.config), probe)
        if costs:
            trained = {one.signature: one.config for one in found if one.config["task"] == TRAIN}
            whole = sum(self._length(config) for config in trained.values() if schema.LOOP not in config)
            self._remark(
                f"max_lr=auto: short trainings find the rate{'s' * (len(costs) > 1)}, in at most {sum(costs)} steps, "
                f"{100 * sum(costs) / whole:.2g} % of those of all trainings (range_test.probe_share)"
            )
        if replaced:
            self._remark(
                f"{len(replaced)} finished training{'s' * (len(replaced) > 1)} at the range test's rate will be "
                "repeated at the rate that short trainings find: range_test.probe_share=0 keeps the range test's rate"
            )
        return found

    def _probe(self, trial: Trial, test: Trial, trainings: int) -> Trial:
        config = schema.probe(trial.config, trainings)
        return self._trial(config, trial.request, self._data_of(config), test)

    def _cost(self, probe: Trial) -> int | None:
        """The most steps that a probe will take; None if its budget is too small for one.

        0 for one that has a result, and for a user's own function, whose length is known only when it runs.
        """
        has_result = not probe.config["rerun"] and TrialFolder(self.runs_dir / probe.signature).state().has_result
        if schema.LOOP in probe.config or has_result:
            return 0
        steps = self._length(probe.config)
        return probes.cost(schema.probe_steps(probe.config, steps), steps)

    def _length(self, config: Config) -> int:
        """The number of steps of a training."""
        return config["epochs"] * self.steps_per_epoch(config)

    def _data_of(self, config: Config) -> Data:
        return self._describe_data(config) if "data" in config else NO_DATA

    def _with_objective(self, config: Config, facts: Facts) -> Config:
        """The config, with the objective that suits its targets in place of auto, which the user is told of."""
        if config["objective"]["_target_"] == schema.AUTO_OBJECTIVE:
            usual, reason = "classification", "the data are images with a class each"
            if isinstance(facts, SampleFacts):
                usual, reason = facts.usual, facts.reason
            config = config | {"objective": config["objective"]["choices"][usual]}
            self._remark(f"objective={usual}: {reason}")
        if config["objective"].get("headline") is None:
            _check_target(config["target"], measures.HEADLINES.get(config["objective"]["_target_"]))
        if config.get("label_smoothing") and "label_smoothing" not in config["objective"]:
            code = config["objective"]["_target_"]
            raise ConfigError(f"label_smoothing must be 0 for objective._target_={code}, which has no such key")
        return config

    def _remark(self, line: str) -> None:
        """Add a line for the user, once."""
        if line not in self.remarks:
            self.remarks.append(line)

    def steps_per_epoch(self, config: Config) -> int:
        """The number of steps in an epoch of a trial that was planned."""
        return schema.steps_per_epoch(config, self._describe_data(config).facts.train)

    def _build_once(self, build: Callable[[], object], *of: Any) -> None:
        """Call `build`, which raises for an invalid config, unless it was called for the same values before."""
        key = json.dumps(of, sort_keys=True)
        if key not in self._built:
            build()
            self._built.add(key)

    def _describe_data(self, config: Config) -> Data:
        """The data set with the config's split; it is read at the first call."""
        node = {k: v for k, v in config["data"].items() if k not in schema.TRANSFORM_KEYS}
        # A loader may read the environment.
        env_set = {schema.ENV_SET: config[schema.ENV_SET]} if schema.ENV_SET in config else {}
        key = json.dumps([node, env_set, config["rerun"]], sort_keys=True)
        if key not in self._data:
            load = nodes.loader(config)
            if fingerprints.lacks_files(node):
                load()
            try:
                self._data[key] = self._read_data(config, node, env_set, load)
            except fingerprints.Changed:
                # The loader may have fetched its files, or written others beside them, which it does only once.
                self._data[key] = self._read_data(config, node, env_set, load)
        return self._data[key]

    def _read_data(self, config: Config, node: Config, env_set: Config, load: Callable[[], Any]) -> Data:
        """Fingerprint a data set and decode it; raises Changed if its files change meanwhile."""
        loader = node["_target_"]
        defaults = nodes.text_defaults(node)
        loaded = defaults | {key: value for key, value in node.items() if key not in schema.SPLIT_KEYS}
        named = fingerprints.of_data(loaded, self.memos, afresh=config["rerun"])

        def check() -> None:
            if fingerprints.of_data(loaded, self.memos) != named:
                names = ", ".join(named.prints) or f"the data that {loader} loads"
                raise fingerprints.Changed(
                    f"{names} changed while it was read: start the command again once nothing writes there, or list "
                    "the files to be read in data.files"
                )

        source = _hash([named.identity, env_set])
        cache = _hash([source, provenance.code_of(node).targets])
        folder, was_read = self.runs_dir / "data" / cache, cache in self._read
        afresh = config["rerun"] and not was_read
        # A dataset within the node is the user's own too.
        foreign = [one["_target_"] for _, one in keys.targets(node) if not one["_target_"].startswith(OURS)]
        if foreign and not (named.prints or afresh or was_read) and folder.is_dir():
            self.remarks.append(
                f"the data of {foreign[0]} is used as an earlier command read it: no key of data names a file or "
                "folder, so changes go unnoticed; rerun=true reads it again, and +data.files=[PATH] names its files"
            )
        facts = datasets.prepare(load, folder, check=check, afresh=afresh, **schema.split(config))
        self._read.add(cache)
        return Data(facts, source, cache, named.prints)

    def _trial(self, config: Config, request: Request, data: Data, rate_from: Trial | None = None) -> Trial:
        config = {key: value for key, value in config.items() if key not in (schema.PUBLISHED, "needs")}
        identity = schema.what_counts(config)
        files = dict(data.files)
        if config["task"] != RANGE_TEST:
            del identity["range_test"]
            identity.pop("max_lr", None)
            rate = rate_from.signature if rate_from else config["policy"]["max_lr"]
            identity["policy"] = config["policy"] | {"max_lr": rate}
        if config["task"] == PROBE:
            identity["probe"] = {"share": config["probe"]["share"]}
        weights = config.get("model", {}).get("weights_file")
        if weights and not (path := Path(weights).expanduser()).is_file():
            raise ValueError(f"model.weights_file must be the path of a file of weights, got {path.absolute()}")
        if "data" in config:
            kept = (*schema.SPLIT_KEYS, *schema.TRANSFORM_KEYS)
            identity["data"] = {key: config["data"].get(key) for key in kept}
        for name, node in identity.items():
            if isinstance(node, dict):
                named = self._named(node, config["rerun"])
                identity[name] = named.identity
                files |= named.prints
        identity["source"] = data.source
        chain = rate_from.chain if rate_from else ()
        needs = {"data": data.cache, "range_test": chain[0].signature if chain else None, "files": files}
        if len(chain) > 1:
            needs["probe"] = chain[-1].signature
        return Trial(_hash(identity), config | {"needs": needs}, request, rate_from)

    def _named(self, node: Config, afresh: bool) -> Inputs:
        key = json.dumps([node, afresh], sort_keys=True)
        if key not in self._inputs:
            self._inputs[key] = fingerprints.of_node(node, self.memos, afresh=afresh)
        return self._inputs[key]


def _check_target(target: float | None, headline: Measure | None) -> None:
    """Raise ConfigError for a target that a fraction cannot reach, or has from the start."""
    if headline and headline.is_fraction and target is not None and not 0 < target <= 1:
        raise ConfigError(f"target must be in (0, 1], since {headline.name} is a fraction, got {target}")


def _check_policy(config: Config, steps_per_epoch: int) -> None:
    name = f"policy._target_={config['policy']['_target_']}"
    check_policy(name, nodes.policy(config, schema.max_lr(config), steps_per_epoch), config["epochs"] * steps_per_epoch)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(_canonical(value), sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: Any) -> Any:
    """The value with equal numbers in the same form: 1 for 1.0."""
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
