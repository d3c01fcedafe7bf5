"""Packed trainings: the same as unpacked ones, up to rounding, with their own records, and alone where they must."""

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onecycle_sweeps import journal, trial
from onecycle_sweeps.config.schema import Packing
from onecycle_sweeps.loop import Learner, StepTaken, Totals, evaluate, steps
from onecycle_sweeps.packs import CannotPack, Pack, gradients
from onecycle_sweeps.policies import Constant, OneCycle, Policy, Step
from onecycle_sweeps.trial import Stopped, TrialFailed, run_together
from onecycle_sweeps.trial_folder import TrialFolder
from program import QUICK, run, sweep_of, trials, with_store, write
from real_trials import SHORT, learner_of, made, outcome, series, stop_after

OPTIMIZERS = {
    "nesterov": (),
    "plain SGD": ("optimizer.nesterov=false", "optimizer.momentum=0", "optimizer.weight_decay=0"),
    "Adam": ("optimizer=adam", "optimizer.weight_decay=0.1"),
    "AdamW": ("optimizer=adamw",),
    "clipped": ("clip_norm=0.1",),
    "no_decay": ("optimizer.no_decay=true",),
}
# The smallest net with convolutions and batch norms.
SMALL = "model.channels=[4]"
POLICIES = (OneCycle(0.05, 50, cycle_momentum=False), Constant(0.01, 50), Step(0.02, 50))


@dataclass(frozen=True)
class InDouble:
    """The data of a learner in float64."""

    data: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def train_batches(self, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images.double(), labels) for images, labels in self.data.train_batches(seed, start))

    def part_batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images.double(), labels) for images, labels in self.data.part_batches(part))


def learners(folder: Path, *overrides: str, double: bool = True, device: str = "cpu") -> list[Learner]:
    asked = ("epochs=2", "batch_size=32", "max_lr=0.1", *overrides, f"device={device}", "precision=fp32")
    found = [learner_of(made(folder / str(seed), *asked, f"seed={seed}")) for seed in range(len(POLICIES))]
    return [replace(one, model=one.model.double(), data=InDouble(one.data)) for one in found] if double else found


def packed(of: Sequence[Learner], policies: Sequence[Policy] = POLICIES) -> Pack:
    return Pack(of, policies, [Totals() for _ in of])


@pytest.mark.slow
@pytest.mark.parametrize("asked", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_fifty_packed_steps_are_those_of_the_unpacked_trainings(tmp_path: Path, device: str, asked: tuple[str, ...]):
    alone, together = (learners(tmp_path / word, SMALL, *asked, device=device) for word in ("alone", "together"))
    taken = [list(steps(learner, policy)) for learner, policy in zip(alone, POLICIES, strict=True)]
    pack = packed(together)
    in_turn = [pack.step() for _ in range(50)]
    assert pack.step() == []
    for place, expected in enumerate(taken):
        found = [step[place] for step in in_turn]
        assert [one.hyper for one in found] == [one.hyper for one in expected]
        losses = [(float(one.loss), float(other.loss)) for one, other in zip(found, expected, strict=True)]
        assert max(abs(one - other) for one, other in losses) < 1e-9
        assert evaluate(pack.learners[place], "val") == pytest.approx(evaluate(alone[place], "val"), abs=1e-9)


@pytest.mark.slow
def test_a_member_that_diverges_does_not_harm_the_others(tmp_path: Path, device: str):
    policies = (Constant(1e9, 20), Constant(0.01, 20), Constant(0.02, 20))
    alone, together = (learners(tmp_path / word, SMALL, device=device) for word in ("alone", "together"))
    pack = packed(together, policies)
    in_turn = [pack.step() for _ in range(20)]
    assert not in_turn[-1][0].loss.isfinite()
    for place in (1, 2):
        expected = [float(one.loss) for one in steps(alone[place], policies[place])]
        assert [float(step[place].loss) for step in in_turn] == pytest.approx(expected, abs=1e-9)


class Remembering(nn.Module):
    """A net whose output depends on something that is no parameter and no buffer."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.mask = [float(torch.rand(()) < 0.5) for _ in range(in_features)]
        self.scores = nn.Linear(in_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images.flatten(1) * torch.tensor(self.mask))


class Branching(nn.Module):
    """A net that decides by a number in its batch."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(in_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images.flatten(1)) * (2 if images.mean() > 0 else 1)


CANNOT = {
    "of another optimizer": ("optimizer=muon",),
    "whose gradients are accumulated": ("accumulate=2",),
    "with a running mean": ("ema_decay=0.9",),
    "that decide by their batch": ("~model", "+model={_target_: test_pack.Branching}"),
    "with states of their own": ("~model", "+model={_target_: test_pack.Remembering}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("asked", CANNOT.values(), ids=CANNOT)
def test_trainings_are_not_packed_if_it_would_change_them(tmp_path: Path, asked: tuple[str, ...]):
    together = learners(tmp_path, *asked, double=False)
    before = [{name: value.clone() for name, value in one.model.state_dict().items()} for one in together]
    with pytest.raises(CannotPack):
        packed(together)
    for learner, state in zip(together, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in learner.model.state_dict().items())


def folders(runs_dir: Path, *overrides: str) -> list[TrialFolder]:
    return [
        made(runs_dir, *SHORT, "model=mlp", "save_model=true", f"seed={seed}", f"policy={policy}", *overrides)
        for seed in (0, 1)
        for policy in ("constant", "onecycle")
    ]


def signatures(of: Sequence[TrialFolder]) -> list[str]:
    return sorted(folder.signature for folder in of)


@pytest.mark.slow
def test_packed_trials_have_the_records_of_unpacked_ones(runs_dir: Path, beside: Path, device: str):
    together, alone = folders(runs_dir, f"device={device}"), folders(beside, f"device={device}")
    results, expected = run_together(together), [trial.run(folder) for folder in alone]
    for folder, result, other, wanted in zip(together, results, alone, expected, strict=True):
        assert isinstance(result, dict) and result.keys() == wanted.keys() and result["warnings"] == []
        for name in ("schedule/lr", "schedule/momentum"):
            assert series(folder, name) == series(other, name)
        for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy"):
            (where, values), (places, numbers) = series(folder, name), series(other, name)
            assert where == places and values == pytest.approx(numbers, abs=5e-3)
        assert (folder.resolved() or {})["packed"] == signatures(together)
        assert "packed with 3 other trials" in folder.log.read_text()
        assert folder.signature not in "".join(one.log.read_text() for one in together if one is not folder)
        weights = torch.load(folder.path / "model.pt")
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exp", "linear"])
def test_the_packed_seeds_of_a_range_test_have_the_curves_of_unpacked_ones(
    runs_dir: Path, beside: Path, device: str, mode: str
):
    asked = ("task=range_test", "range_test.seeds=[0,1,2]", "range_test.steps=100", f"range_test.mode={mode}")
    asked = (*SHORT, "model=mlp", f"device={device}", *asked, *(["range_test.end_lr=1"] if mode == "linear" else []))
    together, alone = made(runs_dir, *asked), made(beside, *asked)
    # Two together, and the third alone.
    found, wanted = trial.run(together, packing=Packing(2)), trial.run(alone)
    assert found["steps"] == pytest.approx(wanted["steps"], abs=6)
    assert found["metrics"].keys() == wanted["metrics"].keys()
    assert found["metrics"]["suggestion/max_lr"] == pytest.approx(wanted["metrics"]["suggestion/max_lr"], rel=0.05)
    # At high rates rounding grows.
    for name, count in (("schedule/lr", 100), ("train/loss", 60), ("val/accuracy", 12 if mode == "linear" else 0)):
        (places, values), (expected, numbers) = series(together, name), series(alone, name)
        assert places[:count] == expected[:count]
        assert values[:count] == pytest.approx(numbers[:count], rel=1e-2, abs=0.02)
    assert (together.resolved() or {})["packed_seeds"] == [0, 1]
    assert "packed_seeds" not in (alone.resolved() or {})


@pytest.mark.slow
def test_the_seeds_of_a_range_test_that_cannot_be_packed_are_as_without_packing(
    runs_dir: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: Any, **__: Any) -> None:
        raise CannotPack("not today")

    monkeypatch.setattr(Pack, "__init__", refused)
    asked = (*SHORT, "model=mlp", "model.dropout=0.2", "task=range_test", "range_test.seeds=[0,1]")
    alone, refusing = (made(where, *asked, "range_test.steps=100") for where in (beside, runs_dir))
    trial.run(alone)
    trial.run(refusing, packing=Packing(2))
    assert series(alone, "train/loss") == series(refusing, "train/loss")
    assert "not today" in refusing.log.read_text() and "packed_seeds" not in (refusing.resolved() or {})


@pytest.mark.slow
def test_a_seed_of_a_range_test_that_diverges_at_once_ends_alone(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    taken = Pack.step

    def diverging(pack: Pack) -> list[StepTaken]:
        first, second = taken(pack)
        return [first, replace(second, loss=second.loss * (math.nan if second.index == 60 else 1))]

    monkeypatch.setattr(Pack, "step", diverging)
    folder = made(runs_dir, *SHORT, "model=mlp", "task=range_test", "range_test.seeds=[0,1]", "range_test.steps=100")
    assert trial.run(folder, packing=Packing(2))["status"] == "finished"
    places, rates = series(folder, "schedule/lr")
    again = rates.index(rates[0], 1)
    assert places == list(range(len(places))) and again > 61 and len(rates) - again == 61


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_pack_that_was_stopped_goes_on_to_the_same_bits(runs_dir: Path, beside: Path, device: str, optimizer: str):
    asked = (f"optimizer={optimizer}", "max_lr=0.01", "model.dropout=0.2", "epochs=3", f"device={device}")
    asked = (*asked, *(["deterministic=true"] if device == "cuda" else []))
    together, undisturbed = folders(runs_dir, *asked), folders(beside, *asked)
    for count in (3, 5):
        assert all(isinstance(one, Stopped) for one in run_together(together, stop_after(count)))
    run_together(together)
    run_together(undisturbed)
    assert len(journal.read(together[0].journal).attempts) == 3
    assert [outcome(folder) for folder in together] == [outcome(folder) for folder in undisturbed]


@pytest.mark.slow
def test_a_trial_of_a_stopped_pack_goes_on_alone_and_says_so(runs_dir: Path):
    together = folders(runs_dir)
    run_together(together, stop_after(4))
    first, *others = together
    # Said at the end, however often it is stopped before.
    with pytest.raises(Stopped):
        trial.run(first, stop_after(2))
    result = trial.run(first)
    assert result["status"] == "finished" and any("were packed" in warning for warning in result["warnings"])
    # The pack that is left is another one.
    for folder, found in zip(others, run_together(others), strict=True):
        assert isinstance(found, dict) and found["status"] == "finished"
        assert len(found["warnings"]) == 1 and (folder.resolved() or {})["packed"] == []
        assert series(folder, "train/loss")[0] == list(range(10))


@pytest.mark.slow
def test_each_member_ends_in_its_own_way(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[run_together.__module__], "CANCEL_CHECK_SECONDS", 0)
    fine, diverging = (made(runs_dir, *SHORT, "model=mlp", f"max_lr={rate}") for rate in (0.1, 1e9))
    cancelled, finished = (made(runs_dir, *SHORT, "model=mlp", f"seed={seed}") for seed in (1, 2))
    cancelled.write("cancel", {})
    before = trial.run(finished)
    *found, stopped = run_together([fine, diverging, finished, cancelled])
    assert [one["status"] for one in found if isinstance(one, dict)] == ["finished", "diverged", "finished"]
    assert finished.result() == before and isinstance(stopped, Stopped)
    losses = series(diverging, "train/loss")[1]
    assert len(losses) < 10 and len(series(fine, "train/loss")[1]) == 10


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pack_on_a_gpu_is_one_graph_of_each_net_as_it_is(tmp_path: Path, cuda: str, precision: str):
    """Batch norms under bf16 among them, which one operation for all members could not compute."""
    asked = (*SHORT, f"device={cuda}", f"precision={precision}", "deterministic=true")
    alone, together = (
        [learner_of(made(tmp_path / word / str(seed), *asked, f"seed={seed}")) for seed in range(3)]
        for word in ("alone", "together")
    )
    pack = packed(together)
    in_turn = [pack.step() for _ in range(50)]
    assert pack._graph.refused is None and pack._graph._graph is not None
    for place, expected in enumerate(list(steps(one, policy)) for one, policy in zip(alone, POLICIES, strict=True)):
        found = [float(step[place].loss) for step in in_turn]
        assert found[:3] == pytest.approx([float(one.loss) for one in expected[:3]], rel=1e-3)
        assert found[-1] == pytest.approx(float(expected[-1].loss), rel=0.2, abs=0.02)


def test_data_that_are_decoded_in_each_epoch_are_not_packed(tmp_path: Path):
    made_once = learners(tmp_path, double=False)
    data: Any = made_once[0].data
    undecoded = replace(data, train=replace(data.train, undecoded=object()))
    assert data.in_memory and not undecoded.in_memory
    with pytest.raises(CannotPack, match="each epoch"):
        packed([replace(one, data=undecoded) for one in made_once])


@pytest.mark.cuda
def test_what_does_not_fit_into_the_gpu_is_not_packed(tmp_path: Path, cuda: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gradients, "FREE_MEMORY", 0)
    with pytest.raises(CannotPack, match="GiB"):
        packed(learners(tmp_path, device=cuda))


def test_an_error_in_a_packed_step_is_the_cause_of_each_member(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    together = folders(runs_dir)
    taken = Pack.step

    def broken(pack: Pack) -> Any:
        if pack._index == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return taken(pack)

    monkeypatch.setattr(Pack, "step", broken)
    for folder, found in zip(together, run_together(together), strict=True):
        assert isinstance(found, TrialFailed) and "batch_size=256 does not fit into the GPU's memory" in str(found)
        assert folder.last_failure()["cause"] == str(found)


@pytest.mark.slow
def test_a_net_with_lazy_python_state_trains_alone(runs_dir: Path, caplog: pytest.LogCaptureFixture):
    asked = ("~model", "+model={_target_: test_pack.Branching}")
    together = [made(runs_dir, *SHORT, *asked, f"seed={seed}") for seed in (0, 1)]
    caplog.set_level(logging.INFO)
    reasons: list[str] = []
    ended = run_together(together, refused=reasons.append)
    assert all(isinstance(one, dict) and one["status"] == "finished" for one in ended)
    assert len(reasons) == 1
    assert all(f"not packed: {reasons[0]}" in folder.log.read_text() for folder in together)
    assert all("packed" not in (folder.resolved() or {}) for folder in together)


@pytest.mark.slow
def test_a_sweep_packs_what_differs_in_seed_and_policy_alone(tmp_path: Path):
    folder = with_store(tmp_path)
    asked = ("model=mlp", "policy=constant,onecycle", "seed=0,1", "batch_size=128,256", "-m")
    done = run(folder, *QUICK, *asked, "hydra.launcher.packed=8", "hydra.launcher.workers=1")
    assert done.returncode == 0, done.stderr
    sweep = sweep_of(folder)
    trained = {entry.signature: sweep.trial(entry.signature) for entry in sweep.trials if entry.kind == "train"}
    for batch_size in (128, 256):
        alike = [name for name, one in trained.items() if one.config()["batch_size"] == batch_size]
        assert len(alike) == 4
        assert all((trained[name].resolved() or {})["packed"] == sorted(alike) for name in alike)
    assert {one.state().status for one in trained.values()} == {"finished"}


MODELS = """
import os, signal, torch
from onecycle_sweeps.models.mlp import MLP

class DiesInAPack(MLP):
    def forward(self, images):
        if torch._C._functorch.is_batchedtensor(images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)
"""


@pytest.mark.slow
def test_the_trials_of_a_pack_whose_worker_died_run_again_by_themselves(tmp_path: Path):
    folder = write(with_store(tmp_path), {"models.py": MODELS})
    asked = ("~model", "+model={_target_: models.DiesInAPack}", "seed=0,1,2", "-m", "hydra.launcher.workers=1")
    done = run(folder, *QUICK, *asked, "hydra.launcher.packed=3")
    assert done.returncode == 0 and "3 packed trials" in done.stderr, done.stderr
    assert all(one.state().status == "finished" for one in trials(folder).values())


@pytest.mark.slow
def test_packed_accuracies_are_those_of_unpacked_trainings(runs_dir: Path, beside: Path):
    """Over ten seeds, the 95 % interval of the mean difference lies within 0.3 points."""
    asked = ("model=mlp", "epochs=5", "batch_size=128", "max_lr=0.1")
    together, alone = ([made(where, *asked, f"seed={seed}") for seed in range(10)] for where in (runs_dir, beside))
    found = [one["metrics"]["final/val_accuracy"] for one in run_together(together) if isinstance(one, dict)]
    expected = [trial.run(folder)["metrics"]["final/val_accuracy"] for folder in alone]
    differences = [one - other for one, other in zip(found, expected, strict=True)]
    half = 2.262 * stdev(differences) / 10**0.5
    assert abs(mean(differences)) + half < 0.003
