"""The keys of a config: what each may be, and whether it counts for a trial's signature."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onecycle_sweeps.config import keys
from onecycle_sweeps.credentials import SECRET_VARIABLE
from onecycle_sweeps.validation import NULL, SWITCH, Allowed, list_of, number, one_of, require, text, whole

Config = dict[str, Any]
# The values of the key `task`.
TRAIN, RANGE_TEST = "train", "range_test"


class ConfigError(ValueError):
    """A mistake in what the user typed or wrote; the message is one line for the user."""


class UnknownKey(ConfigError):
    """Nothing reads this `key`, wherever it was written."""

    def __init__(self, line: str, key: str) -> None:
        super().__init__(line)
        self.key = key


@dataclass(frozen=True)
class Key:
    """One key of a config.

    allowed: its values; None leaves them to the node's `_target_`.
    optional: not every policy, optimizer or data set has it.
    signature: what of it counts for a trial's signature: its value, the content of the files that it names but not
        where they lie, or nothing.
    in_range_test: whether a range test's config has it, so that tests that differ in it are different tests.
    data: who reads a key of the node `data`: the loader that it names, the split or the transforms.
    """

    name: str
    allowed: Allowed | None = None
    optional: bool = False
    signature: Literal["value", "content", "none"] = "value"
    in_range_test: bool = True
    data: Literal["loader", "split", "transforms"] = "loader"

    @property
    def leaf(self) -> str:
        """Its name within its node."""
        return self.name.rpartition(".")[2]


# Larger values would fail later, in torch, in memory or on the disk, or the trial would never end.
MOST_SEED, MOST_RATE = 2**32 - 1, 1e9
MOST_RANGE_TEST_SEEDS = 100
MINIMUM_RANGE_TEST_STEPS = 100


def _is_device(value: Any) -> bool:
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    return kind in ("auto", "cpu", "cuda") and (not index or (kind == "cuda" and index.isdigit()))


def _is_list_of_seeds(value: Any) -> bool:
    seeds = isinstance(value, list) and len(value) > 0 and all(map(SEED.accepts, value))
    return seeds and len(set(value)) == len(value)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and TARGET.accepts(value.get("_target_"))


AUTO = one_of("auto")
COUNT = whole(1)
SEED = whole(0, most=MOST_SEED)
RATE = number(above=0, most=MOST_RATE)
MOMENTUM = number(at_least=0, below=1)
TARGET = text("the dotted name of a class or function")
NODE = Allowed(_is_node, ("a node with a _target_",))
TRANSFORMS = list_of(NODE, "a list of transforms, such as [{_target_: onecycle_sweeps.images.augmentation.Flip}]")

KEYS = (
    Key("model._target_", TARGET),
    Key("model.weights_file", signature="content"),
    Key("data._target_", TARGET),
    Key("policy._target_", TARGET),
    Key("optimizer._target_", TARGET),
    Key("task", one_of(TRAIN, RANGE_TEST)),
    Key("epochs", whole(1, most=10**6), in_range_test=False),
    Key("batch_size", whole(1, most=10**9)),
    Key("seed", SEED, in_range_test=False),
    Key("evaluations_per_epoch", COUNT, in_range_test=False),
    Key("max_lr", RATE | AUTO, in_range_test=False),
    Key("max_lr_scale", RATE, in_range_test=False),
    Key("policy", in_range_test=False),
    Key("policy.max_lr", RATE | AUTO),
    Key("policy.base_momentum", MOMENTUM, optional=True),
    Key("policy.max_momentum", MOMENTUM, optional=True),
    Key("optimizer.momentum", MOMENTUM, optional=True),
    Key("optimizer.beta2", MOMENTUM, optional=True),
    Key("optimizer.weight_decay", number(at_least=0, most=MOST_RATE), optional=True),
    Key("optimizer.body_lr_scale", RATE, optional=True),
    Key("range_test.mode", one_of("exp", "linear")),
    Key("range_test.start_lr", number(at_least=0, most=MOST_RATE)),
    Key("range_test.end_lr", RATE),
    Key("range_test.steps", whole(MINIMUM_RANGE_TEST_STEPS, most=10**5)),
    Key(
        "range_test.seeds",
        Allowed(_is_list_of_seeds, ("a list of whole numbers, each once, such as [0,1,2]",), most=MOST_SEED),
    ),
    Key("data.val_fraction", MOMENTUM, data="split"),
    Key("data.split_seed", SEED, data="split"),
    Key("data.classes", NULL | list_of(whole(0), "a list of class numbers such as [3,7]"), data="split"),
    Key("data.root", signature="content"),
    Key("data.path", text("the path of a folder or .tar of images"), optional=True, signature="content"),
    Key("data.files", signature="content"),
    Key("data.download", signature="none"),
    Key("data.size", whole(1, most=4096), optional=True),
    Key("data.test_part", NULL | one_of("val", "test"), optional=True),
    Key("data.max_cached_gb", number(at_least=0), optional=True, signature="none"),
    Key("data.fingerprint", one_of("content", "stat"), optional=True, signature="none"),
    Key("data.augment", TRANSFORMS, optional=True, data="transforms"),
    Key("data.evaluation", TRANSFORMS, optional=True, data="transforms"),
    Key("label_smoothing", number(at_least=0, below=1)),
    Key("clip_norm", number(above=0, most=1e9) | NULL),
    Key("precision", one_of("auto", "fp32", "bf16")),
    Key("device", Allowed(_is_device, ("auto", "cpu", "cuda", "cuda:N"))),
    Key("threads", COUNT | AUTO, signature="none"),
    Key("deterministic", SWITCH),
    Key("bn_recalibrate", SWITCH),
    Key("save_model", SWITCH, signature="none"),
    Key("rerun", SWITCH, signature="none"),
    Key("checkpoint_minutes", number(above=0, most=10**6), signature="none"),
    Key("target_accuracy", number(above=0, at_most=1) | NULL, signature="none"),
    Key("runs_dir", text("the path of a folder"), signature="none"),
    Key("tracking", signature="none"),
    Key("tracking.uri", text("a URI such as sqlite:///mlflow.db")),
    Key("tracking.experiment", text("a name")),
)
CHECKED = {key.name: key for key in KEYS if key.allowed is not None}

# Nodes whose other keys are the arguments of their `_target_`.
BUILT = tuple(key.name.removesuffix("._target_") for key in KEYS if key.name.endswith("._target_"))
# The node of a preset that has the figures of its source. It belongs to the sweep, and preset.py checks it.
PUBLISHED = "published"
# The keys that the program itself reads; a node stands for all keys below it.
READ = (*BUILT, *(name for name in CHECKED if name.partition(".")[0] not in BUILT), PUBLISHED)
# Groups whose files set keys of the whole config.
GLOBAL_GROUPS = ("experiment", "recipe")
# The key of a trial's config that has hydra.job.env_set, if that sets anything.
ENV_SET = "env_set"

NOT_IN_SIGNATURE = tuple(key.name for key in KEYS if key.signature == "none" and "." not in key.name)
# Keys of the data node for where its files lie and how they are fetched and kept.
PLACE_OF_DATA = tuple(key.leaf for key in KEYS if key.name.startswith("data.") and key.signature != "value")
# Keys of any node whose wording does not count once the content of the files that they name is known.
NAMES_FILES = tuple(key.leaf for key in KEYS if key.signature == "content")
# Keys of the data node for how a data set is fetched and kept, which is no part of what it is.
KEEPING_OF_DATA = tuple(key for key in PLACE_OF_DATA if key not in NAMES_FILES)
SPLIT_KEYS = tuple(key.leaf for key in KEYS if key.data == "split")
TRANSFORM_KEYS = tuple(key.leaf for key in KEYS if key.data == "transforms")
NOT_FOR_THE_LOADER = (*SPLIT_KEYS, *TRANSFORM_KEYS, "files", "fingerprint")
NOT_IN_RANGE_TEST = tuple(key.name for key in KEYS if not key.in_range_test)

# Keys of torch's optimizers that a trial sets itself.
REPLACED = {
    "lr": "the rate is max_lr={}",
    "betas": "here they are optimizer.momentum and optimizer.beta2",
}

LAUNCHER = "hydra.launcher"
WORKERS_PER_CPU = 16


def _cpus() -> int:
    return os.cpu_count() or 1


LOCAL_LAUNCHER = {
    "workers": whole(1, most=WORKERS_PER_CPU * _cpus()) | AUTO,
    "jobs_per_gpu": whole(1, most=64),
}

# Variables that a trial does not take from hydra.job.env_set, and what to type in their place.
NOT_BY_ENV_SET = {
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS": "a trial has as many threads as threads=... says",
    r"CUDA_VISIBLE_DEVICES": "the launcher gives each trial its GPU: set it before the command",
    r"MLFLOW_.*": "the tracker is no part of a job: take tracking.uri=..., or set it before the command",
    r"ONECYCLE_DATA": "it is read when the config is composed: take data.root=...",
    r"PYTHON[A-Z]+|(LD|DYLD)_.*": "it is read when Python starts: set it before the command",
    SECRET_VARIABLE: (
        "it looks like a secret, and env_set is written to disk: set it before the command, its jobs inherit it"
    ),
}


def max_lr(config: Mapping[str, Any], measured: float | None = None) -> float | None:
    """The peak rate of a trial, with its max_lr_scale: the number in the config or, for auto, what was `measured`.

    None if the config says auto and the range test has not run yet.
    """
    value = config["policy"]["max_lr"]
    rate = measured if value == "auto" else float(value)
    return None if rate is None else rate * config["max_lr_scale"]


def range_test(config: Config) -> Config:
    """The config of the range test for a trial: the same for all trials that differ in policy, epochs or seed alone."""
    kept = {key: value for key, value in config.items() if key not in NOT_IN_RANGE_TEST}
    # It evaluates, with batch-norm statistics, in mode linear alone.
    if config["range_test"]["mode"] == "exp" or not kept["bn_recalibrate"]:
        del kept["bn_recalibrate"]
    return kept | {"task": RANGE_TEST}


def check_split(**values: Any) -> None:
    """Raise ValueError for the first of these split keys of the data node whose value is not allowed."""
    for name, value in values.items():
        if allowed := CHECKED[f"data.{name}"].allowed:
            require(name, value, allowed)


def split(config: Config) -> dict[str, Any]:
    """How the data set is divided: the keyword arguments of `images.prepare`."""
    return {key: config["data"][key] for key in SPLIT_KEYS}


def what_counts(config: Config) -> Config:
    """The part of a config that can change a trial's result."""
    return {key: value for key, value in config.items() if key not in (*NOT_IN_SIGNATURE, PUBLISHED)}


def check(config: Config) -> None:
    """Raise ConfigError for the first key whose value is not allowed."""
    for key in _missing(config):
        raise ConfigError(f"{key} has no default, it must be given: {key}=...")
    for key in KEYS:
        if key.allowed is not None:
            _check_value(config, key, key.allowed)
    _check_range_test(config["range_test"])
    check_env_set(config.get(ENV_SET, ()))


def _check_value(config: Config, key: Key, allowed: Allowed) -> None:
    node: Any = config
    for parent in key.name.split(".")[:-1]:
        node = found if isinstance(found := node.get(parent), dict) else {}
    if key.leaf in node:
        if error := allowed.error(key.name, node[key.leaf]):
            raise ConfigError(error)
    elif not key.optional:
        raise ConfigError(f"{key.name} is missing, it must be {allowed}")


def _check_range_test(test: Config) -> None:
    """Raise ConfigError for values of the node range_test that do not go together."""
    start, end, steps = test["start_lr"], test["end_lr"], test["steps"]
    if start >= end:
        raise ConfigError(f"range_test.start_lr must be below range_test.end_lr ({end}), got {start}")
    # The bound of range_test.Ramp, which cannot be imported here.
    if (end - start) / end <= steps * 2.0**-50:
        raise ConfigError(
            f"range_test.end_lr must be so far above range_test.start_lr ({start}) that the rate rises at "
            f"each of {steps} steps, got {end}"
        )
    if (count := len(test["seeds"])) > MOST_RANGE_TEST_SEEDS:
        raise ConfigError(f"range_test.seeds must be at most {MOST_RANGE_TEST_SEEDS} seeds, got {count}")
    if test["mode"] == "exp" and start == 0:
        raise ConfigError("range_test.start_lr must be above 0 where range_test.mode is exp, got 0")


def _missing(node: Config, path: str = "") -> Iterator[str]:
    """The keys that have Hydra's mark of a value that must be given."""
    for key, value in node.items():
        if value == "???":
            yield f"{path}{key}"
        elif isinstance(value, dict):
            yield from _missing(value, f"{path}{key}.")


def check_keys(config: Mapping[str, Any], read_elsewhere: Iterable[str] = ()) -> None:
    """Raise UnknownKey for the first key of a config, with its interpolations unresolved, that nothing reads.

    `read_elsewhere` are keys that are read from outside of the config. A node with a `_target_` may have any keys,
    which its target checks, but for those that the trial sets itself.
    """
    values = dict(keys.leaves(config))
    optimizer = config.get("optimizer")
    for key, instead in REPLACED.items():
        if isinstance(optimizer, Mapping) and key in optimizer and (key != "betas" or "beta2" in optimizer):
            raise UnknownKey(f"unknown key optimizer.{key}; {instead.format(optimizer[key])}", f"optimizer.{key}")
    for key in (unread := keys.unread(values, READ, read_elsewhere)):
        if (group := re.split(r"[.\[]", key)[0]) in GLOBAL_GROUPS:
            file = f"a file of {group}/ that sets keys of the whole config begins with the line # @package _global_"
            raise UnknownKey(f"unknown key {key}: {file}", key)
        known = [*READ, *GLOBAL_GROUPS, *(other for other in values if other not in unread)]
        raise UnknownKey(keys.unknown(key.removesuffix("._target_"), known, values[key]), key)


def check_launcher(settings: Mapping[str, Any], known: Mapping[str, Allowed]) -> None:
    """Raise ConfigError for a key of hydra.launcher that is not known, or whose value is not allowed."""
    for key in settings:
        if key not in known:
            raise ConfigError(unknown_to_launcher(key, settings[key], list(known)))
    for key, allowed in known.items():
        if key not in settings:
            raise ConfigError(f"{LAUNCHER}.{key} is missing, it must be {allowed}")
        if error := allowed.error(f"{LAUNCHER}.{key}", settings[key]):
            raise ConfigError(error)


def unknown_to_launcher(key: str, value: Any, known: Sequence[str]) -> str:
    """The message about a key that the launcher does not have."""
    key, known = f"{LAUNCHER}.{key}", [f"{LAUNCHER}.{one}" for one in known]
    if keys.suggestion(key, known):
        return keys.unknown(key, known)
    if (others := f"{LAUNCHER}.additional_parameters") in known:
        option = key.removeprefix(f"{LAUNCHER}.")
        return f"unknown key {key}; sbatch's other options are typed as '{others}={{{option}: \"{value}\"}}'"
    return f"{keys.unknown(key, known)}; those of a cluster need hydra/launcher=slurm"


def check_env_set(names: Iterable[str]) -> None:
    """Raise ConfigError for a variable that a job cannot be given by hydra.job.env_set."""
    for name in names:
        for pattern, instead in NOT_BY_ENV_SET.items():
            if re.fullmatch(pattern, name, re.IGNORECASE):
                raise ConfigError(f"hydra.job.env_set.{name} cannot be set for a job: {instead}")


def check_batch(batch_size: int, samples: int) -> None:
    """Raise ConfigError if a batch is larger than the training set."""
    if batch_size > samples:
        raise ConfigError(f"batch_size must be at most the {samples} training samples, got {batch_size}")


def check_threads(threads: Any, cpus_elsewhere: int | None) -> None:
    """Raise ConfigError for more threads than CPUs: of this machine, or of a job that has `cpus_elsewhere`."""
    if isinstance(threads, int) and threads > (cpus_elsewhere or _cpus()):
        of_a_job = f"hydra.launcher.cpus_per_task={cpus_elsewhere}"
        bound = of_a_job if cpus_elsewhere else f"the {_cpus()} CPUs of this machine"
        raise ConfigError(f"threads must be at most {bound}, got {threads}")


def check_evaluations(per_epoch: int, steps_per_epoch: int) -> None:
    """Raise ConfigError for more evaluations in an epoch than it has steps."""
    if per_epoch > steps_per_epoch:
        raise ConfigError(
            f"evaluations_per_epoch must be at most the {steps_per_epoch} steps of an epoch, got {per_epoch}"
        )
