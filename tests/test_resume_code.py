"""A trial resumes only with the code that it began with, and else starts again: a result is of one code."""

import sys
from pathlib import Path
from typing import Any

import pytest

from onecycle_sweeps import journal, trial
from onecycle_sweeps.trial import Stopped
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import SHORT, made, outcome, stop_after, undisturbed

MODEL = ("~model", "+model={_target_: my_net.Net}", "save_model=true", *SHORT)
NET = """
import torch
from torch import nn
from my_layers import activation

class Net(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), activation(), nn.Linear(8, num_classes))

    def forward(self, images):
        return self.layers(images)
"""
LAYERS = "from torch import nn\n\ndef activation():\n    return nn.ReLU()\n"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own code on the path: a net that imports a module of layers."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "my_layers.py").write_text(LAYERS)
    for module in ("my_net", "my_layers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def interrupted(runs_dir: Path, *overrides: str) -> TrialFolder:
    folder = made(runs_dir, *MODEL, *overrides)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(6))
    return folder


def with_tanh(users: Path) -> None:
    (users / "my_layers.py").write_text(LAYERS.replace("ReLU", "Tanh"))


def resolved(folder: TrialFolder, **changed: Any) -> dict[str, Any]:
    found = folder.resolved()
    assert found
    if changed:
        folder.write("resolved", found | changed)
    return found


def last_notes(folder: TrialFolder) -> tuple[str, ...]:
    return journal.read(folder.journal).attempts[-1].notes


def test_a_trial_whose_code_changed_begins_again_and_says_which_file(users: Path, runs_dir: Path, beside: Path):
    folder = interrupted(runs_dir)
    before = resolved(folder)
    with_tanh(users)
    trial.run(folder)
    (note,) = last_notes(folder)
    assert all(fact in note for fact in ("my_layers.py", "step 6", "from step 0"))
    assert note in folder.log.read_text()
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 0]
    assert outcome(folder) == undisturbed(beside, *MODEL)
    after = resolved(folder)
    assert after["code"]["my_net.Net"] != before["code"]["my_net.Net"]
    assert {key: after[key] for key in after if key not in ("code", "files")} == {
        key: before[key] for key in before if key not in ("code", "files")
    }


def test_a_trial_whose_code_is_the_same_goes_on(users: Path, runs_dir: Path):
    folder = interrupted(runs_dir)
    (users / "beside.py").write_text("# nobody imports this\n")
    trial.run(folder)
    assert last_notes(folder) == ()
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 6]


@pytest.mark.slow
def test_a_rate_once_found_is_kept_when_the_trial_begins_again(users: Path, runs_dir: Path):
    folder = interrupted(runs_dir)
    resolved(folder, max_lr=0.07, threads=2)
    with_tanh(users)
    trial.run(folder)
    assert (resolved(folder)["max_lr"], resolved(folder)["threads"]) == (0.07, 2)
    assert max(journal.read(folder.journal).series(journal.LR)[1]) == pytest.approx(0.07, rel=0.1)


def test_another_version_of_the_program_begins_again(users: Path, runs_dir: Path):
    folder = interrupted(runs_dir)
    versions = resolved(folder)["versions"]
    resolved(folder, versions=versions | {"onecycle-sweeps": "0.0.1"})
    trial.run(folder)
    assert "onecycle-sweeps was 0.0.1" in last_notes(folder)[0] and "from step 0" in last_notes(folder)[0]
    assert resolved(folder)["versions"] == versions


def test_another_torch_goes_on_and_says_so_once(users: Path, runs_dir: Path):
    folder = interrupted(runs_dir)
    found = resolved(folder)
    old = {"versions": found["versions"] | {"torch": "1.0"}, "code": found["code"] | {"torch.optim.SGD": "torch 1.0"}}
    resolved(folder, **old)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(2))
    assert "torch was 1.0" in last_notes(folder)[0] and "continues from step 6" in last_notes(folder)[0]
    result = trial.run(folder)
    assert last_notes(folder) == ()
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 6, 8]
    assert [line for line in result["warnings"] if "torch was 1.0" in line and "step 6" in line]


def test_steps_that_nobody_knows_the_code_of_are_made_again(users: Path, runs_dir: Path):
    folder = interrupted(runs_dir)
    folder.remove("resolved.json")
    trial.run(folder)
    assert "from step 0" in last_notes(folder)[0]


def test_what_a_failed_attempt_recorded_of_its_code_is_replaced_by_what_made_the_result(users: Path, runs_dir: Path):
    (users / "my_layers.py").write_text(LAYERS + "\nraise_later = True\n")
    folder = made(runs_dir, *MODEL, "optimizer._target_=users_code.Sulking")
    with pytest.raises(trial.TrialFailed):
        trial.run(folder)
    failed = resolved(folder)
    with_tanh(users)
    with pytest.raises(trial.TrialFailed):
        trial.run(folder)
    assert resolved(folder)["files"]["my_layers.py"] != failed["files"]["my_layers.py"]


def test_a_worker_runs_the_code_that_stands_there_when_a_trial_begins(users: Path, runs_dir: Path, beside: Path):
    first, second = made(runs_dir, *MODEL), made(runs_dir, *MODEL, "seed=1")
    trial.run(first)
    with_tanh(users)
    trial.run(second)
    assert resolved(first)["files"]["my_layers.py"] != resolved(second)["files"]["my_layers.py"]
    for module in ("my_net", "my_layers"):
        del sys.modules[module]
    assert outcome(second) == undisturbed(beside, *MODEL, "seed=1")
