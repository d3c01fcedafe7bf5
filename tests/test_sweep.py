"""A sweep knows its trials by signature, names them by what varies, and is found by its id."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps import files, report, sweep
from onecycle_sweeps.planning import Planner, Request, Trial
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry
from real_trials import request


def trials(runs_dir: Path, *jobs: str) -> list[Trial]:
    """The trials of a sweep, each job's overrides in one line."""
    planner = Planner(runs_dir)
    return [planner.plan(request(runs_dir, *job.split())) for job in jobs]


def names(entries: tuple[Entry, ...], max_lr: float | None = 0.8) -> list[str]:
    return [entry.name(None if entry.kind == RANGE_TEST else max_lr) for entry in entries]


def test_a_sweep_has_each_range_test_once_and_before_its_trainings(runs_dir: Path):
    jobs = trials(runs_dir, *(f"policy={policy} seed={seed}" for policy in ("clr", "onecycle") for seed in (0, 1)))
    entries = sweep.entries(jobs)
    assert [entry.kind for entry in entries] == [RANGE_TEST] + [TRAIN] * 4
    assert jobs[0].rate_from is not None
    assert entries[0].signature == jobs[0].rate_from.signature
    assert {entry.needs for entry in entries[1:]} == {entries[0].signature}
    assert [entry.signature for entry in entries[1:]] == [job.signature for job in jobs]


def test_names_read_as_legends(runs_dir: Path):
    jobs = trials(runs_dir, "policy=onecycle seed=0", "policy=onecycle seed=1", "policy=clr seed=0")
    assert names(sweep.entries(jobs)) == [
        "range test",
        "onecycle max_lr=0.8 seed=0",
        "onecycle max_lr=0.8 seed=1",
        "clr max_lr=0.8 seed=0",
    ]


def test_a_name_has_what_varies_and_not_what_all_trials_share(runs_dir: Path):
    jobs = trials(runs_dir, *(f"epochs=2 batch_size=64 max_lr=0.1 model={model}" for model in ("lenet", "resnet20")))
    assert names(sweep.entries(jobs), 0.1) == [
        "onecycle max_lr=0.1 model=lenet seed=0",
        "onecycle max_lr=0.1 model=resnet20 seed=0",
    ]


def test_a_range_test_is_named_by_what_tells_it_from_the_others(runs_dir: Path):
    grid = (f"policy={policy} model={model}" for model in ("lenet", "resnet20") for policy in ("clr", "onecycle"))
    entries = sweep.entries(trials(runs_dir, *grid))
    assert names(entries)[:2] == ["range test model=lenet", "range test model=resnet20"]


def test_a_range_test_that_serves_several_values_is_not_named_by_one_of_them(runs_dir: Path):
    entries = sweep.entries(trials(runs_dir, "max_lr_scale=1", "max_lr_scale=3"))
    assert names(entries) == [
        "range test",
        "onecycle max_lr=0.8 max_lr_scale=1 seed=0",
        "onecycle max_lr=0.8 max_lr_scale=3 seed=0",
    ]


def test_rates_that_vary_are_named_once(runs_dir: Path):
    entries = sweep.entries(trials(runs_dir, "max_lr=0.1", "max_lr=0.2"))
    assert [entry.name(rate) for entry, rate in zip(entries, (0.1, 0.2), strict=True)] == [
        "onecycle max_lr=0.1 seed=0",
        "onecycle max_lr=0.2 seed=0",
    ]
    assert [entry.varies["max_lr"] for entry in entries] == ["0.1", "0.2"]


def test_trials_that_wait_are_told_apart_by_the_rates_that_were_typed(runs_dir: Path):
    entries = sweep.entries(trials(runs_dir, "max_lr=auto", "max_lr=0.2"))
    waiting = [entry.name(None) for entry in entries if entry.kind == TRAIN]
    assert waiting == ["onecycle max_lr=auto seed=0", "onecycle max_lr=0.2 seed=0"]


def test_a_trial_without_a_rate_yet_is_named_without_one(runs_dir: Path):
    assert names(sweep.entries(trials(runs_dir, "seed=3")), None) == ["range test", "onecycle seed=3"]


def test_range_tests_alone_are_entries_of_their_own(runs_dir: Path):
    entries = sweep.entries(trials(runs_dir, "task=range_test model=lenet", "task=range_test model=resnet20"))
    assert [entry.kind for entry in entries] == [RANGE_TEST] * 2
    assert names(entries) == ["range test model=lenet", "range test model=resnet20"]


def test_a_trial_that_was_asked_for_twice_is_one_entry(runs_dir: Path):
    assert len(sweep.entries(trials(runs_dir, "max_lr=0.1 seed=0", "policy.max_lr=0.1 seed=0"))) == 1


def test_both_names_of_one_training_are_reported(runs_dir: Path):
    found = sweep.entries(
        trials(runs_dir, *(f"epochs=2 policy.max_lr={rate} seed={seed}" for rate in ("0.1", "0.10") for seed in (0, 1)))
    )
    assert [entry.also for entry in found] == [("onecycle policy.max_lr=0.10",)] * 2
    (line,) = sweep.other_names(found)
    assert line.startswith("onecycle policy.max_lr=0.10 is the same training as onecycle policy.max_lr=0.1")


def test_a_key_without_a_part_in_the_training_gives_it_another_name(runs_dir: Path):
    (one,) = sweep.entries(trials(runs_dir, *(f"max_lr=0.1 epochs=2 threads={threads}" for threads in (1, 2))))
    assert one.also == ("onecycle threads=2",)


def test_the_row_of_a_training_has_all_its_names(tmp_path: Path):
    entry = replace(hand_made.entry("a", "constant", 0), also=("same",))
    made = hand_made.sweep(tmp_path, entry)
    hand_made.training(made.trial("a"), accuracy={4: 0.9})
    assert sweep.load(made.folder) == made
    (row,) = report.compare(made).rows
    assert row.name == "constant = same"


def test_a_group_is_all_but_the_seed():
    entries = [Entry("a", TRAIN, {"policy": "clr", "epochs": "5", "seed": str(seed)}) for seed in (0, 1)]
    assert entries[0].group == entries[1].group == (("policy", "clr"), ("epochs", "5"))


def test_the_target_accuracy_is_that_of_the_command(runs_dir: Path):
    (entry,) = sweep.entries(trials(runs_dir, "max_lr=0.1 target_accuracy=0.9"))
    assert entry.target == 0.9


@pytest.mark.parametrize("tests", [1, 50, None])
def test_naming_twice_as_many_trials_looks_at_trials_twice_as_often(tests: int | None):
    looks = [0]

    class Watched(Trial):
        def __getattribute__(self, name: str) -> object:
            looks[0] += 1
            return super().__getattribute__(name)

    def trial(number: int) -> Trial:
        test = number % (tests or 200)
        typed = (f"batch_size={test}", f"seed={number}")
        asked = Request({}, typed, {"policy": "clr"})
        config = {"task": "train", "seed": number, "target": None}
        return Watched(f"t{number}", config, asked, Trial(f"r{test}", {"task": "range_test"}, asked))

    counts = []
    for count in (100, 200):
        looks[0] = 0
        found = sweep.entries([trial(number) for number in range(count)])
        assert len(found) == count + (tests or count)
        counts.append(looks[0])
    assert counts[1] == 2 * counts[0]


def test_a_sweeps_id_follows_from_its_trials_in_any_order():
    assert sweep.identity(["a", "b"]) == sweep.identity(["b", "a", "b"])
    assert sweep.identity(["a", "b"]) != sweep.identity(["a", "c"])
    assert sweep.fresh_identity() != sweep.fresh_identity()


def test_a_sweep_comes_back_as_it_was_saved(tmp_path: Path):
    entries = (hand_made.range_test_entry(model="lenet"), hand_made.entry("a", "clr", 0, {"epochs": "5"}, target=0.9))
    made = hand_made.sweep(tmp_path, *entries)
    assert sweep.load(made.folder) == made
    assert json.loads((made.folder / "sweep.json").read_text())["command"] == list(made.command)
    assert made.trial("a").path == tmp_path / "runs" / "a"


def test_a_folder_without_a_sweep_is_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no sweep\.json"):
        sweep.load(tmp_path)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A runs_dir of three sweeps, of which cafe0000 is the latest."""
    made = hand_made.sweep(tmp_path)
    for age, name in ((20, "cafe0001"), (30, "beef0002"), (10, "cafe0000")):
        other = replace(made, id=name)
        other.save()
        made_at = time.time() - age
        os.utime(other.folder / "sweep.json", (made_at, made_at))
    (made.folder / "sweep.json").unlink()
    return made.runs_dir


def test_a_sweep_is_found_by_its_id_a_prefix_or_its_path_and_without_a_name_it_is_the_latest(three: Path):
    assert sweep.find(three, "cafe0001").id == "cafe0001"
    assert sweep.find(three, "bee").id == "beef0002"
    assert sweep.find(three, str(three / "sweeps" / "beef0002")).id == "beef0002"
    assert sweep.find(three).id == "cafe0000"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cafe", "several sweeps begin with cafe: cafe0000, cafe0001"),
        ("dead", "no sweep begins with dead in .*sweeps, which has 3; .*runs_dir="),
    ],
)
def test_a_name_that_fits_none_or_several_is_refused(three: Path, name: str, message: str):
    with pytest.raises(LookupError, match=message):
        sweep.find(three, name)


def test_where_there_is_no_sweep_that_is_said(tmp_path: Path):
    with pytest.raises(LookupError, match=r"^there is no sweep in \S*sweeps; .*runs_dir="):
        sweep.find(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> sweep.Sweep:
    return hand_made.two_policies(tmp_path)


@pytest.mark.parametrize("content", ["", '{"format": 7}', '{"format": 1, "trials": 3}'])
def test_without_a_name_the_latest_readable_sweep_is_found(pair: sweep.Sweep, content: str):
    other = pair.folder.with_name("0ther")
    other.mkdir()
    files.write(other / "sweep.json", content)
    told: list[str] = []
    assert sweep.find(pair.runs_dir, None, told.append).id == pair.id
    assert len(told) == 1 and str(other) in told[0]
    with pytest.raises(files.Unreadable, match="0ther"):
        sweep.find(pair.runs_dir, "0ther")


def with_recipes(runs_dir: Path, *recipes: str, extra: str = "") -> list[Trial]:
    """Trials that bear these recipes, as Hydra's choices tell them."""
    jobs = []
    for recipe in recipes:
        asked = request(runs_dir, *f"max_lr=0.1 epochs={len(jobs) + 1} {extra}".split())
        choices = {**asked.choices, "recipe": recipe}
        jobs.append(Planner(runs_dir).plan(replace(asked, overrides=(f"recipe={recipe}", "seed=0"), choices=choices)))
    return jobs


def test_a_recipe_takes_the_place_of_its_policy_in_a_name(runs_dir: Path):
    found = sweep.entries(with_recipes(runs_dir, "paper/one_cycle", "paper/base"))
    assert [entry.varies for entry in found] == [{"policy": name, "seed": "0"} for name in ("one_cycle", "base")]
    assert names(found, 0.1) == ["one_cycle max_lr=0.1 seed=0", "base max_lr=0.1 seed=0"]


def test_recipes_of_one_name_from_two_presets_are_told_apart(runs_dir: Path):
    found = sweep.entries(with_recipes(runs_dir, "paper/one", "blog/one"))
    assert [entry.varies["policy"] for entry in found] == ["paper/one", "blog/one"]
