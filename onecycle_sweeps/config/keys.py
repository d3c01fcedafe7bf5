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
    **dict.fromkeys(("torch_compile", "compiled", "compile_model"), "compile"),
    **dict.fromkeys(("smoothing", "smooth"), "label_smoothing"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"), "accumulate"),
    **dict.fromkeys(("ema", "ema_momentum", "model_ema_decay"), "ema_decay"),
    **dict.fromkeys(("criterion", "loss", "loss_fn", "metric"), "objective"),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir", "logdir", "run_dir"), "runs_dir"),
    **dict.fromkeys(("tracking_uri", "mlflow_tracking_uri", "mlflow_uri"), "tracking.uri"),
    **dict.fromkeys(("experiment_name", "project", "project_name"), "tracking.experiment"),
}
# What other programs call a key of one of our nodes.
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
# The keys of the launchers, which people type without their node.
LAUNCHERS = {
    "": ("workers", "jobs_per_gpu", "packed"),
    "hydra/launcher=slurm ": (
        *("partition", "account", "qos", "constraint", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min"),
        *("array_parallelism", "array_size", "setup", "srun_args", "additional_parameters", "wait", "dry_run"),
    ),
}
# An interpolation that contains no other one.
INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
# Resolvers of OmegaConf that take a key as their argument.
KEY_RESOLVERS = ("oc.select", "oc.deprecated", "oc.dict.keys", "oc.dict.values")


def unknown(key: str, known: Sequence[str], value: Any = ...) -> str:
    """The message about a key that nothing reads; it shows `value`, the key's value, where that helps."""
    meant = suggestion(key, known)
    if meant == RATE and _leaf(key).lower() in RATE_ELSEWHERE:
        return f"unknown key {key}; the rate is {RATE}{'' if value is ... else f'={value}'}"
    if meant:
        return f"unknown key {key}; did you mean {meant}?"
    node = _node(key)
    if siblings := [_leaf(other) for other in dict.fromkeys(known) if node and _node(other) == node]:
        return f"unknown key {key}; the keys of {node} are {', '.join(siblings)}"
    for choice, of_launcher in LAUNCHERS.items():
        if key in of_launcher:
            return f"unknown key {key}; did you mean {choice}hydra.launcher.{key}, with -m?"
    return f"unknown key {key}: nothing reads it (--cfg job lists the keys)"


def suggestion(key: str, known: Sequence[str]) -> str | None:
    """The known key that an unknown one probably stands for."""
    node, leaf = _node(key), _leaf(key).lower().replace("-", "_")
    siblings = {_leaf(other): other for other in known if _node(other) == node}
    if near := nearest(leaf, siblings, 0.7):
        return siblings[near]
    if (within := f"{node}.{WITHIN.get(node, {}).get(leaf)}") in known:
        return within
    beside = [other for other in known if nearest(leaf, [_leaf(other)], 0.8)]
    if node and (near := nearest(key, beside, 0.85)):
        return near
    meant = SYNONYMS.get(leaf)
    if meant and (not node or not siblings or _node(meant) in ("", node)):
        return meant
    by_leaf = {_leaf(other): other for other in reversed(known)}
    near = nearest(leaf, by_leaf, 0.8)
    return by_leaf[near] if near else None


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """The most similar of the known names; None if the similarity of all of them is lower."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, similarity)), None)


def _node(key: str) -> str:
    return key.rpartition(".")[0]


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def leaves(node: Any, path: str = "", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    """Each value at or below a place in a config, with its key, such as `a.b[0]`; an empty node is a value.

    With `lists=False` a list is one value, with `lists=True` each of its items is one.
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key), lists=lists)
    elif lists and isinstance(node, list) and node:
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each node with a `_target_` at or below a place in a config, with its key."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield path, node
        for key, inner in node.items():
            yield from targets(inner, f"{path}.{key}")
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from targets(inner, f"{path}[{index}]")


def unread(values: Mapping[str, Any], known: Sequence[str], read_elsewhere: Iterable[str] = ()) -> list[str]:
    """The keys of a config that are neither known nor read by the interpolations of known keys.

    `values` are its unresolved leaves; a known key stands for all keys below it.
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
    """The keys that a value reads by interpolation; where part of such a key is interpolated, the node around it."""
    text = value if isinstance(value, str) else ""
    while found := INTERPOLATION.search(text):
        text = f"{text[: found.start()]}\0{text[found.end() :]}"
        resolver, colon, argument = found[1].partition(":")
        if colon and resolver.strip() not in KEY_RESOLVERS:
            continue
        name = (argument.partition(",")[0] if colon else found[1]).partition("\0")[0].strip()
        dots = len(name) - len(name.lstrip("."))
        above = parts_of(key)[:-dots] if dots else []
        yield ".".join([*above, *(part for part in parts_of(name) if part)])


def parts_of(key: str) -> list[str]:
    """The parts of a key, among them the indices of lists."""
    return key.replace("[", ".").replace("]", "").split(".")


def _places(key: str) -> Iterator[str]:
    """A key and the nodes that contain it; the indices of lists follow dots."""
    parts = parts_of(key)
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))
