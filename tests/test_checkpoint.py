"""Checkpoints: replaced whole, and loaded without running what they contain."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from onecycle_sweeps import checkpoint


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
