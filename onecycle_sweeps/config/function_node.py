"""The node `loop`, a user's own training function: what it is called with, and which keys of a config reach it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import LOOP, Config, ConfigError
from onecycle_sweeps.measures import HEADLINES, Measure

# Keys of the node that are for the trial; a function may have them as parameters too.
FOR_THE_TRIAL = ("measure", "goal")
# Nodes and keys that reach the function only as parameters of their name.
BY_NAME = (
    *("model", "data", "objective", "optimizer", "batch_size", "clip_norm", "label_smoothing", "precision"),
    *("accumulate", "ema_decay", "bn_recalibrate", "compile"),
)
# The training functions of this package; a trial does not save what their trainers hold.
TRAINERS = {
    "onecycle_sweeps.lightning.train": "Lightning's Trainer",
    "onecycle_sweeps.transformers.train": "Hugging Face's Trainer",
}
NOT_PLAIN = {
    inspect.isgeneratorfunction: "a generator function (it has a yield)",
    inspect.iscoroutinefunction: "an async function",
    inspect.isasyncgenfunction: "an async generator function",
}
FRACTIONS = {measure.name: measure for measure in HEADLINES.values() if measure.is_fraction}


def name(config: Config) -> str:
    """The dotted name of the function."""
    return config[LOOP]["_target_"]


def nothing_saved(config: Config) -> str:
    """Why a training has saved nothing; the end of a sentence."""
    if trainer := TRAINERS.get(name(config)):
        return f"a trial does not save {trainer}"
    return f"{name(config)} has saved nothing (run.checkpoint)"


def measure(config: Mapping[str, Any]) -> Measure:
    """What trials of the function are compared by: the `measure` and `goal` of its node.

    Measures that the program has as fractions, such as accuracy, are fractions here too.
    """
    node = config[LOOP]
    known = FRACTIONS.get(node["measure"])
    return known if known and known.goal == node["goal"] else Measure(node["measure"], node["goal"])


def given(config: Config) -> tuple[str, ...]:
    """The keys of BY_NAME that the function has as parameters, unless its own node sets them."""
    node = config[LOOP]
    takes = nodes.parameters(nodes.located(f"{LOOP}._target_", node["_target_"]))
    return tuple(key for key in BY_NAME if key in takes and key not in node)


def reached(config: Config) -> tuple[str, ...]:
    """The keys of BY_NAME that can change what the function does: what it gets, and the `batch_size` of its `data`."""
    found = given(config)
    return tuple(key for key in BY_NAME if key in found or (key == "batch_size" and "data" in found))


def reduced(config: Config) -> Config:
    """The config without the nodes and keys that do not reach the function."""
    kept = reached(config)
    return {key: value for key, value in config.items() if key not in BY_NAME or key in kept}


def check(config: Config, typed: Mapping[str, str]) -> None:
    """Raise ValueError if the function cannot be called with its node, ConfigError for a key that does not reach it.

    `typed` are the overrides of the command by their keys. The function is imported, and not called.
    """
    target, kept = name(config), reached(config)
    for key, value in typed.items():
        if (first := key.partition(".")[0]) in BY_NAME and first not in kept:
            raise ConfigError(
                f"{key}={value} does not reach {target}, which has no parameter {first}: leave it out, or give the "
                "function one"
            )
    if config["save_model"]:
        raise ConfigError(f"save_model=true does not reach {target}: save what you need in run.folder")
    measure(config)
    nodes.check(LOOP, *_node_and_given(config))


def bound(config: Config) -> Callable[..., Any]:
    """The function with the arguments from its node; the caller adds the run, and by name what else reaches it.

    Nodes among the parameters are built here.
    """
    return nodes.bound(LOOP, *_node_and_given(config))


def _node_and_given(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The arguments in the node, and the names of those that the trial gives; ValueError if none can take the run."""
    target = config[LOOP]["_target_"]
    function = nodes.located(f"{LOOP}._target_", target)
    for is_one, kind in NOT_PLAIN.items():
        if is_one(function):
            raise ValueError(
                f"{LOOP}._target_={target} must be a plain function, got {kind}: a call of it runs no step"
            )
    takes = nodes.parameters(function)
    node = {key: value for key, value in config[LOOP].items() if key not in FOR_THE_TRIAL or key in takes}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = next(iter(takes.values()), None)
    if first is None or first.kind not in (*positional, inspect.Parameter.VAR_POSITIONAL):
        raise ValueError(f"{LOOP}._target_={target} must take the run as its first parameter")
    if first.name in node:
        raise ValueError(f"{LOOP}.{first.name} is the run, which the trial gives {target}: leave it out")
    return node, (first.name, *given(config))
