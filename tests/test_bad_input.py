"""Bad input gets one line that names the key, the bound and the value, before any training; no trial is left behind."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch

from onecycle_sweeps.config.schema import LOCAL_LAUNCHER, ConfigError, check_launcher
from onecycle_sweeps.planning import Planner
from real_trials import planned, request

RATE = "max_lr must be a number above 0 or auto, got "
COUNT = " must be a whole number of at least 1, got "
MOMENTUM = " must be a number in [0, 1), got "


def refusal(runs_dir: Path, *overrides: str) -> str:
    """The line that a plan is refused with."""
    with pytest.raises(ConfigError) as raised:
        planned(runs_dir, *overrides)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # A value of the wrong type.
        ("max_lr=abc", RATE + "'abc'"),
        ("max_lr=null", RATE + "None"),
        ("max_lr=true", RATE + "True"),
        ("max_lr=[0.1]", RATE + "[0.1]"),
        ("policy.max_lr=abc", "policy." + RATE + "'abc'"),
        ("max_lr_scale=abc", "max_lr_scale must be a number above 0, got 'abc'"),
        ("epochs=1.5", "epochs" + COUNT + "1.5"),
        ("epochs=abc", "epochs" + COUNT + "'abc'"),
        ("epochs=true", "epochs" + COUNT + "True"),
        ("batch_size=64.0", "batch_size" + COUNT + "64.0"),
        ("evaluations_per_epoch=0", "evaluations_per_epoch" + COUNT + "0"),
        ("seed=abc", "seed must be a whole number of at least 0, got 'abc'"),
        ("seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("label_smoothing=abc", "label_smoothing must be a number in [0, 1), got 'abc'"),
        ("clip_norm=0", "clip_norm must be a number above 0 or null, got 0"),
        ("threads=0", "threads must be a whole number of at least 1 or auto, got 0"),
        ("precision=fp8", "precision must be auto, fp32 or bf16, got 'fp8'"),
        ("precision=16", "precision must be auto, fp32 or bf16, got 16"),
        ("save_model=1", "save_model must be true or false, got 1"),
        ("rerun=yess", "rerun must be true or false, got 'yess'"),
        ("deterministic=0", "deterministic must be true or false, got 0"),
        ("target_accuracy=95", "target_accuracy must be a number in (0, 1] or null, got 95"),
        ("checkpoint_minutes=0", "checkpoint_minutes must be a number above 0, got 0"),
        ("tracking.uri=null", "tracking.uri must be a URI such as sqlite:///mlflow.db, got None"),
        ("tracking.experiment=5", "tracking.experiment must be a name, got 5"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must be a number of at least 0, got -1"),
        ("policy=clr policy.base_lr=abc", "base_lr must be a number of at least 0, got 'abc'"),
        ("policy=step policy.milestones=0.5", "milestones must be a list of numbers, got 0.5"),
        ("policy.anneal_strategy=exp", "anneal_strategy must be cos or linear, got 'exp'"),
        ("policy.three_phase=1", "policy.three_phase must be true or false, got 1"),
        ("policy._target_=null", "policy._target_ must be the dotted name of a class or function, got None"),
        ("model._target_=5", "model._target_ must be the dotted name of a class or function, got 5"),
        ("+policy.pct_strat=0.2", "unknown key policy.pct_strat; did you mean policy.pct_start?"),
        # A negative or zero rate, or none at all.
        ("max_lr=0", RATE + "0"),
        ("max_lr=-0.1", RATE + "-0.1"),
        ("max_lr=nan", RATE + "nan"),
        ("max_lr=inf", RATE + "inf"),
        ("policy.max_lr=0", "policy." + RATE + "0"),
        ("max_lr_scale=0", "max_lr_scale must be a number above 0, got 0"),
        ("policy=clr policy.base_lr=-0.1", "base_lr must be a number of at least 0, got -0.1"),
        ("policy=clr max_lr=0.1 policy.base_lr=0.5", "base_lr must be at most max_lr=0.1, got 0.5"),
        ("policy=clr max_lr=1 max_lr_scale=0.1 policy.base_lr=0.5", "base_lr must be at most max_lr=0.1, got 0.5"),
        ("policy=cosine max_lr=0.1 policy.eta_min=1", "eta_min must be at most max_lr=0.1, got 1"),
        # Momentum outside [0, 1).
        ("optimizer.momentum=1", "optimizer.momentum" + MOMENTUM + "1"),
        ("optimizer.momentum=-0.1", "optimizer.momentum" + MOMENTUM + "-0.1"),
        ("optimizer=adam optimizer.beta2=1", "optimizer.beta2" + MOMENTUM + "1"),
        ("policy.max_momentum=1", "policy.max_momentum" + MOMENTUM + "1"),
        ("policy.base_momentum=-1", "policy.base_momentum" + MOMENTUM + "-1"),
        ("policy.base_momentum=0.96", "base_momentum must be at most max_momentum=0.95, got 0.96"),
        # A pct_start outside its range, or too small for the steps.
        ("policy.pct_start=0", "pct_start must be a number in (0, 1), got 0"),
        ("policy.pct_start=1", "pct_start must be a number in (0, 1), got 1"),
        ("policy.pct_start=abc", "pct_start must be a number in (0, 1), got 'abc'"),
        (
            "epochs=1 batch_size=720",
            "pct_start * total_steps must be above 1, got 0.3 * 1 = 0.3: raise pct_start or train longer",
        ),
        (
            "epochs=2 policy.pct_start=0.01",
            "pct_start * total_steps must be above 1, got 0.01 * 22 = 0.22: raise pct_start or train longer",
        ),
        ("policy=step epochs=1 batch_size=1437", "milestones must fall after step 0, got 0.5 of 1 steps: train longer"),
        # Zero epochs, and a batch larger than the set.
        ("epochs=0", "epochs" + COUNT + "0"),
        ("epochs=-3", "epochs" + COUNT + "-3"),
        # Larger than any float.
        (f"epochs={10**400}", f"epochs must be at most 1000000, got {10**400}"),
        (f"max_lr={10**400}", f"max_lr must be a number above 0 or auto, got {10**400}"),
        ("batch_size=0", "batch_size" + COUNT + "0"),
        ("batch_size=1438", "batch_size must be at most the 1437 training samples, got 1438"),
        (
            "batch_size=1437 data.val_fraction=0.5",
            "batch_size must be at most the 719 training samples, got 1437",
        ),
        # A range test that cannot be.
        ("range_test.steps=99", "range_test.steps must be a whole number of at least 100, got 99"),
        ("range_test.mode=log", "range_test.mode must be exp or linear, got 'log'"),
        ("range_test.start_lr=0", "range_test.start_lr must be above 0 where range_test.mode is exp, got 0"),
        ("range_test.end_lr=0", "range_test.end_lr must be a number above 0, got 0"),
        ("range_test.start_lr=20", "range_test.start_lr must be below range_test.end_lr (10.0), got 20"),
        ("range_test.seeds=0", "range_test.seeds must be a list of whole numbers, each once, such as [0,1,2], got 0"),
        ("range_test=null", "range_test.mode is missing, it must be exp or linear"),
        # A split that cannot be.
        ("data.val_fraction=1", "data.val_fraction must be a number in [0, 1), got 1"),
        ("data.val_fraction=abc", "data.val_fraction must be a number in [0, 1), got 'abc'"),
        ("data.split_seed=-1", "data.split_seed must be a whole number of at least 0, got -1"),
        ("data.classes=7", "data.classes must be null or a list of class numbers such as [3,7], got 7"),
        ("data.classes=[3,77]", "classes must lie in 0..9, got 77"),
        ("data.classes=[3]", "classes must name at least two different classes, each once, got [3]"),
        # What a config of one's own may lack.
        ("~policy.max_lr", "policy.max_lr is missing, it must be a number above 0 or auto"),
        ("~data.split_seed", "data.split_seed is missing, it must be a whole number of at least 0"),
        ("~epochs", "epochs is missing, it must be a whole number of at least 1"),
        # A device that is not here.
        ("device=gpu", "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("device=cpu:1", "device must be auto, cpu, cuda or cuda:N, got 'cpu:1'"),
        (
            f"device=cuda:{torch.cuda.device_count()}",
            f"device=cuda:{torch.cuda.device_count()} needs a CUDA device, and torch {torch.__version__} finds "
            f"{torch.cuda.device_count()} here",
        ),
    ],
)
def test_bad_input_is_refused_with_key_bound_and_value(runs_dir: Path, overrides: str, message: str):
    assert refusal(runs_dir, *overrides.split()) == message


def test_a_runs_dir_that_is_no_path_is_refused(runs_dir: Path):
    asked = request(runs_dir)
    with pytest.raises(ConfigError, match="runs_dir must be the path of a folder, got 5"):
        Planner(runs_dir).plan(replace(asked, config=asked.config | {"runs_dir": 5}))


@pytest.mark.parametrize("overrides", [(), ("task=range_test",), ("policy=clr", "max_lr=auto")], ids=str)
def test_a_range_test_and_a_training_are_checked_alike(runs_dir: Path, overrides: tuple[str, ...]):
    assert refusal(runs_dir, *overrides, "batch_size=5000").startswith("batch_size must be at most the 1437")
    assert refusal(runs_dir, *overrides, "epochs=0") == "epochs" + COUNT + "0"


def test_a_data_folder_that_is_missing_is_named_with_the_remedy(runs_dir: Path, tmp_path: Path):
    message = refusal(runs_dir, "data=fashion_mnist", f"data.root={tmp_path}/nowhere")
    assert f"in {tmp_path}/nowhere/FashionMNIST/raw" in message
    assert "set data.root or ONECYCLE_DATA to the folder that holds FashionMNIST/raw" in message
    assert "data.download=true where there is internet" in message


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], r"states \[60, 8, 8\], 3856 bytes in all, got 3855$"),
        ("t10k-labels-idx1-ubyte", lambda data: b"PK" + data[2:], r"header of magic number 2049, got \d+$"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0b", r"labels must lie in 0..9, got 11$"),
    ],
)
def test_a_corrupt_idx_file_is_named(
    runs_dir: Path, mnist: Path, name: str, damage: Callable[[bytes], bytes], message: str
):
    path = mnist / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(runs_dir, "data=mnist", f"data.root={mnist}", "batch_size=6")
    assert line.startswith(f"{path} is corrupt: ")
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "hydra.launcher.workers must be a whole number of at least 1 or auto, got 0"),
        ({"workers": "abc"}, "hydra.launcher.workers must be a whole number of at least 1 or auto, got 'abc'"),
        ({"jobs_per_gpu": 1.5}, "hydra.launcher.jobs_per_gpu must be a whole number of at least 1, got 1.5"),
    ],
)
def test_a_launchers_key_is_refused_by_its_full_name(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        check_launcher({"workers": "auto", "jobs_per_gpu": 1} | settings, LOCAL_LAUNCHER)
    assert str(raised.value) == message


@pytest.mark.slow
def test_the_program_ends_with_the_line_alone_and_leaves_no_trial(tmp_path: Path, runs_dir: Path):
    """Whole commands, with and without -m: exit status 2, one line on standard error, nothing in runs_dir."""
    asked = {
        "max_lr=abc -m": RATE + "'abc'",
        "runs_dir=5": "runs_dir must be the path of a folder, got 5",
        "policy=onecycle,clr max_lr=0.1 epochs=1 batch_size=720 -m": "pct_start * total_steps must be above 1, "
        "got 0.3 * 1 = 0.3: raise pct_start or train longer",
        "policy=clr max_lr=0.1 policy.base_lr=0.5": "base_lr must be at most max_lr=0.1, got 0.5",
        "data=mnist data.root=nowhere": "MNIST: no train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        f"t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte in {tmp_path}/nowhere/MNIST/raw: set data.root or "
        "ONECYCLE_DATA to the folder that holds MNIST/raw, or data.download=true where there is internet",
        "seed=0,1,2,-1 -m": "seed must be a whole number of at least 0, got -1",
    }
    program = (sys.executable, "-m", "onecycle_sweeps")
    processes = {
        typed: subprocess.Popen((*program, *typed.split()), cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True)
        for typed in asked
    }
    ended = {typed: (*process.communicate(), process.returncode) for typed, process in processes.items()}
    assert ended == {typed: ("", f"onecycle_sweeps: {line}\n", 2) for typed, line in asked.items()}
    assert sorted(os.listdir(tmp_path)) == ["runs"]
    assert [path for path in runs_dir.rglob("*") if path.is_dir()] == [runs_dir / "data", runs_dir / "sweeps"]
