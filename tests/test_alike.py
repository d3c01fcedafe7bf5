"""What was typed and makes no difference between trainings is said before they run, and what does is not."""

import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps import report, sweep
from onecycle_sweeps.launching.alike import Trainings, names_of_one
from onecycle_sweeps.planning import Planner, Trial
from onecycle_sweeps.sweep import Entry
from real_trials import request

AT_A_RATE = "max_lr=0.1 epochs=2 "


def planned(runs_dir: Path, *jobs: str) -> tuple[Planner, list[Trial]]:
    planner = Planner(runs_dir)
    return planner, [planner.plan(request(runs_dir, *job.split())) for job in jobs]


def said(runs_dir: Path, *jobs: str) -> list[str]:
    planner, trials = planned(runs_dir, *jobs)
    return Trainings(trials, planner.steps_per_epoch).without_effect()


def grid(*parts: str) -> list[str]:
    """Jobs of every combination: `policy=clr,onecycle` as Hydra's sweeper takes it."""
    keys = [(key, values.split(",")) for key, _, values in (part.partition("=") for part in parts)]
    return [
        " ".join(f"{key}={value}" for (key, _), value in zip(keys, chosen, strict=True))
        for chosen in product(*(values for _, values in keys))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["", AT_A_RATE], ids=["auto", "a rate"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_momentum_under_a_policy_that_cycles_it_is_said_once_and_what_to_vary_instead(
    runs_dir: Path, rate: str, optimizer: str
):
    jobs = grid(f"optimizer={optimizer}", "optimizer.momentum=0.8,0.9", "policy=constant,onecycle", "seed=0,1")
    (line,) = said(runs_dir, *(rate + job for job in jobs))
    assert line.startswith("optimizer.momentum=0.8,0.9 changes no training under policy=onecycle")
    assert "policy.base_momentum" in line and "policy.cycle_momentum=false" in line
    assert ("range test" in line) is (not rate)


def test_momentum_that_no_training_of_the_command_takes_is_said_for_one_value_too(runs_dir: Path):
    (line,) = said(runs_dir, AT_A_RATE + "optimizer.momentum=0.8")
    assert line.startswith("optimizer.momentum=0.8 changes no training under policy=onecycle")


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
def test_what_changes_a_training_is_not_said_to_change_none(runs_dir: Path, jobs: list[str]):
    assert said(runs_dir, *(AT_A_RATE + job for job in jobs)) == []


def test_a_rate_that_other_range_tests_may_find_is_a_difference(runs_dir: Path):
    assert said(runs_dir, *grid("range_test.steps=100,150")) == []
    assert said(runs_dir, *grid("max_lr_scale=1,3")) == []


@pytest.mark.parametrize("rate", ["", AT_A_RATE], ids=["auto", "a rate"])
@pytest.mark.parametrize(
    ("more", "varied"),
    [
        ("policy=onecycle", "policy.pct_tail=0.1,0.2"),
        ("policy=onecycle policy.cycle_momentum=false", "policy.base_momentum=0.8,0.85"),
        ("policy=clr", "policy.gamma=0.5,1.0"),
    ],
)
def test_a_key_of_a_policy_that_moves_no_step_is_said(runs_dir: Path, rate: str, more: str, varied: str):
    (line,) = said(runs_dir, *(f"{rate}{more} {job}" for job in grid(varied)))
    assert line.startswith(f"{varied} changes no training")


def test_policies_that_differ_in_a_single_step_are_not_the_same(runs_dir: Path):
    rest = "policy=step max_lr=0.1 epochs=20 policy.gamma=0.5 "
    assert said(runs_dir, *(rest + f"policy.milestones=[{epoch}]" for epoch in ("10", "0.505"))) == []


def test_a_split_that_splits_nothing_is_said(runs_dir: Path):
    (line,) = said(runs_dir, *(AT_A_RATE + "data.val_fraction=0 " + job for job in grid("data.split_seed=0,1")))
    assert line.startswith("data.split_seed=0,1 changes no training")


def entries(runs_dir: Path, *jobs: str) -> tuple[Entry, ...]:
    return sweep.entries(planned(runs_dir, *jobs)[1])


def test_two_names_of_one_training_are_both_named(runs_dir: Path):
    found = entries(runs_dir, *(AT_A_RATE + job for job in grid("policy.max_lr=0.1,0.10", "seed=0,1")))
    assert [entry.also for entry in found] == [("onecycle policy.max_lr=0.10",)] * 2
    (line,) = names_of_one(found)
    assert line.startswith("onecycle policy.max_lr=0.10 is the same training as onecycle policy.max_lr=0.1")


def test_what_has_no_part_in_a_training_is_another_name_of_it(runs_dir: Path):
    (one,) = entries(runs_dir, *(AT_A_RATE + job for job in grid("threads=1,2")))
    assert one.also == ("onecycle threads=2",)


def test_the_row_of_a_training_bears_all_its_names(tmp_path: Path):
    entry = replace(hand_made.entry("a", "constant", 0), also=("same",))
    made = hand_made.sweep(tmp_path, entry)
    hand_made.training(made.trial("a"), accuracy={4: 0.9})
    assert sweep.load(made.folder) == made
    (row,) = report.compare(made).rows
    assert row.name == "constant = same"


@pytest.mark.slow
def test_a_thousand_trainings_are_looked_at_in_a_moment(runs_dir: Path):
    jobs = grid("policy=constant,onecycle", "max_lr=0.1,0.2,0.3,0.4,0.5", "optimizer.momentum=0.8,0.9", "seed=0")
    planner, few = planned(runs_dir, *jobs)
    trials = [
        Trial(f"{one.signature}{seed}", one.config | {"seed": seed}, one.request) for one in few for seed in range(50)
    ]
    began = time.monotonic()
    assert len(Trainings(trials, planner.steps_per_epoch).without_effect()) == 1
    assert time.monotonic() - began < 5
