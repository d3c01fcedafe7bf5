"""Builds a trial: the settings that its first attempt fixes (rate, device, precision), its data and its net.

`precision=auto` follows this table, never a timing:

| device computes in bf16 | fewer than 50,000 weights | grouped convolutions | all others |
|---|---|---|---|
| CUDA (capability 8.0 and up) | fp32 | bf16 | bf16 |
| CPU (avx512_bf16, amx_bf16, or Arm's bf16) | fp32 | fp32 | bf16 |
| neither | fp32 | fp32 | fp32 |

`scripts/benchmark precision` measures the CPU's row, `scripts/gpu-check step` CUDA's. On an H200 (docs/gpu) bf16 makes
a step of most nets 1.3 to 2.5 times as fast, and of MobileNetV2 at batch 128 a sixth slower.
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
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from onecycle_sweeps import datasets, fingerprints, images, measures, provenance, seeding
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.cuda_graph import GraphedLearner
from onecycle_sweeps.datasets import Facts, transforms
from onecycle_sweeps.loop import Batches, Learner, Objective
from onecycle_sweeps.mixing import Mixing
from onecycle_sweeps.provenance import Code
from onecycle_sweeps.range_test import probes
from onecycle_sweeps.samples import SampleFacts
from onecycle_sweeps.samples.targets import Form
from onecycle_sweeps.trial.measured import Measured
from onecycle_sweeps.trial.optimizer import closure_of, make_optimizer, was_trained
from onecycle_sweeps.trial_folder import TrialFolder

Resolved = dict[str, Any]
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
    offered, seed = offered_by(config, facts), seeds(config)[0]
    objective, net = make_objective(config, offered), make_net(config, offered, seed)
    resolved = fixed if resumed else resolve(config, facts, net, objective, rate, fixed, code)
    with reporting_out_of_memory("the data set"):
        data = load_data(trial, config, facts, resolved)
    return resolved, make_learner(config, resolved, data, seed, net)


def seeds(config: Config) -> list[int]:
    """The seeds that the trial trains with: a training's own, all those of a range test, the first of a probe."""
    if config["task"] == schema.PROBE:
        return [probes.SEED]
    return config["range_test"]["seeds"] if config["task"] == schema.RANGE_TEST else [config["seed"]]


def choose_max_lr(config: Config, fixed: Resolved, find_rate: Callable[[], float]) -> tuple[float | None, str | None]:
    """A training's maximum rate, scaled, and where it comes from; a range test and a probe have none.

    A rate that an earlier attempt `fixed` is kept; `find_rate` is called if `max_lr` is auto.
    """
    if config["task"] != schema.TRAIN:
        return None, None
    if fixed.get("max_lr") is not None:
        return fixed["max_lr"], fixed["max_lr_from"]
    if (rate := schema.max_lr(config)) is not None:
        return rate, "config"
    word, signature = schema.rate_from(config)
    return schema.max_lr(config, find_rate()), f"{word.replace(' ', '_')}:{signature}"


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
    objective: Objective,
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
    device, steps_per_epoch = choose_device(config, fixed), schema.steps_per_epoch(config, facts.train)
    total_steps = schema.planned_steps(config, config.get("epochs", 1) * steps_per_epoch)
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
        "measures": measures.as_records(objective.measures),
        **provenance.as_record(code or provenance.code_of_trial(config)),
        "data": {
            "train": facts.train,
            "val": facts.val,
            "test": facts.test,
            "classes": facts.num_classes if target_form(config) == "classes" else None,
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

    CUDA raises it in whichever call comes next, and the message of that call says less.
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
    return datasets.prepare(nodes.loader(config), _cache(trial, config), check=check, **schema.split(config))


def check_files(trial: TrialFolder, config: Config) -> None:
    """Raise ValueError, in one line that names them, if files of the trial changed since it was planned."""
    weights = os.path.abspath(os.path.expanduser(str(config.get("model", {}).get("weights_file"))))
    # A missing file of weights is reported by the net that reads it.
    planned: dict[str, str] = config["needs"].get("files", {})
    files = {path: value for path, value in planned.items() if path != weights or os.path.exists(path)}
    fingerprints.check(files, fingerprints.memo_folder(trial.runs_dir))


def load_data(trial: TrialFolder, config: Config, facts: Facts, resolved: Resolved) -> Batches:
    """The trial's data set on its device; images with their transforms and the net's normalisation."""
    cache, loader, device = _cache(trial, config), nodes.loader(config), resolved["device"]
    if isinstance(facts, SampleFacts):
        return datasets.load_samples(loader(), facts, config, device, target_form(config))
    facts = normalised(facts, resolved.get("normalisation"))
    data = images.load(cache, facts, schema.samples_per_step(config), device, loader)
    check = partial(check_files, trial, config) if data.train.undecoded else data.check
    return replace(data, check=check, **transforms(config, facts))


def normalised(facts: images.Facts, normalisation: Any) -> images.Facts:
    """The facts with a net's own (mean, std) of each channel, if it has any."""
    if not normalisation:
        return facts
    mean, std = map(tuple, normalisation)
    return replace(facts, mean=mean, std=std)


def offered_by(config: Config, facts: Facts) -> dict[str, Any]:
    """What nets and objectives may have as parameters, with `out_features`, the number of outputs for a sample.

    Raises ValueError for targets that the objective cannot take.
    """
    form = target_form(config)
    if isinstance(facts, SampleFacts):
        return facts.offered_for(form)
    if form not in ("classes", "raw"):
        raise ValueError(f"the objective needs {form} as targets, and each of these images has one class")
    return facts.offered


def target_form(config: Config) -> Form:
    """The form in which the objective takes its targets; `raw` for a user's without a `form`, and for none."""
    if schema.LOOP in config and "objective" not in config:
        return "raw"
    return getattr(nodes.located("objective._target_", objective_node(config)["_target_"]), "form", "raw")


def make_objective(config: Config, offered: Mapping[str, Any]) -> Objective:
    """The objective of the trial, which may have facts of the data as parameters; with the config's further metrics."""
    node = dict(objective_node(config))
    metrics, headline = node.pop("metrics", None) or {}, node.pop("headline", None)
    objective = nodes.build("objective", node, **offered)
    if not metrics and headline in (None, objective.measures[0].name):
        return objective
    further = {**offered, "num_labels": offered.get("out_features")}
    made = {
        name: partial(nodes.build, f"objective.metrics.{name}", of_metric, **further)
        for name, of_metric in metrics.items()
    }
    return Measured(objective, made, headline)


def objective_node(config: Config) -> Config:
    """The config's node of the objective; classification for a trial that was recorded before there were others."""
    classification = "onecycle_sweeps.objectives.classification.Classification"
    return config.get("objective") or {"_target_": classification, "label_smoothing": config["label_smoothing"]}


def make_net(config: Config, offered: Mapping[str, Any], seed: int | None = None) -> Any:
    """The net of the config's node; with `seed` its weights depend only on that."""
    if seed is not None:
        seeding.seed_all(seed)
    return nodes.build("model", config["model"], **offered)


def begins_trained(config: Config, offered: Mapping[str, Any]) -> bool:
    """Whether most trained weights of the net are the same for any seed, as those that were trained before are.

    Tensors of one value, such as biases of zero, do not count.
    """
    # One net after the other, because two may not fit into memory.
    drawn, again = (_checksums(make_net(config, offered, seed)) for seed in (0, 1))
    same = sum(count for (count, one), (_, other) in zip(drawn, again, strict=False) if one == other)
    return 2 * same > sum(count for count, _ in drawn)


def _checksums(net: nn.Module) -> list[tuple[int, int]]:
    """The size of each trained tensor, 0 if it has one value only, and its checksum."""
    flat = [weights.detach().flatten() for weights in net.parameters() if weights.requires_grad]
    return [(len(one) * bool((one[1:] != one[:-1]).any()), crc32(one.view(torch.uint8).numpy().data)) for one in flat]


def make_learner(config: Config, resolved: Resolved, data: Batches, seed: int, net: nn.Module | None = None) -> Learner:
    """The learner before a trial's first step; `net` is the net with the weights of `seed`, if it has been built."""
    built = net if net is not None else make_net(config, data.offered, seed)
    closure = closure_of(config["optimizer"])
    built = on_device(built, resolved["device"], channels_last=closure != "required")
    optimizer, objective = make_optimizer(config["optimizer"], built), make_objective(config, data.offered)
    if was_trained(optimizer):
        raise ValueError(
            f"model._target_={config['model']['_target_']} returns a net that an earlier training of this process has "
            "trained: it must build the net anew in each call"
        )
    graphed = data.device.type == "cuda" and closure == "none"
    return (GraphedLearner if graphed else Learner)(
        built,
        optimizer,
        data,
        objective,
        seed,
        bf16=resolved["precision"] == "bf16",
        clip_norm=config["clip_norm"],
        accumulate=config.get("accumulate", 1),
        mix=make_mixing(config, data.offered),
        averaged=_averaged(built, config.get("ema_decay")),
        closure=closure,
        compiled=compiled(built) if config.get("compile") else None,
    )


def compiled(net: nn.Module) -> Callable[..., Any]:
    """The net compiled by torch.compile at its first call, which raises ValueError, in one line, if that fails."""
    # Its import takes a second, which other trainings do not pay.
    from torch._dynamo.exc import TorchDynamoException

    made = torch.compile(net)

    def call(*inputs: Any, **named: Any) -> Any:
        try:
            return made(*inputs, **named)
        except TorchDynamoException as error:
            # After an empty line torch gives advice to its own developers.
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise ValueError(f"compile=true: torch.compile fails for this net: {reason}") from error

    return call


def make_mixing(config: Config, offered: Mapping[str, Any]) -> Mixing | None:
    """How the samples of a training batch are mixed, for an objective with mixup or cutmix."""
    mixup, cutmix = (objective_node(config).get(key, 0) for key in ("mixup", "cutmix"))
    return Mixing(offered["num_classes"], mixup, cutmix) if mixup or cutmix else None


def _averaged(net: nn.Module, decay: float | None) -> AveragedModel | None:
    """A copy of the net for the running mean of its weights and statistics; whole numbers are those of the net."""
    if decay is None:
        return None
    mean = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(averaged: PARAM_LIST, latest: PARAM_LIST, count: Tensor | int) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            mean(averaged, latest, count)
            return
        # torch rounds a mean of whole numbers down, and an index that never changes would become another one.
        for one, other in zip(averaged, latest, strict=True):
            one.copy_(other)

    return AveragedModel(net, multi_avg_fn=update, use_buffers=True)


def on_device(net: nn.Module, device: str, *, channels_last: bool = True) -> nn.Module:
    """The net on its device, with the weights of 2-D convolutions in the memory format in which these are fastest.

    torch refuses that format for the weights of 3-D convolutions, and its LBFGS refuses gradients in it.
    """
    net = net.to(device)
    if not channels_last or any(parameter.ndim == 5 for parameter in net.parameters()):
        return net
    return net.to(memory_format=torch.channels_last)


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
