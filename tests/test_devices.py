"""What a trial promises, on each kind of device: exact records, the same bits where asked, and a cause for each end."""

import math
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from onecycle_sweeps import cuda_graph, journal, trial
from onecycle_sweeps.config import nodes
from onecycle_sweeps.images import Split, batches
from onecycle_sweeps.images.augmentation import Cutout, Draws, EpochWords, Flip, PadCrop, RandomResizedCrop
from onecycle_sweeps.loop import evaluate, steps
from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.range_test import Ramp
from onecycle_sweeps.trial import Stopped
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import SHORT, in_one_go, learner_of, made, outcome, series, stop_after, undisturbed

KEPT = (*SHORT, "save_model=true")
CHAIN = (RandomResizedCrop(10, (0.3, 1.0)), PadCrop(2), Flip(), Cutout(3, (100, 120, 140)))
NETS = {
    "simple_cnn": (),
    "bf16": ("precision=bf16",),
    "dropout": ("~model", "+model={_target_: users_code.WithDropout}"),
    "adamw": ("optimizer=adamw", "max_lr=0.01", "clip_norm=0.5"),
    "augmented": ("data.augment=[{_target_: onecycle_sweeps.images.augmentation.Cutout, size: 3}]",),
}
nets = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def resolved(folder: TrialFolder) -> dict[str, Any]:
    found = folder.resolved()
    assert found is not None
    return found


@pytest.mark.parametrize("policy", ["constant", "onecycle"])
def test_the_recorded_trajectory_is_the_planned_one_exactly(runs_dir: Path, device: str, policy: str):
    folder = made(runs_dir, *SHORT, f"policy={policy}", f"device={device}")
    result = trial.run(folder)
    plan = nodes.policy(folder.config(), 0.1, 5)
    assert (result["status"], result["warnings"], resolved(folder)["device"]) == ("finished", [], device)
    assert series(folder, "schedule/lr") == (list(range(10)), [plan(step).lr for step in range(10)])
    losses = series(folder, "train/loss")[1]
    assert losses[-1] < losses[0] / 2 and result["metrics"]["final/val_accuracy"] > 0.5


@pytest.mark.slow
@nets
def test_a_deterministic_trial_repeats_its_bits(runs_dir: Path, beside: Path, device: str, net: tuple[str, ...]):
    asked = (*KEPT, *net, f"device={device}", "deterministic=true")
    assert in_one_go(runs_dir, *asked) == in_one_go(beside, *asked)


@pytest.mark.slow
@nets
def test_a_deterministic_trial_that_was_stopped_ends_with_the_same_bits(
    runs_dir: Path, beside: Path, device: str, net: tuple[str, ...]
):
    asked = (*KEPT, *net, f"device={device}", "deterministic=true")
    folder = made(runs_dir, *asked)
    for step in (3, 4):
        with pytest.raises(Stopped):
            trial.run(folder, stop_after(step))
    trial.run(folder)
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 3, 7]
    assert outcome(folder) == undisturbed(beside, *asked)


@pytest.mark.cuda
def test_a_deterministic_resnet9_in_bf16_ends_with_the_same_bits(runs_dir: Path, beside: Path, cuda: str):
    asked = (*KEPT, "model=resnet9", f"device={cuda}", "deterministic=true")
    folder = made(runs_dir, *asked)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(4))
    trial.run(folder)
    assert resolved(folder)["precision"] == "bf16"
    assert outcome(folder) == undisturbed(beside, *asked)


def test_a_trial_that_was_stopped_has_each_step_once(runs_dir: Path, device: str):
    folder = made(runs_dir, *KEPT, f"device={device}")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(3))
    result = trial.run(folder)
    plan = nodes.policy(folder.config(), 0.1, 5)
    assert series(folder, "schedule/lr") == (list(range(10)), [plan(step).lr for step in range(10)])
    assert series(folder, "train/loss")[0] == list(range(10))
    assert (result["status"], result["warnings"]) == ("finished", [])


def test_a_loss_that_is_no_number_is_a_result_that_names_its_step(runs_dir: Path, device: str):
    folder = made(runs_dir, *SHORT, "max_lr=1e6", f"device={device}")
    result = trial.run(folder)
    losses = series(folder, "train/loss")[1]
    assert result["status"] == "diverged"
    assert result["cause"] == f"the loss is {losses[-1]} at step {len(losses) - 1}"
    assert [math.isfinite(loss) for loss in losses] == [True] * (len(losses) - 1) + [False]


@pytest.mark.slow
def test_a_range_test_has_its_ramp_and_its_verdict(runs_dir: Path, device: str):
    folder = made(runs_dir, *SHORT, "task=range_test", "range_test.steps=100", f"device={device}")
    result = trial.run(folder)
    rates, ramp = series(folder, "schedule/lr")[1], Ramp(1e-5, 10, 100)
    assert resolved(folder)["device"] == device
    assert rates == [ramp(step).lr for step in range(len(rates))]
    assert 0.01 < result["metrics"]["suggestion/max_lr"] < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_counts_each_sample_once(runs_dir: Path, device: str, precision: str):
    learner = learner_of(made(runs_dir, *SHORT, f"device={device}", f"precision={precision}"))
    for _ in steps(learner, OneCycle(0.1, 10)):
        pass
    data = learner.data
    seen, split = evaluate(learner, "val"), data.val
    learner.model.eval()
    with torch.no_grad():
        images, labels = split.images[split.index], split.labels[split.index]
        scores = torch.cat([learner.outputs(data.normalise(part)) for part in images.split(1024)]).double()
    assert seen["accuracy"] == (scores.argmax(1) == labels).sum().item() / 360
    assert seen["loss"] == pytest.approx(cross_entropy(scores, labels).item(), rel=1e-4)


@pytest.mark.parametrize("transform", CHAIN, ids=lambda transform: type(transform).__name__)
def test_what_is_done_to_an_image_is_the_same_on_every_device(device: str, transform: Any):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 3, 12, 12), dtype=np.uint8))
    samples = torch.arange(60) * 12_345
    here = transform(images, Draws(EpochWords(3, 1, 0, 10**6), samples))
    there = transform(images.to(device), Draws(EpochWords(3, 1, 0, 10**6, device), samples.to(device)))
    assert there.device.type == device and torch.equal(there.cpu(), here)


def test_batches_are_the_same_on_every_device(device: str):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (90, 3, 12, 12), dtype=np.uint8))
    kept = torch.tensor([position for position in range(90) if position % 3])
    here, there = (
        batches(Split(images.to(place), torch.arange(90, device=place), kept.to(place)), 16, 5, 2, CHAIN)
        for place in ("cpu", device)
    )
    for (one, labels), (other, same) in zip(islice(here, 7), islice(there, 7), strict=True):
        assert torch.equal(labels, same.cpu()) and torch.equal(one, other.cpu())


def test_batches_that_are_augmented_together_are_those_that_are_augmented_apart(device: str, monkeypatch: Any):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (90, 3, 12, 12), dtype=np.uint8))
    split = Split(images.to(device), torch.arange(90, device=device), torch.arange(90, device=device))
    streams = []
    for count in (1, 2, 99):
        monkeypatch.setattr(sys.modules[batches.__module__], "_together", lambda *_, count=count: count)
        streams.append(list(islice(batches(split, 16, 5, 2, CHAIN), 9)))
    for (one, labels), *others in zip(*streams, strict=True):
        assert all(torch.equal(labels, same) and torch.equal(one, other) for other, same in others)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_steps_within_an_epoch_never_wait_for_the_gpu(runs_dir: Path, cuda: str, monkeypatch: pytest.MonkeyPatch):
    # The second step is captured, and those after it are replayed.
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", 1)
    chain = ", ".join(
        f"{{_target_: onecycle_sweeps.images.augmentation.{name}}}"
        for name in ("PadCrop", "Flip", "Cutout, size: 3", "RandomResizedCrop, size: 8")
    )
    learner = learner_of(made(runs_dir, *SHORT, f"data.augment=[{chain}]", f"device={cuda}", "clip_norm=1"))
    stream = steps(learner, OneCycle(0.1, 10))
    next(stream)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [step.index for step in islice(stream, 4)] == [1, 2, 3, 4]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_a_gpu_computes_wide_nets_in_bf16_and_what_decides_its_numbers_is_recorded(runs_dir: Path, cuda: str):
    folder = made(runs_dir, *SHORT, "model=resnet9", f"device={cuda}:0")
    trial.run(folder)
    fixed = resolved(folder)
    assert (fixed["device"], fixed["precision"]) == ("cuda:0", "bf16")
    assert fixed["gpu"]["name"] == torch.cuda.get_device_name(0)
    assert {"cuda", "cudnn", "capability", "tf32_convolutions", "tf32_products", "cudnn_benchmark"} < set(fixed["gpu"])


@pytest.mark.cuda
def test_a_net_learns_on_a_gpu_as_it_does_on_a_cpu(runs_dir: Path, cuda: str):
    """Not the same bits; the same training."""
    losses = [
        series(folder, "train/loss")[1]
        for place in ("cpu", cuda)
        if trial.run(folder := made(runs_dir, *SHORT, f"device={place}", "precision=fp32", "rerun=true"))
    ]
    for here, there in pairwise(losses):
        assert there == pytest.approx(here, rel=0.05, abs=0.01)
