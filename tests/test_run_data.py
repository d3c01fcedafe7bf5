"""What MLflow is sent of a trial: values that it can store, in batches that it accepts."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecycle_sweeps.journal import Block, Journal
from onecycle_sweeps.measures import Measure, as_records
from onecycle_sweeps.outcome import look, with_history
from onecycle_sweeps.tracking import run_data
from onecycle_sweeps.tracking.run_data import BATCH, as_params, as_tags, in_batches
from recorded import PER_STEP, finish, sweep, training


def test_long_values_are_cut_with_a_note_and_credentials_replaced_by_stars():
    params, tags = as_params({"list": ["x" * 7000]}), as_tags({"cause": "y" * 9000, "none": None, "empty": ""})
    assert len(params["list"]) == 6000
    assert params["list"].endswith("[... shortened from 7004 characters]")
    assert {key: len(value) for key, value in tags.items()} == {"cause": 8000}
    assert as_params({"url": "x http://me:s/ec@ret@host/p y"}) == {"url": "x http://***@host/p y"}


def test_a_batch_has_whole_steps_in_order_and_fits_one_request():
    columns = {"train/loss": [0.0] * 1000, "schedule/lr": [0.1] * 1000}
    blocks = (Block(1.0, 0, columns), Block(2.0, 499, {"val/loss": [3.0]}), Block(3.0, 1000, columns))
    found = list(in_batches(part for block in blocks if (part := block.between(10, 1900)).metrics))
    points = [point for batch in found for point in batch]
    assert max(map(len, found)) <= BATCH
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert len(points) == len(set(points)) == 2 * (1900 - 10) + 1
    assert all(one[-1].step < other[0].step for one, other in pairwise(found))


def test_steps_to_target_follow_the_goal_of_the_headline_measure(tmp_path: Path):
    made = sweep(tmp_path, training("a", target=0.5))
    trial, rmse = made.trial("a"), Measure("rmse", "min")
    trial.create({"max_lr": 0.1})
    trial.write("resolved", {"max_lr": 0.1, "total_steps": 9, "measures": as_records([rmse])})
    journal = Journal(trial.journal, 1, 0)
    for step, value in ((0, 0.9), (3, 0.6), (6, 0.5)):
        journal.append(step, dict.fromkeys(PER_STEP, [0.1] * 3))
        journal.append(step + 2, {rmse.val: [value]})
    finish(trial)
    points = [point for batch in run_data.batches(look(made.trials[0], trial), made) for point in batch]
    assert [point.value for point in points if point.name == "steps_to_target"] == [9]
    assert [point.step for point in points if point.name == "val/rmse"] == [2, 5, 8]


@given(every=st.integers(1, 12), saved=st.integers(0, 25))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_many_steps_mlflow_gets_every_so_many_the_last_and_each_evaluation(tmp_path: Path, every: int, saved: int):
    folder = tmp_path / f"{every}-{saved}-{time.monotonic_ns()}"
    made = replace(sweep(folder, training("a")), tracking_every=every)
    trial = made.trial("a")
    trial.create({"max_lr": 0.1})
    trial.write("resolved", {"max_lr": 0.1, "total_steps": 25})
    journal = Journal(trial.journal, 1, 0)
    for start in (0, 10, 20):
        count = min(10, 25 - start)
        journal.append(start, dict.fromkeys(PER_STEP, [0.1] * count))
        journal.append(start + count - 1, {"val/loss": [1.0]})
    journal.saved(saved)

    def shipped(start: int = 0) -> list[tuple[str, int]]:
        found = run_data.batches(with_history(look(made.trials[0], trial)), made, start)
        return [(point.name, point.step) for batch in found for point in batch if point.name in (*PER_STEP, "val/loss")]

    first = shipped()
    finish(trial, steps=25)
    steps = {step for step in range(25) if step % every == 0 or step == 24}
    wanted = {(name, step) for name in PER_STEP for step in steps} | {("val/loss", step) for step in (9, 19, 24)}
    later = shipped(1 + max((step for _, step in first), default=-1))
    assert len(first) + len(later) == len(wanted)
    assert {*first, *later} == wanted
