"""The keys of a config: which of them are read, and what was probably meant by one that is not."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

RATE = "max_lr"
RATE_ELSEWHERE = ("lr", "lr_max", "learning_rate", "init_lr", "peak_lr", "eta")
# What other programs call a key of ours.
SYNONYMS = {
    **dict.fromkeys(RATE_ELSEWHERE, RATE),
    **dict.fromkeys(("lr_scale", "lr_mult"), "max_lr_scale"),
    **dict.fromkeys(("bs", "batch", "batchsize", "train_batch_size", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("num_epochs", "max_epochs", "n_epochs", "n_epoch", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("steps", "max_steps", "num_steps", "total_steps", "iterations", "max_iter"), "epochs"),
    **dict.fromkeys(("seeds", "random_seed", "manual_seed", "random_state"), "seed"),
    **dict.fromkeys(("wd", "l2", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("mom", "beta", "beta1"), "optimizer.momentum"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "sched", "schedule"), "policy"),
    **dict.fromkeys(("arch", "architecture", "net", "network", "backbone"), "model"),
    **dict.fromkeys(("dataset", "datasets", "datamodule"), "data"),
    **dict.fromkeys(("data_dir", "data_root", "data_path"), "data.root"),
    **dict.fromkeys(("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val", "max_grad_norm"), "clip_norm"),
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision", "dtype"), "precision"),
    **dict.fromkeys(("cuda", "gpu", "accelerator"), "device"),
    **dict.fromkeys(("smoothing", "smooth"), "label_smoothing"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir", "logdir", "run_dir"), "runs_dir"),
    **dict.fromkeys(("tracking_uri", "mlflow_tracking_uri", "mlflow_uri"), "tracking.uri"),
    **dict.fromkeys(("experiment_name", "project", "project_name"), "tracking.experiment"),
}
# What they call a key of one node.
WITHIN = {
    "range_test": dict.fromkeys(("num_it", "num_iter", "num_steps", "iterations", "iters", "num_training"), "steps"),
    "tracking": {"experiment_name": "experiment", "name": "experiment", "tracking_uri": "uri"},
    "hydra.launcher": {
        **dict.fromkeys(("n_jobs", "num_workers", "n_workers", "max_workers"), "workers"),
        **dict.fromkeys(("gpus", "gpu", "num_gpus"), "gpus_per_node"),
        **dict.fromkeys(("mem", "memory"), "mem_gb"),
        **dict.fromkeys(("cpus", "num_cpus"), "cpus_per_task"),
        **dict.fromkeys(("time", "timeout", "time_limit", "walltime"), "timeout_min"),
        "queue": "partition",
    },
}
# An interpolation that has no other within.
INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
# Resolvers of OmegaConf's whose argument is a key.
OF_KEYS = ("oc.select", "oc.deprecated", "oc.dict.keys", "oc.dict.values")


def unknown(key: str, known: Sequence[str], value: Any = ...) -> str:
    """The line for a key that nothing reads; `value` is what it was given, if that is to be shown."""
    meant = suggestion(key, known)
    if meant == RATE and _leaf(key).lower() in RATE_ELSEWHERE:
        return f"unknown key {key}; the rate is {RATE}{'' if value is ... else f'={value}'}"
    if meant:
        return f"unknown key {key}; did you mean {meant}?"
    node = _node(key)
    if siblings := [_leaf(other) for other in dict.fromkeys(known) if node and _node(other) == node]:
        return f"unknown key {key}; the keys of {node} are {', '.join(siblings)}"
    return f"unknown key {key}: nothing reads it (--cfg job shows the keys there are)"


def suggestion(key: str, known: Sequence[str]) -> str | None:
    """The known key that was probably meant by another one."""
    node, leaf = _node(key), _leaf(key).lower().replace("-", "_")
    siblings = {_leaf(other): other for other in known if _node(other) == node}
    if near := difflib.get_close_matches(leaf, siblings, 1, 0.7):
        return siblings[near[0]]
    if (within := f"{node}.{WITHIN.get(node, {}).get(leaf)}") in known:
        return within
    beside = [other for other in known if difflib.get_close_matches(leaf, [_leaf(other)], 1, 0.8)]
    if node and (near := difflib.get_close_matches(key, beside, 1, 0.85)):
        return near[0]
    meant = SYNONYMS.get(leaf)
    if meant and (not node or not siblings or _node(meant) in ("", node)):
        return meant
    by_leaf = {_leaf(other): other for other in reversed(known)}
    near = difflib.get_close_matches(leaf, by_leaf, 1, 0.8)
    return by_leaf[near[0]] if near else None


def _node(key: str) -> str:
    return key.rpartition(".")[0]


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def leaves(node: Any, path: str = "", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    """The values below a key of a config, each with its own key; an empty node is a value.

    `lists` is whether each item of a list is a value, or the list is one.
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key), lists=lists)
    elif lists and isinstance(node, list) and node:
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def unread(values: Mapping[str, Any], known: Sequence[str], read_elsewhere: Iterable[str] = ()) -> list[str]:
    """Those of a config's keys that are not known, and that no interpolation of a known one reads either.

    `values` are its leaves, not resolved; a known key stands for what lies below it too.
    """
    read, rest, nodes = {*known, *read_elsewhere}, dict(values), {_node(key) for key in known}
    while found := [key for key in rest if key in nodes or any(place in read for place in _places(key))]:
        for key in found:
            read.update(references(key, rest.pop(key)))
    return list(rest)


def read_in(node: Mapping[str, Any]) -> frozenset[str]:
    """The keys that the values of a node read by interpolation."""
    return frozenset(name for key, value in leaves(node) for name in references(key, value))


def references(key: str, value: Any) -> Iterator[str]:
    """The keys that a value reads by interpolation; of one whose name is interpolated itself, the node it is in."""
    text = value if isinstance(value, str) else ""
    while found := INTERPOLATION.search(text):
        text = f"{text[: found.start()]}\0{text[found.end() :]}"
        resolver, colon, argument = found[1].partition(":")
        if colon and resolver.strip() not in OF_KEYS:
            continue
        name = (argument.partition(",")[0] if colon else found[1]).partition("\0")[0].strip()
        dots = len(name) - len(name.lstrip("."))
        above = _parts(key)[:-dots] if dots else []
        yield ".".join([*above, *(part for part in _parts(name) if part)])


def _parts(key: str) -> list[str]:
    return key.replace("[", ".").replace("]", "").split(".")


def _places(key: str) -> Iterator[str]:
    """A key and the nodes that it is in, with the places of a list written after dots."""
    parts = _parts(key)
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))
