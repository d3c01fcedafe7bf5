"""How much of a sweep is done and how long the rest takes, as its trials go on."""

from pathlib import Path

import pytest

import recorded
from onecycle_sweeps.launching.forecast import Forecast, duration
from onecycle_sweeps.progress import Progress
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep

NEEDS = {"batch_size": 8, "needs": {"data": "digits"}}
RAMP = NEEDS | {"task": "range_test", "range_test": {"steps": 100, "seeds": [0]}}
EPOCHS = NEEDS | {"task": "train", "epochs": 4}
PER_EPOCH, STEPS, SECONDS_PER_STEP = 50, 200, 0.1


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A range test of 100 steps and four trainings of 200 that need it."""
    entries = [
        Entry("r", RANGE_TEST, {}),
        *(Entry(f"t{seed}", TRAIN, {"policy": "clr", "seed": str(seed)}, "r") for seed in range(4)),
    ]
    made = recorded.sweep(tmp_path, *entries)
    for entry in entries:
        made.trial(entry.signature).create(RAMP if entry.kind == RANGE_TEST else EPOCHS)
    return made


def begun(made: Sweep, signature: str, steps: int) -> None:
    made.trial(signature).write("resolved", {"max_lr": 0.1, "total_steps": steps, "steps_per_epoch": PER_EPOCH})


def after(steps: int, total: int) -> Progress:
    """A trial that has taken so many steps since it began."""
    return Progress(steps - 1, total, 0.1, 1.0, started=1000.0, first_step=0, time=1000.0 + SECONDS_PER_STEP * steps)


def ended(forecast: Forecast, made: Sweep, signature: str, steps: int) -> None:
    trial = made.trial(signature)
    recorded.attempt(trial, 0, steps, config=trial.config())
    recorded.finish(trial, metrics={"seconds": SECONDS_PER_STEP * steps})
    forecast.end(next(entry for entry in made.trials if entry.signature == signature))


def test_nothing_is_promised_before_a_trial_has_begun(made: Sweep):
    outlook = Forecast(made, made.trials).outlook()
    assert outlook.share == 0 and outlook.seconds is None
    assert "not known" in outlook.in_words()


def test_the_steps_of_all_trials_count_once_the_range_test_has_told_those_of_an_epoch(made: Sweep):
    forecast, (test, *_) = Forecast(made, made.trials), made.trials
    forecast.places = 2
    begun(made, "r", 100)
    forecast.begin(test)
    forecast.see(test, after(90, 100))
    outlook = forecast.outlook()
    assert outlook.share == pytest.approx(90 / 900)
    assert outlook.seconds == pytest.approx(SECONDS_PER_STEP * (10 + 4 * STEPS) / 2)
    assert outlook.in_words() == "10 %, about 41 s left"


def test_the_rest_takes_at_least_as_long_as_its_longest_trial(made: Sweep):
    forecast = Forecast(made, made.trials)
    forecast.places = 4
    begun(made, "r", 100)
    ended(forecast, made, "r", 100)
    for entry in made.trials[1:]:
        begun(made, entry.signature, STEPS)
    for signature in ("t0", "t1", "t2"):
        ended(forecast, made, signature, STEPS)
    last = made.trials[-1]
    forecast.begin(last)
    forecast.see(last, after(50, STEPS))
    assert forecast.outlook().seconds == pytest.approx(SECONDS_PER_STEP * 150)
    assert forecast.outlook().share == pytest.approx(1 - 150 / 900)


def test_what_a_failed_trial_has_not_done_is_not_waited_for(made: Sweep):
    forecast = Forecast(made, made.trials)
    begun(made, "r", 100)
    forecast.begin(made.trials[0])
    forecast.see(made.trials[0], after(100, 100))
    for entry in made.trials:
        forecast.end(entry)
    outlook = forecast.outlook()
    assert (outlook.share, outlook.seconds) == (1.0, 0.0)


def test_a_trial_that_goes_on_from_a_checkpoint_has_done_what_it_covers(made: Sweep):
    forecast, one = Forecast(made, made.trials[1:2]), made.trials[1]
    begun(made, one.signature, STEPS)
    forecast.begin(one)
    forecast.see(one, Progress(149, STEPS, 0.1, 1.0, started=1000.0, first_step=100, time=1025.0))
    assert forecast.outlook().share == pytest.approx(150 / STEPS)
    assert forecast.outlook().seconds == pytest.approx(25.0)


def test_where_trials_wait_for_a_cluster_the_time_is_a_lower_bound(made: Sweep):
    forecast, one = Forecast(made, made.trials[1:]), made.trials[1]
    begun(made, one.signature, STEPS)
    forecast.begin(one)
    forecast.see(one, after(100, STEPS))
    assert "at least" in forecast.outlook().in_words()


def test_trials_on_other_data_tell_nothing_of_the_pace(made: Sweep):
    other = Entry("t9", TRAIN, {"policy": "clr", "data": "mnist", "seed": "0"})
    made.trial("t9").create(EPOCHS | {"needs": {"data": "mnist"}})
    forecast = Forecast(made, [made.trials[1], other])
    begun(made, "t0", STEPS)
    forecast.begin(made.trials[1])
    forecast.see(made.trials[1], after(100, STEPS))
    assert forecast.outlook().seconds is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3599, "60 min"),
        (7800, "2 h 10 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_times_are_short(seconds: float, words: str):
    assert duration(seconds) == words
