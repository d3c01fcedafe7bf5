"""Probes as trials: which trainings get one, what it records, how it resumes, and who trains at its rate."""

import math
from pathlib import Path

import pytest

from onecycle_sweeps import checkpoint, journal, sweep, trial
from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import PROBE, RANGE_TEST, TRAIN
from onecycle_sweeps.launching.slurm.submissions import job_arrays
from onecycle_sweeps.measures import ACCURACY, LOSS, Measure
from onecycle_sweeps.outcome import look
from onecycle_sweeps.planning import Planner, Trial
from onecycle_sweeps.policies import Compressed
from onecycle_sweeps.report import range_tests
from onecycle_sweeps.trial import Stopped, probing
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import create, probed, request, series, stop_after
from recorded import attempt, finish

# 5 steps an epoch: two trainings of 120 steps, of which all may go into a probe of 240, are enough for one.
SMALL = ("data=breast_cancer", "batch_size=80", "epochs=24", "range_test.probe_share=1", "policy=onecycle")
TWO = [(*SMALL, f"seed={seed}") for seed in (0, 1)]
LOOP = (
    *("loop=function", "loop._target_=own_loops.blobs", "loop.measure=accuracy", "loop.goal=max"),
    *("range_test.start_lr=1e-4", "range_test.end_lr=1e5"),
)


def probe_of(trained: Trial) -> Trial:
    assert trained.rate_from and trained.rate_from.config["task"] == PROBE
    return trained.rate_from


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trial, TrialFolder]:
    """A training that was run with what it needs: its folder of runs, its trial, and the folder of its probe."""
    runs_dir = tmp_path_factory.mktemp("probed") / "runs"
    trained, _ = probed(runs_dir, *TWO)
    trial.run(create(runs_dir, trained))
    return runs_dir, trained, TrialFolder(runs_dir / probe_of(trained).signature)


# Planning


def test_trainings_share_a_probe_over_seeds_scales_and_targets_and_a_range_test_over_policies(runs_dir: Path):
    shared_jobs = [*TWO, (*TWO[0], "max_lr_scale=0.5"), (*TWO[0], "target=0.9")]
    *shared, other, _ = probed(runs_dir, *shared_jobs, *((*job, "policy=constant") for job in TWO))
    assert len({probe_of(one).signature for one in shared}) == 1
    assert probe_of(other).signature != probe_of(shared[0]).signature
    assert len({one.chain[0].signature for one in (*shared, other)}) == 1


@pytest.mark.parametrize("override", ["epochs=25", "policy.pct_start=0.4", "objective.label_smoothing=0.1"])
def test_a_probe_is_for_a_policy_a_length_and_an_objective(runs_dir: Path, override: str):
    one, other = (probed(runs_dir, *jobs)[0] for jobs in (TWO, [(*job, override) for job in TWO]))
    assert probe_of(one).signature != probe_of(other).signature


def test_more_seeds_change_neither_the_probe_nor_the_trainings_that_there_are(runs_dir: Path):
    few, more = probed(runs_dir, *TWO), probed(runs_dir, *TWO, (*SMALL, "seed=2"))
    assert [one.signature for one in few] == [one.signature for one in more[:2]]


def test_finished_trainings_that_get_another_rate_by_more_seeds_are_told(runs_dir: Path):
    (alone,) = probed(runs_dir, TWO[0])
    folder = create(runs_dir, alone)
    attempt(folder, 0, 120, end="finished", config=folder.config())
    finish(folder)
    planner = Planner(runs_dir)
    planner.with_probes([planner.plan(request(runs_dir, *job)) for job in TWO])
    assert planner.remarks[-1].startswith("1 finished training at the range test's rate will be repeated")


def test_trainings_without_steps_enough_get_their_rate_from_the_range_test(runs_dir: Path):
    for jobs in ([TWO[0]], [(*job, "range_test.probe_share=0") for job in TWO], [(*job, "epochs=2") for job in TWO]):
        assert all(one.rate_from and one.rate_from.config["task"] == RANGE_TEST for one in probed(runs_dir, *jobs))
    assert probed(runs_dir, *[(*job, "max_lr=0.1") for job in TWO])[0].rate_from is None


@pytest.mark.slow
def test_a_probe_that_has_a_result_serves_a_single_training_too(found: tuple[Path, Trial, TrialFolder]):
    runs_dir, trained, _ = found
    (alone,) = probed(runs_dir, (*SMALL, "seed=7"))
    assert probe_of(alone).signature == probe_of(trained).signature


def test_jobs_are_submitted_in_the_order_of_what_they_wait_for(runs_dir: Path):
    settings = {"gpus_per_node": 1, "cpus_per_task": 4, "timeout_min": 60, "additional_parameters": None}
    trials = probed(runs_dir, *TWO)
    tests, probes, trainings = job_arrays(sweep.entries(trials), (), settings, 100, report=False)
    assert probes.after == tests.trials and trainings.after == probes.trials
    assert trainings.trials == tuple(one.signature for one in trials)


# Running


@pytest.mark.slow
def test_the_training_uses_the_rate_of_its_probe_which_is_confident_or_says_why_not(
    found: tuple[Path, Trial, TrialFolder],
):
    runs_dir, trained, folder = found
    resolved, result = TrialFolder(runs_dir / trained.signature).resolved(), folder.result()
    assert resolved and result
    assert resolved["max_lr"] == result["metrics"]["suggestion/max_lr"]
    assert resolved["max_lr_from"] == f"probe:{folder.signature}"
    assert (result["verdict"]["word"] == "ambiguous") is bool(result["verdict"]["doubts"]) is bool(result["warnings"])


@pytest.mark.slow
def test_each_short_training_follows_the_policy_from_its_first_step_to_its_last(
    found: tuple[Path, Trial, TrialFolder],
):
    _, _, folder = found
    result, resolved, config = folder.result(), folder.resolved(), folder.config()
    assert result and resolved
    taken = result["verdict"]["probed"]
    assert sum(one["taken"] for one in taken) == result["steps"] <= resolved["total_steps"] == 240
    steps, rates = series(folder, journal.LR)
    assert list(steps) == list(range(result["steps"]))
    planned = [
        Compressed(nodes.policy(config, one["rate"], 5), one["steps"])(step).lr
        for one in taken
        for step in range(one["taken"])
    ]
    assert rates == pytest.approx(planned, rel=1e-12)


def test_it_records_how_far_each_short_training_came_from_chance_to_a_perfect_accuracy(
    found: tuple[Path, Trial, TrialFolder],
):
    runs_dir, trained, folder = found
    training, result = TrialFolder(runs_dir / trained.signature).result(), folder.result()
    assert training and result
    chance = training["chance"]
    assert 0.5 < chance < 0.8
    accuracies = dict(zip(*series(folder, ACCURACY.val), strict=True))
    end = -1
    for one in result["verdict"]["probed"]:
        end += one["taken"]
        if end in accuracies:
            assert one["learnt"] == pytest.approx((accuracies[end] - chance) / (1 - chance))
        else:
            assert one["learnt"] is None


@pytest.mark.slow
def test_a_probe_that_was_stopped_goes_on_behind_its_last_whole_training_to_the_same_bits(
    found: tuple[Path, Trial, TrialFolder], tmp_path: Path
):
    _, _, folder = found
    trained, _ = probed(tmp_path, *TWO)
    create(tmp_path, trained)
    other = TrialFolder(tmp_path / probe_of(trained).signature)
    trial.run(other.sibling(trained.chain[0].signature))
    with pytest.raises(Stopped):
        trial.run(other, stop_after(90))
    saved = journal.attempts(other.journal)[-1].saved
    assert 0 < saved < 90
    state = checkpoint.load(other.checkpoint)
    assert state and state["asked_for"]["ramp"] == other.config()["range_test"]["steps"]
    trial.run(other)
    whole, again = folder.result(), other.result()
    assert whole and again and again["verdict"] == whole["verdict"]
    assert journal.attempts(other.journal)[-1].start == saved
    for name in (journal.LR, journal.TRAIN_LOSS, "val/loss"):
        assert series(other, name) == series(folder, name)


@pytest.mark.slow
def test_a_probe_whose_budget_was_changed_while_it_was_stopped_goes_on_with_the_one_it_began_with(
    found: tuple[Path, Trial, TrialFolder], tmp_path: Path
):
    """Another sweep, with more seeds, writes the config again."""
    trained, _ = probed(tmp_path, *TWO)
    create(tmp_path, trained)
    other = TrialFolder(tmp_path / probe_of(trained).signature)
    trial.run(other.sibling(trained.chain[0].signature))
    with pytest.raises(Stopped):
        trial.run(other, stop_after(90))
    more, *_ = probed(tmp_path, *TWO, *((*SMALL, f"seed={seed}") for seed in range(2, 8)))
    assert create(tmp_path, probe_of(more)).path == other.path
    trial.run(other)
    whole, again = found[2].result(), other.result()
    assert whole and again and again["verdict"] == whole["verdict"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [LOSS, ACCURACY])
def test_an_evaluation_that_is_no_number_is_never_the_best(measure: Measure, value: float):
    assert probing.score_of(measure, {measure.name: value}) == math.inf


def test_the_seeds_of_short_trainings_are_not_those_of_the_sweep(found: tuple[Path, Trial, TrialFolder]):
    result = found[2].result()
    assert result and min(one["seed"] for one in result["verdict"]["probed"]) > 10**6


def test_the_report_has_a_line_and_a_figure_of_it_and_what_it_cost(found: tuple[Path, Trial, TrialFolder]):
    runs_dir, trained, _ = found
    outcomes = [look(entry, TrialFolder(runs_dir / entry.signature)) for entry in sweep.entries([trained])]
    (probe,) = [one for one in outcomes if one.entry.kind == PROBE]
    trainings = [one for one in outcomes if one.entry.kind == TRAIN]
    (line,) = range_tests.probe_lines([probe], trainings)
    assert line.startswith("probe onecycle: max_lr=") and "% of the trainings' steps" in line
    assert (drawn := range_tests.probes_figure([probe])) and len(drawn.panels) == 1


@pytest.mark.slow
def test_a_training_function_is_probed_by_its_own_loop_and_measure(runs_dir: Path):
    jobs = [(*LOOP, "policy=constant", "epochs=30", "range_test.probe_share=1", f"seed={seed}") for seed in range(3)]
    trained, *_ = probed(runs_dir, *jobs)
    trial.run(create(runs_dir, trained))
    folder = TrialFolder(runs_dir / probe_of(trained).signature)
    result, resolved = folder.result(), folder.resolved()
    assert result and resolved
    assert sum(one["taken"] for one in result["verdict"]["probed"]) == result["steps"] <= resolved["total_steps"]
    assert len(result["verdict"]["probed"]) >= 7
