"""What a trial's first attempt fixes for all later ones, and the learner that is built from it."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from onecycle_sweeps import fingerprints, images, provenance
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.images import Dataset, Facts
from onecycle_sweeps.images.transforms import transforms
from onecycle_sweeps.measures import ACCURACY
from onecycle_sweeps.provenance import Code
from onecycle_sweeps.scheduler import check_groups
from onecycle_sweeps.training import Learner
from onecycle_sweeps.trial import compiler, precision
from onecycle_sweeps.trial_folder import TrialFolder

Resolved = dict[str, Any]
# The rate of an optimizer that has no default, which is never used.
UNTIL_THE_POLICY_SETS_IT = 1e-3


def resolve(
    config: Config,
    facts: Facts,
    find_rate: Callable[[], float],
    fixed: Resolved | None = None,
    code: Code | None = None,
) -> Resolved:
    """Fix the rate, the device, the precision and the threads; `find_rate` is asked where `max_lr` is auto.

    `fixed` is what an earlier attempt fixed, which is kept; `code` is what makes the result, by default what stands
    there now.
    A model that has a `normalisation`, the (mean, std) of each channel in the units of uint8, is given images so
    normalised, in place of by the training set's own statistics.
    """
    fixed = fixed or {}
    device, net = fixed.get("device") or _device(config["device"]), model(config, facts)
    steps_per_epoch = facts.train // config["batch_size"]
    resolved = {
        "max_lr": None,
        "max_lr_from": None,
        "steps_per_epoch": steps_per_epoch,
        "device": device,
        "precision": precision.chosen(device, net) if config["precision"] == "auto" else config["precision"],
        "threads": 1 if config["threads"] == "auto" else config["threads"],
        **{key: fixed[key] for key in ("precision", "threads") if key in fixed},
        **(gpu(device) if device.startswith("cuda") else {}),
        "normalisation": getattr(net, "normalisation", None),
        "headline": ACCURACY.as_record(),
        **provenance.record(code or provenance.of_trial(config)),
        "data": {
            "train": facts.train,
            "val": facts.val,
            "test": facts.test,
            "classes": facts.num_classes,
            "skipped": facts.skipped,
        },
    }
    if config["task"] == "range_test":
        test = config["range_test"]
        return resolved | {"total_steps": test["steps"] * len(test["seeds"])}
    rate, source = schema.max_lr(config), "config"
    if fixed.get("max_lr") is not None:
        rate, source = fixed["max_lr"], fixed["max_lr_from"]
    elif rate is None:
        rate, source = schema.max_lr(config, find_rate()), f"range_test:{config['needs']['range_test']}"
    return resolved | {"max_lr": rate, "max_lr_from": source, "total_steps": config["epochs"] * steps_per_epoch}


def gpu(device: str) -> Resolved:
    """The card, and those settings of torch's that decide how it computes."""
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
    """What has ended all that this process can do on its GPU, such as a failed assertion in a kernel; else None.

    It is seen at whatever is called next, which says less of it.
    """
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def facts(trial: TrialFolder, config: Config) -> Facts:
    """The facts of the trial's data set, which is decoded first if no process has done so.

    Raises ValueError, with the names of the files, if its data or weights are not those that it was planned with.
    """
    check = partial(check_files, trial, config)
    check()
    return images.prepare(nodes.loader(config), _cache(trial, config), check=check, **schema.split(config))


def check_files(trial: TrialFolder, config: Config) -> None:
    """Raise ValueError, in one line that names them, if files of the trial changed since it was planned."""
    weights = os.path.abspath(os.path.expanduser(str(config["model"].get("weights_file"))))
    # Weights that are gone are told by the net that reads them.
    planned: dict[str, str] = config["needs"].get("files", {})
    files = {path: value for path, value in planned.items() if path != weights or os.path.exists(path)}
    fingerprints.check(files, fingerprints.memos(trial.runs_dir))


def data(trial: TrialFolder, config: Config, facts: Facts, resolved: Resolved) -> Dataset:
    """The trial's data set on its device, with what is done to its images."""
    facts = normalised(facts, resolved.get("normalisation"))
    loaded = images.load(_cache(trial, config), facts, resolved["device"], nodes.loader(config))
    if loaded.train.undecoded:
        loaded = replace(loaded, check=partial(check_files, trial, config))
    return replace(loaded, **transforms(config, facts))


def normalised(facts: Facts, normalisation: Any) -> Facts:
    """The facts with a model's own (mean, std) of each channel, if it has any."""
    if not normalisation:
        return facts
    mean, std = map(tuple, normalisation)
    return replace(facts, mean=mean, std=std)


def prepare_torch(config: Config, resolved: Resolved) -> None:
    """Set torch's threads and determinism for the trial; raises ValueError where the fixed device is missing."""
    if resolved["device"].startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"the trial began on {resolved['device']}, which is not here; rerun=true begins it again")
    compiler.postpone()
    torch.set_num_threads(resolved["threads"])
    if config["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config["deterministic"] != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config["deterministic"])


def learner(config: Config, resolved: Resolved, data: Dataset, seed: int) -> Learner:
    """A fresh net with the weights that follow from `seed`, and its optimizer."""
    nodes.seed_generators(seed)
    net = model(config, data.facts).to(resolved["device"], memory_format=torch.channels_last)
    return Learner(
        net,
        optimizer(config["optimizer"], net),
        data,
        config["batch_size"],
        seed,
        bf16=resolved["precision"] == "bf16",
        label_smoothing=config["label_smoothing"],
        clip_norm=config["clip_norm"],
    )


def model(config: Config, facts: Facts) -> Any:
    """The net of a config node, with the weights that the generators draw next."""
    return nodes.build("model", config["model"], in_channels=facts.in_channels, num_classes=facts.num_classes)


def optimizer(node: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config node; where it has a `beta2`, its `momentum` is beta1."""
    node = dict(node)
    create, scale = nodes.located("optimizer._target_", node.pop("_target_")), node.pop("body_lr_scale", 1)
    if "beta2" in node:
        node["betas"] = (node.pop("momentum"), node.pop("beta2"))
    takes = nodes.parameters(create)
    if "lr" in takes and takes["lr"].default is takes["lr"].empty:
        node["lr"] = UNTIL_THE_POLICY_SETS_IT
    nodes.check_arguments("optimizer", node, create, given=[*list(takes)[:1], "lr"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = create(parameters if scale == 1 else _head_and_body(model, parameters, scale), **node)
    check_groups(optimizer)
    return optimizer


def _head_and_body(model: torch.nn.Module, parameters: list[torch.nn.Parameter], scale: float) -> list[dict[str, Any]]:
    """Two param groups, the body's with its `lr_scale`; raises ValueError for a model that has not both."""
    in_head = {id(parameter) for parameter in getattr(model, "head_parameters", list)()}
    head, body = ([p for p in parameters if (id(p) in in_head) is within] for within in (True, False))
    if not head or not body:
        lacks = "a head apart from its body" if not head else "a body that is trained"
        raise ValueError(f"optimizer.body_lr_scale must be 1 for a model without {lacks}, got {scale}")
    return [{"params": head}, {"params": body, "lr_scale": scale}]


def _cache(trial: TrialFolder, config: Config):
    return trial.runs_dir / "data" / config["needs"]["data"]


def _device(asked: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked
