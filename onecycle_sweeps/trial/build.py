"""Builds a trial: the settings that its first attempt fixes (rate, device, precision), its data and its net.

`precision=auto` follows this table, never a timing:

| device computes in bf16 | fewer than 50,000 weights | grouped convolutions | all others |
|---|---|---|---|
| CUDA (capability 8.0 and up) | fp32 | bf16 | bf16 |
| CPU (avx512_bf16, amx_bf16, or Arm's bf16) | fp32 | fp32 | bf16 |
| neither | fp32 | fp32 | fp32 |

`scripts/benchmark precision` measures the CPU's row, `scripts/gpu-check step` CUDA's. On an H200 (docs/gpu) bf16 makes
a step 1.5 to 2.0 times as fast if the GPU is busy (ResNet-9 and WRN-22 at batch 512), and up to a third slower if it
waits for kernels to be launched (all nets at batch 128, deep and narrow ones also at 512).
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onecycle_sweeps import fingerprints, images, measures, provenance
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.images import Facts, ImageBatches
from onecycle_sweeps.images.transforms import transforms
from onecycle_sweeps.loop import Batches, Learner, Objective
from onecycle_sweeps.objectives.classification import Classification
from onecycle_sweeps.provenance import Code
from onecycle_sweeps.scheduler import check_groups
from onecycle_sweeps.trial_folder import TrialFolder

Resolved = dict[str, Any]
# The rate of an optimizer that has no default; the policy replaces it before the first step.
PLACEHOLDER_LR = 1e-3
# In a smaller net the casts to bf16 take longer than its faster products save.
SMALL_NET = 50_000
CUDA_CAPABILITY = (8, 0)
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
CPU_INFO = Path("/proc/cpuinfo")
# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
# The files of NVIDIA's and of AMD's driver.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")


def begin(
    trial: TrialFolder,
    config: Config,
    rate: tuple[float | None, str | None],
    fixed: Resolved | None = None,
    code: Code | None = None,
    *,
    resumed: bool = False,
) -> tuple[Resolved, Learner]:
    """The content of resolved.json, and the learner before the trial's first step (of a range test's first seed).

    Settings that an earlier attempt `fixed` are kept; if the trial is `resumed`, all of its resolved.json is.
    Raises ValueError, in one line, for data or a net that cannot be loaded or built.
    """
    facts, fixed = read_facts(trial, config), fixed or {}
    prepare_torch(config, choose_device(config, fixed), choose_threads(config, fixed))
    seed = seeds(config)[0]
    net = make_net(config, facts.offered, seed)
    resolved = fixed if resumed else resolve(config, facts, net, rate, fixed, code)
    with reporting_out_of_memory("the data set"):
        data = load_data(trial, config, facts, resolved)
    return resolved, make_learner(config, resolved, data, seed, net)


def seeds(config: Config) -> list[int]:
    """The seeds that the trial trains with: its own, or those of a range test."""
    return config["range_test"]["seeds"] if config["task"] == "range_test" else [config["seed"]]


def choose_max_lr(config: Config, fixed: Resolved, find_rate: Callable[[], float]) -> tuple[float | None, str | None]:
    """The trial's maximum rate, scaled, and where it comes from; a range test has none.

    A rate that an earlier attempt `fixed` is kept; `find_rate` is called if `max_lr` is auto.
    """
    if config["task"] == "range_test":
        return None, None
    if fixed.get("max_lr") is not None:
        return fixed["max_lr"], fixed["max_lr_from"]
    if (rate := schema.max_lr(config)) is not None:
        return rate, "config"
    return schema.max_lr(config, find_rate()), f"range_test:{config['needs']['range_test']}"


def choose_device(config: Config, fixed: Resolved) -> str:
    """The device that an earlier attempt fixed, else that of the config."""
    available = "cuda" if torch.cuda.is_available() else "cpu"
    return fixed.get("device") or (available if config["device"] == "auto" else config["device"])


def choose_threads(config: Config, fixed: Resolved) -> int:
    """The number of threads that an earlier attempt fixed, else that of the config."""
    return fixed.get("threads") or (1 if config["threads"] == "auto" else config["threads"])


def prepare_torch(config: Config, device: str, threads: int) -> None:
    """Set torch's threads and determinism for the trial; raises ValueError if the fixed device is missing."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"the trial began on {device}, which this machine lacks: rerun=true starts it again")
    keep_freed_memory(device)
    torch.set_num_threads(threads)
    if config["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config["deterministic"] != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config["deterministic"])


def resolve(
    config: Config,
    facts: Facts,
    net: nn.Module,
    rate: tuple[float | None, str | None],
    fixed: Resolved | None = None,
    code: Code | None = None,
) -> Resolved:
    """The content of resolved.json: rate, device, precision, threads, and the code behind the trial.

    Settings that an earlier attempt `fixed` are kept; `code` is by default the code on disk. If the net has a
    `normalisation`, the (mean, std) of each channel in the units of uint8, images are normalised with it, not with the
    training set's statistics.
    """
    fixed = fixed or {}
    device, steps_per_epoch = choose_device(config, fixed), facts.train // config["batch_size"]
    if config["task"] == "range_test":
        total_steps = config["range_test"]["steps"] * len(config["range_test"]["seeds"])
    else:
        total_steps = config["epochs"] * steps_per_epoch
    precision = choose_precision(device, net) if config["precision"] == "auto" else config["precision"]
    return {
        "max_lr": rate[0],
        "max_lr_from": rate[1],
        "steps_per_epoch": steps_per_epoch,
        "total_steps": total_steps,
        "device": device,
        "precision": fixed.get("precision") or precision,
        "threads": choose_threads(config, fixed),
        **gpu(device),
        "normalisation": getattr(net, "normalisation", None),
        "measures": measures.as_records(make_objective(config).measures),
        **provenance.as_record(code or provenance.code_of_trial(config)),
        "data": {
            "train": facts.train,
            "val": facts.val,
            "test": facts.test,
            "classes": facts.num_classes,
            "skipped": facts.skipped,
        },
    }


def gpu(device: str) -> Resolved:
    """The GPU, and the settings of torch that decide how it computes; empty for a CPU."""
    if not device.startswith("cuda"):
        return {}
    card, cudnn = torch.cuda.get_device_properties(device), torch.backends.cudnn
    return {
        "gpu": {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": cudnn.version(),
            "cudnn_benchmark": cudnn.benchmark,
            "tf32_convolutions": cudnn.allow_tf32,
            "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        }
    }


def lost_gpu() -> str | None:
    """The error, such as a failed assertion in a kernel, after which this process cannot use its GPU; else None.

    It is raised by whichever call comes next, whose own message says less.
    """
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def read_facts(trial: TrialFolder, config: Config) -> Facts:
    """The facts of the trial's data set, which is decoded if that has not been done.

    Raises ValueError, with the names of the files, if its data or weights have changed since it was planned.
    """
    check = partial(check_files, trial, config)
    check()
    return images.prepare(nodes.loader(config), _cache(trial, config), check=check, **schema.split(config))


def check_files(trial: TrialFolder, config: Config) -> None:
    """Raise ValueError, in one line that names them, if files of the trial changed since it was planned."""
    weights = os.path.abspath(os.path.expanduser(str(config["model"].get("weights_file"))))
    # A missing file of weights is reported by the net that reads it.
    planned: dict[str, str] = config["needs"].get("files", {})
    files = {path: value for path, value in planned.items() if path != weights or os.path.exists(path)}
    fingerprints.check(files, fingerprints.memos(trial.runs_dir))


def load_data(trial: TrialFolder, config: Config, facts: Facts, resolved: Resolved) -> ImageBatches:
    """The trial's data set on its device, with its transforms and the net's normalisation."""
    facts = normalised(facts, resolved.get("normalisation"))
    loader = nodes.loader(config)
    data = images.load(_cache(trial, config), facts, config["batch_size"], resolved["device"], loader)
    check = partial(check_files, trial, config) if data.train.undecoded else data.check
    return replace(data, check=check, **transforms(config, facts))


def normalised(facts: Facts, normalisation: Any) -> Facts:
    """The facts with a net's own (mean, std) of each channel, if it has any."""
    if not normalisation:
        return facts
    mean, std = map(tuple, normalisation)
    return replace(facts, mean=mean, std=std)


def make_objective(config: Config) -> Objective:
    """The objective of the trial."""
    return Classification(config["label_smoothing"])


def make_net(config: Config, offered: Mapping[str, Any], seed: int | None = None) -> Any:
    """The net of the config's node; with `seed` its weights depend only on that."""
    if seed is not None:
        nodes.seed_generators(seed)
    return nodes.build("model", config["model"], **offered)


def make_learner(config: Config, resolved: Resolved, data: Batches, seed: int, net: nn.Module | None = None) -> Learner:
    """The learner before a trial's first step; `net` is the net with the weights of `seed`, if it has been built."""
    built = net if net is not None else make_net(config, data.offered, seed)
    built = built.to(resolved["device"]).to(memory_format=torch.channels_last)
    return Learner(
        built,
        make_optimizer(config["optimizer"], built),
        data,
        make_objective(config),
        seed,
        bf16=resolved["precision"] == "bf16",
        clip_norm=config["clip_norm"],
    )


def make_optimizer(node: Config, net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config node for a net; if the node has a `beta2`, its `momentum` is beta1."""
    node = dict(node)
    create, scale = nodes.located("optimizer._target_", node.pop("_target_")), node.pop("body_lr_scale", 1)
    if "beta2" in node:
        node["betas"] = (node.pop("momentum"), node.pop("beta2"))
    takes = nodes.parameters(create)
    if "lr" in takes and takes["lr"].default is takes["lr"].empty:
        node["lr"] = PLACEHOLDER_LR
    nodes.check_arguments("optimizer", node, create, given=[*list(takes)[:1], "lr"])
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = create(parameters if scale == 1 else _head_and_body(net, parameters, scale), **node)
    check_groups(optimizer)
    return optimizer


def _head_and_body(net: nn.Module, parameters: list[nn.Parameter], scale: float) -> list[dict[str, Any]]:
    """The param groups of head and body, the body's with `lr_scale`; raises ValueError if either is empty."""
    in_head = {id(parameter) for parameter in getattr(net, "head_parameters", list)()}
    head, body = ([p for p in parameters if (id(p) in in_head) is within] for within in (True, False))
    if not head or not body:
        lacks = "a separate head" if not head else "a trained body"
        raise ValueError(f"optimizer.body_lr_scale must be 1 for a model without {lacks}, got {scale}")
    return [{"params": head}, {"params": body, "lr_scale": scale}]


def choose_precision(device: str, net: nn.Module) -> str:
    """The precision in which this net trains fastest on this device, by the table at the top."""
    if sum(weights.numel() for weights in net.parameters()) < SMALL_NET:
        return "fp32"
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability(device) >= CUDA_CAPABILITY else "fp32"
    # oneDNN computes grouped convolutions slower in bf16 than in fp32.
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    grouped = any(isinstance(part, convolutions) and part.groups > 1 for part in net.modules())
    return "bf16" if cpu_computes_bf16() and not grouped else "fp32"


def cpu_computes_bf16(info: Path = CPU_INFO) -> bool:
    """Whether this machine's processor multiplies in bf16, by the flags in /proc/cpuinfo; False without that file."""
    try:
        listed = re.search(r"^(?:flags|Features)\s*:(.*)$", info.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    return listed is not None and not CPU_FLAGS.isdisjoint(listed[1].split())


@contextmanager
def reporting_out_of_memory(what: str) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into a ValueError of one line that names `what`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # The rest of torch's message is advice on its own settings.
        reason = ". ".join(" ".join(str(error).split()).split(". ")[:3])
        raise ValueError(f"{what} does not fit into the GPU's memory: {reason}") from error


def keep_freed_memory(device: str = "auto") -> None:
    """Keep the memory of freed tensors in this process, for trials on a CPU under glibc.

    By default glibc returns large blocks to the system, which clears them before it gives them to the next step: up to
    a fifth of a small net's step. This applies to the calling thread and to those that it starts, not to threads that
    already have an arena. Whether there is a GPU is read from driver files, because a call of CUDA would initialise it
    before a trial's environment is set.
    """
    on_gpu = device.startswith("cuda") or (device == "auto" and any(map(os.path.exists, GPU_DRIVERS)))
    if not sys.platform.startswith("linux") or on_gpu:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
        mallopt(parameter, value)


def _cache(trial: TrialFolder, config: Config) -> Path:
    return trial.runs_dir / "data" / config["needs"]["data"]
