from pathlib import Path

import pytest
import torch

import users_code
from onecycle_sweeps import trial
from onecycle_sweeps.images import Source, prepare
from onecycle_sweeps.journal import Attempt, Block, Record
from onecycle_sweeps.loop import recalibrated
from onecycle_sweeps.measures import ACCURACY
from onecycle_sweeps.policies import CLR, Constant, Policy, Step
from onecycle_sweeps.trial import Stopped, guards
from real_trials import learner_of, made, outcome, series, stop_after, undisturbed

LAGGING = (
    *("~model", "+model={_target_: users_code.Lagging}", "policy=constant"),
    *("epochs=3", "batch_size=64", "max_lr=0.02", "save_model=true"),
)


def record(*evaluations: tuple[float, float]) -> Record:
    blocks = tuple(
        Block(0.0, 10 * number + 9, {"train/accuracy": [train], "val/accuracy": [val]})
        for number, (train, val) in enumerate(evaluations)
    )
    return Record((Attempt(1, 0, 0.0, "here", blocks, 0, None, None, 0),), blocks, 0)


@pytest.mark.parametrize("evaluations", [[(0.2, 0.15), (0.9, 0.88)], [(0.1, 0.1)], [(0.99, 0.4)], [(1.0, 1.0)] * 5])
def test_ordinary_accuracies_raise_no_doubt(evaluations: list[tuple[float, float]]):
    assert guards.doubts(record(*evaluations), ACCURACY, chance=0.1, normed=True) == []


def test_val_accuracy_near_chance_beside_a_high_train_accuracy_is_doubted():
    (doubt,) = guards.doubts(
        record((0.5, 0.5), (0.8, 0.12), (0.9, 0.11), (0.95, 0.94)), ACCURACY, chance=0.1, normed=True
    )
    facts = ("2 of 4 evaluations", "step 29", "val accuracy", "0.110", "chance 0.100", "train accuracy", "0.900")
    assert all(fact in doubt for fact in (*facts, "bn_recalibrate=true"))
    (doubt,) = guards.doubts(record((0.9, 0.11)), ACCURACY, chance=0.1, normed=False)
    assert "bn_recalibrate" not in doubt and "labels and inputs of both parts" in doubt


def test_where_one_class_is_most_of_the_data_its_share_is_chance():
    assert guards.doubts(record((0.99, 0.91)), ACCURACY, chance=0.9, normed=True)
    assert not guards.doubts(record((0.92, 0.9)), ACCURACY, chance=0.9, normed=True)


def test_the_train_accuracy_is_measured_by_the_chance_of_the_train_part():
    majority = record((0.9917, 0.9833))
    assert guards.doubts(majority, ACCURACY, chance=0.9833, normed=False, train_chance=lambda: 0.9917) == []
    (doubt,) = guards.doubts(record((0.999, 0.9833)), ACCURACY, 0.9833, normed=False, train_chance=lambda: 0.9917)
    assert "labels and inputs of both parts" in doubt


def test_the_train_part_is_not_read_for_its_chance_where_nothing_is_doubted():
    asked: list[float] = []

    def chance() -> float:
        asked.append(0.1)
        return 0.1

    assert guards.doubts(record((0.9, 0.8)), ACCURACY, 0.1, normed=False, train_chance=chance) == [] == asked
    assert guards.doubts(record((0.9, 0.1)), ACCURACY, 0.1, normed=False, train_chance=chance) and asked == [0.1]


@pytest.mark.parametrize("normed", [True, False])
def test_a_running_mean_that_is_hardly_trained_is_named_as_the_reason(normed: bool):
    low = record((0.3, 0.1), (0.9, 0.12))
    (doubt,) = guards.doubts(low, ACCURACY, chance=0.1, normed=normed, ema_decay=0.9999)
    assert all(fact in doubt for fact in ("ema_decay=0.9999", "20 steps", "99.8 %")), "0.9999**19"
    assert "bn_recalibrate" not in doubt and "labels" not in doubt
    (doubt,) = guards.doubts(low, ACCURACY, chance=0.1, normed=normed, ema_decay=0.9)
    assert "ema_decay" not in doubt, "the first weights have a share of 14 %"


def test_accuracies_equal_to_three_decimals_three_times_in_a_row_are_doubted():
    same, other = (0.8124, 0.8118), (0.9, 0.8)
    assert guards.doubts(record(same, same, other, same), ACCURACY, chance=0.1, normed=False) == []
    (doubt,) = guards.doubts(record(same, same, same, other), ACCURACY, chance=0.1, normed=False)
    assert all(fact in doubt for fact in ("train and val accuracy", "3 evaluations", "0.812", "step 29"))


@pytest.mark.slow
def test_statistics_that_lag_are_doubted_and_recalibrated_ones_are_not(runs_dir: Path):
    lagging = undisturbed(runs_dir, *LAGGING)
    mended = undisturbed(runs_dir, *LAGGING, "bn_recalibrate=true")
    assert lagging["metrics"]["final/val_accuracy"] < 0.3 < 0.8 < mended["metrics"]["final/val_accuracy"]
    assert "bn_recalibrate=true" in lagging["ended"]["warnings"][0]
    assert mended["ended"]["warnings"] == []


@pytest.mark.slow
def test_recalibration_changes_what_is_evaluated_and_nothing_of_the_training(runs_dir: Path):
    plain = undisturbed(runs_dir, *LAGGING)
    mended = undisturbed(runs_dir, *LAGGING, "bn_recalibrate=true")
    assert mended["series"]["train/loss"] == plain["series"]["train/loss"]
    assert mended["series"]["train/accuracy"] == plain["series"]["train/accuracy"]
    differing = {name for name, weights in mended["weights"].items() if weights != plain["weights"][name]}
    assert differing == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@pytest.mark.slow
def test_a_recalibrated_training_that_is_resumed_anywhere_ends_the_same(runs_dir: Path, beside: Path):
    undisturbed_one = undisturbed(beside, *LAGGING, "bn_recalibrate=true")
    folder = made(runs_dir, *LAGGING, "bn_recalibrate=true")
    for steps in (10, 22, 13):
        with pytest.raises(Stopped):
            trial.run(folder, stop_after(steps))
    trial.run(folder)
    assert outcome(folder) == undisturbed_one


def test_recalibrated_statistics_are_the_mean_over_training_batches(runs_dir: Path):
    folder = made(runs_dir, *LAGGING)
    learner = learner_of(folder)
    net = learner.model
    assert isinstance(net, users_code.Lagging)
    norm, before = net.norm, net.norm.running_mean
    assert before is not None
    before = before.clone()
    with recalibrated(learner), torch.no_grad():
        images = learner.data.normalise(learner.data.train.images[learner.data.train.index])
        seen = (net.conv(images) + 100).mean((0, 2, 3))
        # The last short batch of an epoch is left out.
        torch.testing.assert_close(norm.running_mean, seen, rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.running_mean, before, rtol=0, atol=0)
    assert norm.momentum == 1e-4
    assert net.training


def test_train_accuracy_is_that_of_the_steps_since_the_last_evaluation(runs_dir: Path):
    folder = made(runs_dir, "epochs=2", "batch_size=256", "max_lr=0.1", "evaluations_per_epoch=2")
    trial.run(folder)
    steps, values = series(folder, "train/accuracy")
    assert steps == series(folder, "val/accuracy")[0]
    # Whole numbers of samples, in batches of 256.
    counts = [later - earlier for earlier, later in zip([-1, *steps], steps, strict=False)]
    assert all((value * count * 256).is_integer() for value, count in zip(values, counts, strict=True))
    assert values[0] < values[-1]


def test_an_image_in_two_parts_and_a_class_that_a_part_lacks_are_doubted(tmp_path: Path):
    images = torch.arange(12 * 4, dtype=torch.uint8).view(12, 1, 2, 2)
    labels = torch.tensor([0, 1, 2, 3] * 3)
    test_images = torch.cat([images[[5, 6, 7]], images[:1] + 200])
    source = Source(images, labels, test_images, torch.tensor([0, 1, 2, 2]), ("ant", "bee", "cat", "dog"))
    facts = prepare(lambda: source, tmp_path / "cache", val_fraction=0, split_seed=0, classes=None)
    lacking, shared = facts.doubts
    assert "val part" in lacking and "class dog" in lacking
    assert "3 of 4 val images" in shared and "training images" in shared
    chosen = prepare(lambda: source, tmp_path / "cache", val_fraction=0, split_seed=0, classes=[0, 1])
    (shared,) = chosen.doubts
    assert "1 of 2 val images" in shared and "training images" in shared


@pytest.mark.parametrize(
    ("policy", "drops"),
    [
        (Step(1.0, 100, 10), True),
        (Step(1.0, 100, 10, milestones=(5,)), True),
        (Step(1.0, 100, 10, step_size=9), True),
        (Step(1.0, 100, 10, milestones=(30, 60)), False),
        (Step(1.0, 100, 10, step_size=10), False),
        (Constant(1.0, 100), True),
    ],
)
def test_a_step_decay_that_never_lowers_the_rate_is_said(policy: Policy, drops: bool):
    lines = guards.cut_short(policy)
    assert (not lines) is drops
    assert all("100" in line and "policy=constant" in line for line in lines)


@pytest.mark.parametrize(
    ("policy", "peaks"),
    [
        (CLR(0.4, 100, step_size_up=400), False),
        (CLR(0.4, 100, step_size_up=100, mode="exp_range", gamma=0.99), False),
        (CLR(0.4, 100, step_size_up=99), True),
        (CLR(0.4, 100), True),
        (CLR(0.4, 4), True),
    ],
)
def test_a_cycle_that_never_comes_to_its_highest_rate_is_said(policy: CLR, peaks: bool):
    rates = [policy(step).lr for step in range(policy.total_steps)]
    assert (max(rates) == pytest.approx(policy.max_lr)) is peaks
    lines = guards.cut_short(policy)
    assert (not lines) is peaks
    assert all(f"{100 * max(rates) / policy.max_lr:.2g} % of max_lr=0.4" in line for line in lines)


def test_a_training_with_a_longer_recipes_milestones_has_the_warning(runs_dir: Path):
    folder = made(runs_dir, "policy=step", "policy.milestones=[30,60]", "epochs=2", "batch_size=256", "max_lr=0.1")
    assert any("policy=constant" in line for line in trial.run(folder)["warnings"])
