"""Workers on GPUs: each sees its own, and one whose GPU is lost is replaced."""

import os
import re
import sys
from pathlib import Path

import pytest

import users_code
from onecycle_sweeps import journal
from onecycle_sweeps.launching import pool
from onecycle_sweeps.trial_folder import FAILED, FINISHED
from program import QUICK, planned, run, sweep_of, with_store, write

MODELS = """
import os, torch
from onecycle_sweeps.models.simple_cnn import SimpleCNN

class Looking(SimpleCNN):
    def forward(self, images):
        print("sees", torch.cuda.device_count(), "of", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
        print("holds", torch.cuda.memory_allocated(), "bytes", flush=True)
        return super().forward(images)

class Asserting(SimpleCNN):
    def forward(self, images):
        if images.is_cuda:
            torch._assert_async(torch.zeros((), device=images.device))
        return super().forward(images)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are typed in, with models of the user's in it."""
    here = write(with_store(tmp_path), {"models.py": MODELS})
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    return here


def ended(folder: Path, *commands: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
    """The status and cause of trials that one worker executes in turn, in the order of their ends."""
    made, todo = planned(folder, *commands)
    pool.stop_server()
    workers = pool.WorkerPool()
    events = list(pool.run(workers, made, todo, pool.slots("auto", 1, 1, 1, len(todo))))
    workers.leave()
    return [(event.status, event.cause) for event in events if event.entry and event.status != "running"]


@pytest.mark.cuda
@pytest.mark.slow
def test_a_sweep_trains_on_the_gpu_and_each_worker_sees_one_alone(folder: Path, cuda: str):
    looking = ("~model", "+model={_target_: models.Looking}")
    done = run(folder, *QUICK, *looking, "policy=constant,onecycle", "seed=0,1", "-m", "hydra.launcher.jobs_per_gpu=2")
    assert done.returncode == 0, done.stderr
    trials = [sweep_of(folder).trial(entry.signature) for entry in sweep_of(folder).trials]
    assert len(trials) == 4
    for one in trials:
        assert (one.resolved() or {})["device"] == cuda
        assert journal.read(one.journal).series("train/loss")[0] == list(range(11))
        assert f"sees 1 of {os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]}" in one.log.read_text()


@pytest.mark.cuda
@pytest.mark.slow
def test_a_gpu_that_is_lost_costs_its_own_trial_alone(folder: Path, cuda: str):
    lost = (*QUICK, "~model", "+model={_target_: models.Asserting}", f"device={cuda}")
    first, *others = ended(folder, lost, (*QUICK, f"device={cuda}"), (*QUICK, f"device={cuda}", "seed=1"))
    assert first[0] == FAILED and first[1] and first[1].startswith("the GPU is lost (") and "assert" in first[1]
    assert "\n" not in first[1] and others == [(FINISHED, None)] * 2


@pytest.mark.cuda
@pytest.mark.slow
def test_what_does_not_fit_is_named_and_its_memory_is_given_back(folder: Path, cuda: str):
    hungry, looking = (
        (*QUICK, "~model", f"+model={{_target_: {net}}}", f"device={cuda}")
        for net in ("users_code.Hungry", "models.Looking")
    )
    first, second = ended(folder, hungry, looking)
    assert first[0] == FAILED and first[1] and "batch_size=128 does not fit into the GPU's memory: " in first[1]
    assert "\n" not in first[1] and second == (FINISHED, None)
    log = sweep_of(folder).trial(sweep_of(folder).trials[1].signature).log.read_text()
    assert max(int(held) for held in re.findall(r"holds (\d+) bytes", log)) < users_code.Hungry.BYTES
