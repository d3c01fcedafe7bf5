"""The keys of a config: the values of each, and whether it counts for a trial's signature."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onecycle_sweeps.config import keys
from onecycle_sweeps.credentials import SECRET_VARIABLE
from onecycle_sweeps.validation import NULL, SWITCH, Allowed, list_of, number, one_of, require, text, whole

Config = dict[str, Any]
# The node of a user's own training function.
LOOP = "loop"
# The value of `epochs` in conf/config.yaml.
DEFAULT_EPOCHS = 10
# It is written into the sweep's records, so a login must not be in it.
PAGE = Allowed(
    lambda value: isinstance(value, str) and re.fullmatch(r"https?://[^/@]+(/.*)?", value) is not None,
    ("a server's address for browsers, http://... or https://..., without a login",),
)
# The values of the key `task`. A probe cannot be requested: the planner adds it to trainings with max_lr=auto.
TRAIN, RANGE_TEST, PROBE = "train", "range_test", "probe"


class ConfigError(ValueError):
    """A mistake in what the user typed or wrote; the message is one line for the user."""


class UnknownKey(ConfigError):
    """A key that nothing reads, in a file or typed."""

    def __init__(self, line: str, key: str) -> None:
        super().__init__(line)
        self.key = key


@dataclass(frozen=True)
class Key:
    """One key of a config.

    allowed: its values; None where the node's `_target_` checks them.
    optional: whether a config may lack it.
    signature: what counts for a trial's signature: the value, the content of the files that it names, or nothing.
    in_range_test: whether the key is part of a range test's config and thereby of its signature.
    data: what uses a key of the node `data`: its loader, the split or the transforms.
    """

    name: str
    allowed: Allowed | None = None
    optional: bool = False
    signature: Literal["value", "content", "none"] = "value"
    in_range_test: bool = True
    data: Literal["loader", "split", "transforms"] = "loader"

    @property
    def leaf(self) -> str:
        """The key's name within its node."""
        return self.name.rpartition(".")[2]


# Larger values fail later, in torch, memory or on disk, or the trial never ends.
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
    Key("objective._target_", TARGET),
    Key("policy._target_", TARGET),
    Key("optimizer._target_", TARGET),
    Key("loop._target_", TARGET, optional=True),
    Key("loop.measure", text("the name of a measure, such as accuracy"), optional=True),
    Key("loop.goal", one_of("min", "max"), optional=True),
    Key("task", one_of(TRAIN, RANGE_TEST)),
    Key("epochs", whole(1, most=10**6), in_range_test=False),
    Key("batch_size", whole(1, most=10**9)),
    Key("accumulate", whole(1, most=10**6)),
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
    Key("optimizer.layer_decay", number(above=0, at_most=1), optional=True),
    Key("optimizer.no_decay", SWITCH, optional=True),
    Key("optimizer.closure", SWITCH, optional=True),
    Key("objective.mixup", number(at_least=0, most=100), optional=True),
    Key("objective.cutmix", number(at_least=0, most=100), optional=True),
    Key("range_test.mode", one_of("exp", "linear")),
    Key("range_test.start_lr", number(at_least=0, most=MOST_RATE)),
    Key("range_test.end_lr", RATE),
    Key("range_test.steps", whole(MINIMUM_RANGE_TEST_STEPS, most=10**5)),
    Key(
        "range_test.seeds",
        Allowed(_is_list_of_seeds, ("a list of whole numbers, each once, such as [0,1,2]",), most=MOST_SEED),
    ),
    Key("range_test.probe_share", number(at_least=0, at_most=1), optional=True),
    Key("data.val_fraction", MOMENTUM, data="split"),
    Key("data.split_seed", SEED, data="split"),
    Key("data.classes", NULL | list_of(whole(0), "a list of class numbers such as [3,7]"), data="split"),
    Key("data.root", signature="content"),
    Key("data.path", text("the path of the data"), optional=True, signature="content"),
    Key("data.files", signature="content"),
    Key("data.download", signature="none"),
    Key("data.size", whole(1, most=4096), optional=True),
    Key("data.test_part", NULL | one_of("val", "test"), optional=True),
    Key("data.max_cached_gb", number(at_least=0), optional=True, signature="none"),
    Key("data.fingerprint", one_of("content", "stat"), optional=True, signature="none"),
    Key("data.augment", TRANSFORMS, optional=True, data="transforms"),
    Key("data.evaluation", TRANSFORMS, optional=True, data="transforms"),
    Key("label_smoothing", number(at_least=0, below=1), signature="none"),
    Key("clip_norm", number(above=0, most=1e9) | NULL),
    Key("ema_decay", number(at_least=0, below=1) | NULL, in_range_test=False),
    Key("precision", one_of("auto", "fp32", "bf16")),
    Key("device", Allowed(_is_device, ("auto", "cpu", "cuda", "cuda:N"))),
    Key("threads", COUNT | AUTO, signature="none"),
    Key("deterministic", SWITCH),
    Key("compile", SWITCH, optional=True, in_range_test=False),
    Key("bn_recalibrate", SWITCH),
    Key("save_model", SWITCH, signature="none"),
    Key("rerun", SWITCH, signature="none"),
    Key("checkpoint_minutes", number(above=0, most=10**6), signature="none"),
    Key("target", number() | NULL, signature="none"),
    Key("target_accuracy", number(above=0, at_most=1) | NULL, signature="none"),
    Key("runs_dir", text("the path of a folder"), signature="none"),
    Key("tracking", signature="none"),
    Key("tracking.uri", text("a URI such as sqlite:///mlflow.db")),
    Key("tracking.experiment", text("a name")),
    Key("tracking.every", whole(1)),
    Key("tracking.system_metrics", SWITCH, optional=True),
    Key("tracking.ui_uri", NULL | PAGE),
)
CHECKED = {key.name: key for key in KEYS if key.allowed is not None}

# Nodes whose other keys are arguments of their `_target_`.
BUILT = tuple(key.name.removesuffix("._target_") for key in KEYS if key.name.endswith("._target_"))
# A preset's node with published figures. It belongs to the sweep, and preset.py checks it.
PUBLISHED = "published"
# The keys that the program itself reads; a node stands for all keys below it.
READ = (*BUILT, *(name for name in CHECKED if name.partition(".")[0] not in BUILT), PUBLISHED)
# Groups whose files set keys of the whole config.
GLOBAL_GROUPS = ("experiment", "recipe")
# The key of a trial's config for the variables of hydra.job.env_set, if there are any.
ENV_SET = "env_set"
# Earlier names of keys, which still work, and the names that replaced them.
EARLIER_NAMES = {"label_smoothing": "objective.label_smoothing", "target_accuracy": "target"}
# The `_target_` of `objective=auto`, for which the targets of the data decide.
AUTO_OBJECTIVE = "auto"

NOT_IN_SIGNATURE = tuple(key.name for key in KEYS if key.signature == "none" and "." not in key.name)
# Keys of the data node that say where its files are, and how they are fetched and cached.
PLACE_OF_DATA = tuple(key.leaf for key in KEYS if key.name.startswith("data.") and key.signature != "value")
# Keys of any node whose files count for the signature by content, not by path.
NAMES_FILES = tuple(key.leaf for key in KEYS if key.signature == "content")
# Keys of the data node that say how a data set is fetched and cached, which does not change its content.
KEEPING_OF_DATA = tuple(key for key in PLACE_OF_DATA if key not in NAMES_FILES)
SPLIT_KEYS = tuple(key.leaf for key in KEYS if key.data == "split")
TRANSFORM_KEYS = tuple(key.leaf for key in KEYS if key.data == "transforms")
NOT_FOR_THE_LOADER = (*SPLIT_KEYS, *TRANSFORM_KEYS, "files", "fingerprint")
# The key of range_test for the share of a sweep's steps that its probes may take.
PROBE_SHARE = "probe_share"
NOT_IN_PROBE = ("seed", "max_lr", "max_lr_scale", "target", "target_accuracy", "compile", "needs")
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
    "packed": whole(1, most=256) | AUTO,
}
# The keys, and those of the optimizer, in which the members of a pack may differ.
OF_ONE_MEMBER = ("seed", "policy", "max_lr", "max_lr_scale", "target", "rerun", "range_test", "needs", "runs_dir")
OF_ONE_OPTIMIZER = ("momentum", "weight_decay")

# Variables that hydra.job.env_set may not set for a trial, and what to do instead.
NOT_BY_ENV_SET = {
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS": "use threads=... to set a trial's number of threads",
    r"CUDA_VISIBLE_DEVICES": "the launcher assigns the GPUs: set it before the command",
    r"MLFLOW_.*": "jobs do not read it: use tracking.uri=..., or set it before the command",
    r"ONECYCLE_DATA": "it is read when the config is composed: use data.root=...",
    r"PYTHON[A-Z]+|(LD|DYLD)_.*": "it is read when Python starts: set it before the command",
    SECRET_VARIABLE: (
        "it looks like a secret, and env_set is written to disk: set it before the command, whose jobs inherit it"
    ),
}


def max_lr(config: Mapping[str, Any], measured: float | None = None) -> float | None:
    """A trial's peak rate: its `policy.max_lr` or, for auto, the `measured` rate, times its `max_lr_scale`.

    None for auto before the range test has run.
    """
    value = config["policy"]["max_lr"]
    rate = measured if value == "auto" else float(value)
    return None if rate is None else rate * config["max_lr_scale"]


@dataclass(frozen=True)
class Packing:
    """How many trainings may be packed with each other; `must_win`: only where a measurement says that it is faster."""

    most: int = 1
    must_win: bool = False


UNPACKED = Packing()


def pack_key(config: Config) -> str | None:
    """A text that is the same for trainings that can be packed with each other; None for a trial that never is."""
    if config["task"] != TRAIN or LOOP in config:
        return None
    same = {key: value for key, value in config.items() if key not in OF_ONE_MEMBER}
    same["data_signature"] = config["needs"]["data"]
    same["optimizer"] = {k: v for k, v in config["optimizer"].items() if k not in OF_ONE_OPTIMIZER}
    return json.dumps(same, sort_keys=True, default=str)


def range_test(config: Config) -> Config:
    """The config of the range test for a trial; trials that differ only in policy, epochs or seed share one."""
    kept = {key: value for key, value in config.items() if key not in NOT_IN_RANGE_TEST}
    # Only the linear mode evaluates the model, and so uses batch-norm statistics.
    if config["range_test"]["mode"] == "exp" or not kept.get("bn_recalibrate"):
        kept.pop("bn_recalibrate", None)
    ramp = {key: value for key, value in config["range_test"].items() if key != PROBE_SHARE}
    return kept | {"task": RANGE_TEST, "range_test": ramp}


def probe(config: Config, trainings: int) -> Config:
    """The config of the probe for a training; trainings that differ only in seed, target or max_lr_scale share one.

    `trainings` is the number of trainings that share it, which decides its length.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_IN_PROBE}
    share = config["range_test"].get(PROBE_SHARE, 0)
    return kept | {"task": PROBE, "save_model": False, "probe": {"share": share, "trainings": trainings}}


def probe_steps(config: Config, steps: int) -> int:
    """The most steps that a probe may take, for trainings of `steps` steps each."""
    return int(config["probe"]["share"] * config["probe"]["trainings"] * steps)


def planned_steps(config: Config, steps: int = 0) -> int:
    """The most steps that a trial may take, all seeds of a range test together; `steps` are those of a training."""
    if config["task"] == RANGE_TEST:
        return config["range_test"]["steps"] * len(config["range_test"]["seeds"])
    return probe_steps(config, steps) if config["task"] == PROBE else steps


def rate_from(config: Config) -> tuple[str, str | None]:
    """What finds the trial's rate, probe or range test, and its signature; that is None if the rate was typed."""
    if probe := config["needs"].get(PROBE):
        return "probe", probe
    return "range test", config["needs"][RANGE_TEST]


def check_split(**values: Any) -> None:
    """Raise ValueError for the first of these split keys of the data node with an invalid value."""
    for name, value in values.items():
        if allowed := CHECKED[f"data.{name}"].allowed:
            require(name, value, allowed)


def split(config: Config) -> dict[str, Any]:
    """How the data set is divided: the keyword arguments of `images.prepare`."""
    return {key: config["data"][key] for key in SPLIT_KEYS}


def what_counts(config: Config) -> Config:
    """The part of a config that can change the result of a trial."""
    counts = {key: value for key, value in config.items() if key not in (*NOT_IN_SIGNATURE, PUBLISHED)}
    # Without compile=true a trial has the same signature as before there was this key.
    return counts if counts.get("compile") else {key: value for key, value in counts.items() if key != "compile"}


def check(config: Config) -> None:
    """Raise ConfigError for the first key with an invalid value."""
    for key, value in keys.leaves(config, lists=False):
        if value == "???":
            raise ConfigError(f"{key} has no default: add {key}=... to the command")
    for key in KEYS:
        if key.allowed is not None:
            check_value(key.name, node_of(config, key.name), key.allowed, optional=key.optional)
    for key in ("_target_", "measure", "goal"):
        if config.get(LOOP) is not None and key not in config[LOOP]:
            raise ConfigError(f"{LOOP}.{key} is missing, it must be {CHECKED[f'{LOOP}.{key}'].allowed}")
    _check_range_test(config["range_test"])
    check_env_set(config.get(ENV_SET, ()))


def node_of(config: Config, key: str) -> Config:
    """The node of a config that contains a key; empty if the config has no such node."""
    name = key.rpartition(".")[0]
    node = config.get(name) if name else config
    return node if isinstance(node, dict) else {}


def check_value(key: str, node: Mapping[str, Any], allowed: Allowed, *, optional: bool = False) -> None:
    """Raise ConfigError if the key's value in its node is invalid, or missing though it is not optional."""
    leaf = key.rpartition(".")[2]
    if leaf in node:
        if error := allowed.error(key, node[leaf]):
            raise ConfigError(error)
    elif not optional:
        raise ConfigError(f"{key} is missing, it must be {allowed}")


def _check_range_test(test: Config) -> None:
    """Raise ConfigError for values of the node range_test that contradict each other."""
    start, end, steps = test["start_lr"], test["end_lr"], test["steps"]
    if start >= end:
        raise ConfigError(f"range_test.start_lr must be below range_test.end_lr ({end}), got {start}")
    # This is the bound of range_test.Ramp, which cannot be imported here.
    if (end - start) / end <= steps * 2.0**-50:
        raise ConfigError(
            f"range_test.end_lr must be above range_test.start_lr ({start}) by enough for the rate to rise at "
            f"each of {steps} steps, got {end}"
        )
    if (count := len(test["seeds"])) > MOST_RANGE_TEST_SEEDS:
        raise ConfigError(f"range_test.seeds must be at most {MOST_RANGE_TEST_SEEDS} seeds, got {count}")
    if test["mode"] == "exp" and start == 0:
        raise ConfigError("range_test.start_lr must be above 0 where range_test.mode is exp, got 0")


def check_keys(config: Mapping[str, Any], read_elsewhere: Iterable[str] = ()) -> None:
    """Raise UnknownKey for the first key of an unresolved config that nothing reads.

    `read_elsewhere` are keys that something outside the config reads. The keys of a node with a `_target_` are left to
    its target to check, except those that the trial sets itself.
    """
    values = dict(keys.leaves(config))
    optimizer = config.get("optimizer")
    for key, instead in REPLACED.items():
        if isinstance(optimizer, Mapping) and key in optimizer and (key != "betas" or "beta2" in optimizer):
            raise UnknownKey(f"unknown key optimizer.{key}; {instead.format(optimizer[key])}", f"optimizer.{key}")
    for key in (unread := keys.unread(values, READ, read_elsewhere)):
        if (group := re.split(r"[.\[]", key)[0]) in GLOBAL_GROUPS:
            file = f"a file in {group}/ that sets keys of the whole config must begin with # @package _global_"
            raise UnknownKey(f"unknown key {key}: {file}", key)
        known = [*READ, *GLOBAL_GROUPS, *(other for other in values if other not in unread)]
        raise UnknownKey(keys.unknown(key.removesuffix("._target_"), known, values[key]), key)


def check_launcher(settings: Mapping[str, Any], known: Mapping[str, Allowed]) -> None:
    """Raise ConfigError for a key of hydra.launcher that is unknown, missing or invalid."""
    for key in settings:
        if key not in known:
            raise ConfigError(unknown_to_launcher(key, settings[key], list(known)))
    for key, allowed in known.items():
        check_value(f"{LAUNCHER}.{key}", settings, allowed)


def unknown_to_launcher(key: str, value: Any, known: Sequence[str]) -> str:
    """The message about a key that the launcher does not have."""
    key, known = f"{LAUNCHER}.{key}", [f"{LAUNCHER}.{one}" for one in known]
    if keys.suggestion(key, known):
        return keys.unknown(key, known)
    if (others := f"{LAUNCHER}.additional_parameters") in known:
        option = key.removeprefix(f"{LAUNCHER}.")
        return f"unknown key {key}; other options of sbatch are written '{others}={{{option}: \"{value}\"}}'"
    return f"{keys.unknown(key, known)}; those of a cluster need hydra/launcher=slurm"


def check_env_set(names: Iterable[str]) -> None:
    """Raise ConfigError for a variable that hydra.job.env_set may not set."""
    for name in names:
        for pattern, instead in NOT_BY_ENV_SET.items():
            if re.fullmatch(pattern, name, re.IGNORECASE):
                raise ConfigError(f"hydra.job.env_set.{name} cannot be set for a job: {instead}")


def samples_per_step(config: Config) -> int:
    """How many samples an optimizer update has: those of `accumulate` batches."""
    return config["batch_size"] * config.get("accumulate", 1)


def steps_per_epoch(config: Config, samples: int) -> int:
    """The number of steps in an epoch of this many training samples; the last short batch is dropped."""
    return samples // samples_per_step(config)


def check_batch(config: Config, samples: int) -> None:
    """Raise ConfigError if a step has more samples than the training set."""
    key = "batch_size" if config.get("accumulate", 1) == 1 else "batch_size * accumulate"
    check_at_most(key, samples_per_step(config), samples, f"the {samples} training samples")


def check_at_most(key: str, value: int, bound: int, name: str) -> None:
    """Raise ConfigError for a value above a bound, which the message calls by its name."""
    if value > bound:
        raise ConfigError(f"{key} must be at most {name}, got {value}")


def check_threads(threads: Any, cpus_elsewhere: int | None) -> None:
    """Raise ConfigError for more threads than CPUs: `cpus_elsewhere` of a job, or else those of this machine."""
    if isinstance(threads, int):
        name = f"hydra.launcher.cpus_per_task={cpus_elsewhere}"
        bound = cpus_elsewhere or _cpus()
        check_at_most("threads", threads, bound, name if cpus_elsewhere else f"the {bound} CPUs of this machine")
