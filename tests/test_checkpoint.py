"""Checkpoints: replaced whole, and loaded without running what they contain."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onecycle_sweeps import checkpoint, files
from onecycle_sweeps.loop import Totals
from onecycle_sweeps.trial import train


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 3, "model": {"weight": torch.arange(4.0)}})
    state = checkpoint.load(path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(4.0))


def test_no_checkpoint_is_no_error(tmp_path: Path):
    assert checkpoint.load(tmp_path / "checkpoint.pt") is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_torn_checkpoint_is_noticed(tmp_path: Path, share: float):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 3, "model": torch.zeros(1000)})
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(checkpoint.Corrupt, match=r"checkpoint\.pt cannot be read"):
        checkpoint.load(path)


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 3})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 4})
    assert checkpoint.load(path) == {"step": 3}
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 1, "model": Malicious()}, tmp_path / "checkpoint.pt")
    with pytest.raises(checkpoint.Corrupt):
        checkpoint.load(tmp_path / "checkpoint.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(checkpoint.Corrupt):
        checkpoint.load(tmp_path / "plain.pt")
    assert not (tmp_path / "executed").exists()


def test_only_the_random_state_of_the_trials_own_gpu_is_saved_and_restored(monkeypatch: pytest.MonkeyPatch):
    mine, other = torch.device("cuda:1"), torch.get_rng_state()
    restored: list[tuple[Any, Any]] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: restored.append((value, device)))
    learner: Any = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        data=SimpleNamespace(device=mine, check=lambda: None),
        averaged=None,
        objective=None,
    )
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    saved: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: other if device == mine else None)
    monkeypatch.setattr(files, "with_format", lambda data: saved.update(data) or data)
    nothing = SimpleNamespace(sync=lambda: None, saved=lambda step: None, put=lambda *_: None)
    attempt: Any = SimpleNamespace(journal=nothing, trial=nothing, number=1)
    train.save(attempt, learner, train.TrainingState(train.DivergenceCheck(5), Totals()))
    train.restore(learner, saved)
    assert [device for _, device in restored] == [mine] and torch.equal(restored[0][0], other)
