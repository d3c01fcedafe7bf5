"""Trials that one process runs after each other: each ends as it would in a process of its own, or says why not."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from onecycle_sweeps import journal, seeding, trial
from onecycle_sweeps.trial import TrialFailed
from real_trials import in_one_go, made, series

pytestmark = pytest.mark.usefixtures("one_thread")

# What users write at the top of their files: {first} is run when the module is imported.
FUNCTION = """
import torch
from torch import nn
{first}
KEPT = nn.Linear(4, 2)

def train(run):
    model = {model}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(4)]
    {inside}
    for _, (inputs, labels) in run.steps(optimizer, batches, epochs=run.epochs):
        loss = nn.functional.cross_entropy(model(inputs.float()), labels)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        run.log(loss)
        loss.data.mul_({times})
        if run.evaluation_due:
            run.evaluated(loss=loss.item(), accuracy=0.5)
    torch.save(model.state_dict(), run.folder / "model.pt")
"""
NET = """
import torch
from torch import nn
{first}
KEPT = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def net():
    return {model}
"""
OWN = ("loop=function", "loop.measure=accuracy", "loop.goal=max", "epochs=2", "max_lr=0.1", "policy=constant")
OURS = ("data=digits", "epochs=1", "batch_size=256", "max_lr=0.1", "policy=constant")
Write = Callable[..., tuple[str, ...]]


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a user's training function, whose module no trial has imported yet; returns the overrides for it."""

    def write(first: str = "", model: str = "nn.Linear(4, 2)", inside: str = "", times: int = 1) -> tuple[str, ...]:
        monkeypatch.delitem(sys.modules, "a_function", raising=False)
        text = FUNCTION.format(first=first, model=model, inside=inside, times=times)
        (tmp_path / "a_function.py").write_text(text)
        return (*OWN, "loop._target_=a_function.train")

    monkeypatch.syspath_prepend(tmp_path)
    return write


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a user's net, as `function` does."""

    def write(first: str = "", model: str = "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))") -> tuple[str, ...]:
        monkeypatch.delitem(sys.modules, "a_net", raising=False)
        (tmp_path / "a_net.py").write_text(NET.format(first=first, model=model))
        return (*OURS, "model=lenet", "model._target_=a_net.net", "save_model=true")

    monkeypatch.syspath_prepend(tmp_path)
    return write


@pytest.mark.slow
@pytest.mark.parametrize("first", ["torch.manual_seed(0)", "torch.randn(3)"])
@pytest.mark.parametrize("kind", ["function", "net"])
def test_a_seed_means_the_same_in_the_first_trial_of_a_process_and_in_the_next(
    request: pytest.FixtureRequest, runs_dir: Path, beside: Path, kind: str, first: str
):
    write: Write = request.getfixturevalue(kind)
    words = write(first)
    begun_with_1 = in_one_go(runs_dir, *words, "seed=1")
    in_one_go(beside, *write(first), "seed=2")
    assert in_one_go(beside, *words, "seed=1") == begun_with_1


def test_what_a_module_draws_when_it_is_imported_is_the_same_in_each_process(runs_dir: Path, beside: Path, function):
    drawn = "DATA = torch.randn(8, 4)"
    torch.manual_seed(5)
    first = in_one_go(runs_dir, *function(drawn, inside="batches = [(DATA, torch.zeros(8).long())] * 4"))
    torch.manual_seed(6)
    assert in_one_go(beside, *function(drawn, inside="batches = [(DATA, torch.zeros(8).long())] * 4")) == first


@pytest.mark.parametrize("kind", ["function", "net"])
def test_a_net_that_an_earlier_trial_trained_is_refused(request: pytest.FixtureRequest, runs_dir: Path, kind: str):
    words = request.getfixturevalue(kind)(model="KEPT")
    trial.run(made(runs_dir, *words, "seed=0"))
    with pytest.raises(TrialFailed, match="earlier training of this process"):
        trial.run(made(runs_dir, *words, "seed=1"))


def test_a_range_test_of_several_seeds_needs_several_nets(runs_dir: Path, function: Write):
    words = [word for word in function(model="KEPT") if not word.startswith("max_lr")]
    with pytest.raises(TrialFailed, match="earlier training of this process"):
        trial.run(made(runs_dir, *words, "task=range_test", "range_test.seeds=[0,1]", "range_test.steps=100"))


SETTINGS = {
    "torch.set_default_dtype(torch.float64); model = model.double()": torch.get_default_dtype,
    "torch.set_default_device('meta')": torch.get_default_device,
    "torch.set_autocast_enabled('cpu', True)": lambda: torch.is_autocast_enabled("cpu"),
    "torch.set_autocast_dtype('cpu', torch.float16)": lambda: torch.get_autocast_dtype("cpu"),
    "torch.set_autocast_enabled('cuda', True)": lambda: torch.is_autocast_enabled("cuda"),
    "torch.set_autocast_cache_enabled(False)": torch.is_autocast_cache_enabled,
    "torch.set_grad_enabled(False)": torch.is_grad_enabled,
    "torch.set_float32_matmul_precision('medium')": torch.get_float32_matmul_precision,
    "torch.use_deterministic_algorithms(True, warn_only=True)": torch.get_deterministic_debug_mode,
    "torch.autograd.set_detect_anomaly(True)": torch.is_anomaly_enabled,
    "torch.backends.cudnn.benchmark = True": lambda: torch.backends.cudnn.benchmark,
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_function_sets_in_torch_ends_with_it(runs_dir: Path, function: Write, setting: str):
    before = SETTINGS[setting]()
    # A trial may fail over a setting, or finish.
    with suppress(TrialFailed):
        trial.run(made(runs_dir, *function(inside=setting)))
    assert SETTINGS[setting]() == before


def test_what_a_net_sets_in_torch_does_not_reach_the_next_trial(runs_dir: Path, beside: Path, net: Write):
    alone = in_one_go(runs_dir, *net())
    autocast = (
        "nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(torch.set_autocast_enabled('cpu', True) or 0))"
    )
    trial.run(made(beside, *net(model=autocast), "seed=1"))
    assert in_one_go(beside, *net()) == alone


def test_what_a_module_sets_in_torch_when_it_is_imported_holds_for_each_of_its_trials(
    runs_dir: Path, function: Write, monkeypatch: pytest.MonkeyPatch
):
    folder = made(runs_dir, *function("torch.set_float32_matmul_precision('high')"))
    torch.set_float32_matmul_precision("highest")
    # The trial's process imports the module afresh, in the trial.
    monkeypatch.delitem(sys.modules, "a_function")
    trial.run(folder)
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    assert found == "high"


def test_a_data_set_of_a_module_draws_the_same_in_the_first_trial_of_a_process_and_in_the_next(
    runs_dir: Path, beside: Path
):
    words = (*OWN, "loop._target_=own_loops.holding", "+loop.kind=of the module")
    assert in_one_go(runs_dir, *words) == in_one_go(beside, *words)


def test_a_loss_that_is_changed_after_it_was_logged_is_recorded_as_it_was(runs_dir: Path, beside: Path, function):
    def losses(folder: Path, **settings: Any) -> list[float]:
        one = made(folder, *function(**settings))
        trial.run(one)
        return series(one, journal.TRAIN_LOSS)[1]

    assert losses(runs_dir, times=10) == losses(beside)


def test_a_gpu_that_is_not_used_yet_gets_the_seed_of_the_trial_and_not_that_of_a_module(monkeypatch):
    noted: list[int] = []
    torch.manual_seed(7)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", noted.append)
    with seeding.generators_kept():
        torch.manual_seed(0)
    assert noted[-1] == 7
