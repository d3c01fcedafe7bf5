"""A trial's signature: the same for what cannot change its result, another for what can; what makes no difference."""

import json
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from onecycle_sweeps import differences
from onecycle_sweeps.planning import Planner, Trial
from real_trials import made, planned, request

AT_A_RATE = ("max_lr=0.1",)
SHORT_AT_A_RATE = "max_lr=0.1 epochs=2 "
ELSEWHERE = """
import sys, json
from pathlib import Path
from onecycle_sweeps.planning import Planner, Request
config = json.loads(sys.stdin.read())
trial = Planner(Path(config["runs_dir"])).plan(Request(config))
print(trial.signature, trial.rate_from.signature, "torch" in sys.modules)
"""


def signature(runs_dir: Path, *overrides: str) -> str:
    return planned(runs_dir, *overrides).signature


def range_test(runs_dir: Path, *overrides: str) -> str:
    test = planned(runs_dir, *overrides).rate_from
    assert test is not None
    return test.signature


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "tracking.uri=http://127.0.0.1:5000",
        "tracking.experiment=other",
        "threads=2",
        "target_accuracy=0.9",
        "checkpoint_minutes=5",
        "save_model=true",
        "rerun=true",
        "policy.max_lr=0.1",
        "policy=onecycle",
        "range_test.steps=150",
        "range_test.seeds=[1,2]",
        "hydra.launcher.workers=2",
    ],
)
def test_what_cannot_change_the_result_has_no_part_in_the_signature(runs_dir: Path, override: str):
    assert signature(runs_dir, *AT_A_RATE, override) == signature(runs_dir, *AT_A_RATE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "max_lr=0.2",
        "max_lr=auto",
        "policy.max_lr=0.2",
        "max_lr_scale=2",
        "policy=constant",
        "policy.pct_start=0.4",
        "model=lenet",
        "model.channels=[8,16]",
        "optimizer=adamw",
        "optimizer.weight_decay=0",
        "epochs=11",
        "batch_size=64",
        "seed=1",
        "evaluations_per_epoch=2",
        "label_smoothing=0.1",
        "clip_norm=1",
        "precision=bf16",
        "deterministic=true",
        "data.val_fraction=0.1",
        "data.split_seed=1",
        "data.classes=[3,7]",
        "task=range_test",
    ],
)
def test_what_can_change_the_result_changes_the_signature(runs_dir: Path, override: str):
    assert signature(runs_dir, *AT_A_RATE, override) != signature(runs_dir, *AT_A_RATE)


def test_the_runs_dir_has_no_part_in_the_signature(runs_dir: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "data").symlink_to(runs_dir / "data")
    assert signature(moved, *AT_A_RATE) == signature(runs_dir, *AT_A_RATE)


@pytest.mark.parametrize(
    "override",
    ["policy=constant", "seed=1", "epochs=3", "max_lr_scale=3", "evaluations_per_epoch=2", "task=range_test"],
)
def test_one_range_test_serves_all_policies_seeds_lengths_and_scales(runs_dir: Path, override: str):
    trial = planned(runs_dir, override)
    found = trial.rate_from.signature if trial.rate_from else trial.signature
    assert found == range_test(runs_dir)


@pytest.mark.parametrize(
    "override",
    [
        "range_test.steps=150",
        "range_test.mode=linear",
        "range_test.end_lr=1",
        "range_test.seeds=[0,1]",
        "model=lenet",
        "optimizer.weight_decay=0",
        "batch_size=64",
        "label_smoothing=0.1",
        "data.val_fraction=0.1",
    ],
)
def test_what_can_move_the_rate_has_a_range_test_and_a_training_of_its_own(runs_dir: Path, override: str):
    assert range_test(runs_dir, override) != range_test(runs_dir)
    assert signature(runs_dir, override) != signature(runs_dir)


def test_a_training_at_a_rate_needs_no_range_test(runs_dir: Path):
    assert planned(runs_dir, *AT_A_RATE).rate_from is None
    assert planned(runs_dir, "policy.max_lr=0.1").rate_from is None


def test_a_policys_own_max_lr_overrides_the_common_one(runs_dir: Path):
    trial = planned(runs_dir, "max_lr=0.5", "policy.max_lr=0.1")
    assert trial.signature == signature(runs_dir, *AT_A_RATE)
    assert planned(runs_dir, "max_lr=0.5", "policy.max_lr=auto").signature == signature(runs_dir)


@pytest.mark.slow
def test_a_signature_is_the_same_in_every_process_and_plans_without_torch(runs_dir: Path):
    asked = request(runs_dir, "policy=clr", "seed=5")
    trial = Planner(runs_dir).plan(asked)
    assert trial.rate_from is not None
    found = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE],
            input=json.dumps(asked.config),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.strip())
    assert found == {f"{trial.signature} {trial.rate_from.signature} False"}


def test_data_that_moved_is_the_same_data(runs_dir: Path, mnist: Path):
    def asked() -> str:
        return signature(runs_dir, "data=mnist", f"data.root={mnist}", "batch_size=6")

    before = asked()
    moved = mnist.rename(mnist.with_name("moved"))
    assert signature(runs_dir, "data=mnist", f"data.root={moved}", "batch_size=6", "data.download=true") == before


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_changed_data_file_is_other_data(runs_dir: Path, mnist: Path, name: str):
    overrides = ("data=mnist", f"data.root={mnist}", "batch_size=6")
    trial, test = signature(runs_dir, *overrides), range_test(runs_dir, *overrides)
    path = mnist / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert signature(runs_dir, *overrides) != trial
    assert range_test(runs_dir, *overrides) != test


def test_a_folder_of_files_is_known_by_their_names_and_contents(runs_dir: Path, mnist: Path):
    overrides = ("data=mnist", f"data.root={mnist}", "batch_size=6", "data.files=[MNIST/raw]")
    before = signature(runs_dir, *overrides)
    assert signature(runs_dir, *overrides) == before
    (mnist / "MNIST" / "raw" / "more").touch()
    assert signature(runs_dir, *overrides) != before


def test_a_data_set_is_read_once_for_all_requests(runs_dir: Path, mnist: Path):
    overrides = ("data=mnist", f"data.root={mnist}", "batch_size=6")
    planner = Planner(runs_dir)
    first = planner.plan(request(runs_dir, *overrides))
    for path in (mnist / "MNIST" / "raw").iterdir():
        path.unlink()
    assert planner.plan(request(runs_dir, *overrides)).signature == first.signature


def test_a_folder_holds_the_config_as_asked_with_what_the_trial_needs(runs_dir: Path):
    trial, folder = planned(runs_dir, "seed=3"), made(runs_dir, "seed=3")
    assert trial.rate_from is not None
    config = folder.config()
    needs = config.pop("needs")
    assert config == request(runs_dir, "seed=3").config
    assert needs["range_test"] == trial.rate_from.signature
    assert (runs_dir / "data" / needs["data"]).is_dir()


def test_data_whose_loader_was_edited_is_decoded_anew_for_the_same_trial(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loader = tmp_path / "own_digits.py"
    loader.write_text("from onecycle_sweeps.sources.digits import load as load\n")
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ("data._target_=own_digits.load", *AT_A_RATE)
    before = planned(runs_dir, *overrides)
    loader.write_text(loader.read_text() + "# edited\n")
    after = planned(runs_dir, *overrides)
    assert before.config["needs"]["data"] != after.config["needs"]["data"]
    assert before.signature == after.signature


def plan_all(runs_dir: Path, *jobs: str) -> tuple[Planner, list[Trial]]:
    """The trials of a sweep, each job's overrides in one line."""
    planner = Planner(runs_dir)
    return planner, [planner.plan(request(runs_dir, *job.split())) for job in jobs]


def without_effect(runs_dir: Path, *jobs: str) -> list[str]:
    planner, trials = plan_all(runs_dir, *jobs)
    return differences.without_effect(trials, planner.steps_per_epoch)


def grid(*parts: str) -> list[str]:
    """Jobs of every combination: `policy=clr,onecycle` as Hydra's sweeper takes it."""
    keys = [(key, values.split(",")) for key, _, values in (part.partition("=") for part in parts)]
    return [
        " ".join(f"{key}={value}" for (key, _), value in zip(keys, chosen, strict=True))
        for chosen in product(*(values for _, values in keys))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["", SHORT_AT_A_RATE], ids=["auto", "a rate"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_under_a_policy_that_cycles_it_is_reported_once_with_what_to_vary_instead(
    runs_dir: Path, rate: str, optimizer: str
):
    jobs = grid(f"optimizer={optimizer}", "optimizer.momentum=0.8,0.9", "policy=constant,onecycle", "seed=0,1")
    (line,) = without_effect(runs_dir, *(rate + job for job in jobs))
    assert line.startswith("optimizer.momentum=0.8,0.9 changes no training under policy=onecycle")
    assert "policy.base_momentum" in line and "policy.cycle_momentum=false" in line
    assert ("range test" in line) is (not rate)


def test_one_momentum_that_no_training_uses_is_reported_too(runs_dir: Path):
    (line,) = without_effect(runs_dir, SHORT_AT_A_RATE + "optimizer.momentum=0.8")
    assert line.startswith("optimizer.momentum=0.8 changes no training under policy=onecycle")


@pytest.mark.slow
@pytest.mark.parametrize(
    "jobs",
    [
        grid("policy=constant,step", "optimizer.momentum=0.8,0.9"),
        grid("policy=onecycle", "policy.cycle_momentum=false", "optimizer.momentum=0.8,0.9"),
        grid("policy=constant,onecycle", "optimizer.momentum=0.8"),
        grid("policy=onecycle,clr", "seed=0,1"),
        grid("data.val_fraction=0.2", "data.split_seed=0,1"),
        grid("policy.max_momentum=0.9,0.95"),
        grid("policy=step", "policy.gamma=0.1,0.2"),
        grid("model.channels=[8],[16]"),
        grid("label_smoothing=0,0.1"),
    ],
    ids=str,
)
def test_a_key_that_changes_a_training_is_not_reported(runs_dir: Path, jobs: list[str]):
    assert without_effect(runs_dir, *(SHORT_AT_A_RATE + job for job in jobs)) == []


def test_trainings_with_different_range_tests_are_different(runs_dir: Path):
    assert without_effect(runs_dir, *grid("range_test.steps=100,150")) == []
    assert without_effect(runs_dir, *grid("max_lr_scale=1,3")) == []


@pytest.mark.parametrize("rate", ["", SHORT_AT_A_RATE], ids=["auto", "a rate"])
@pytest.mark.parametrize(
    ("more", "varied"),
    [
        ("policy=onecycle", "policy.pct_tail=0.1,0.2"),
        ("policy=onecycle policy.cycle_momentum=false", "policy.base_momentum=0.8,0.85"),
        ("policy=clr", "policy.gamma=0.5,1.0"),
    ],
)
def test_a_key_of_a_policy_that_changes_no_step_is_reported(runs_dir: Path, rate: str, more: str, varied: str):
    (line,) = without_effect(runs_dir, *(f"{rate}{more} {job}" for job in grid(varied)))
    assert line.startswith(f"{varied} changes no training")


def test_policies_that_differ_in_a_single_step_are_not_the_same(runs_dir: Path):
    rest = "policy=step max_lr=0.1 epochs=20 policy.gamma=0.5 "
    assert without_effect(runs_dir, *(rest + f"policy.milestones=[{epoch}]" for epoch in ("10", "0.505"))) == []


def test_a_split_seed_without_a_split_is_reported(runs_dir: Path):
    (line,) = without_effect(
        runs_dir, *(SHORT_AT_A_RATE + "data.val_fraction=0 " + job for job in grid("data.split_seed=0,1"))
    )
    assert line.startswith("data.split_seed=0,1 changes no training")


@pytest.mark.slow
def test_a_thousand_trainings_are_compared_in_a_moment(runs_dir: Path):
    jobs = grid("policy=constant,onecycle", "max_lr=0.1,0.2,0.3,0.4,0.5", "optimizer.momentum=0.8,0.9", "seed=0")
    planner, few = plan_all(runs_dir, *jobs)
    trials = [
        Trial(f"{one.signature}{seed}", one.config | {"seed": seed}, one.request) for one in few for seed in range(50)
    ]
    began = time.monotonic()
    assert len(differences.without_effect(trials, planner.steps_per_epoch)) == 1
    assert time.monotonic() - began < 5
