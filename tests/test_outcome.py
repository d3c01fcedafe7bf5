"""The seconds of training behind each evaluation, from the times in a journal."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps import journal
from onecycle_sweeps.outcome import Series, clock


def attempt(folder: Path, number: int, start: int, began: float, evaluations: Sequence[tuple[int, float]]) -> None:
    """An attempt's file: evaluations by (step, time)."""
    lines = [{"attempt": number, "from": start, "time": began, "host": "here"}]
    lines += [{"time": time, "step": step, "metrics": {"val/loss": [1.0]}} for step, time in evaluations]
    (folder / f"{number:04d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_seconds_count_from_the_beginning_of_the_attempt(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 0, 100.0, [(9, 103.0), (19, 106.0)])
    assert clock(journal.read(tmp_path)) == {9: 3.0, 19: 6.0}


def test_the_time_before_the_first_step_is_subtracted_if_the_length_of_the_training_is_known(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 0, 100.0, [(9, 103.0), (19, 106.0)])
    assert clock(journal.read(tmp_path), seconds=4.5) == {9: 1.5, 19: 4.5}


def test_time_between_attempts_and_repeated_steps_do_not_count(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 0, 100.0, [(9, 103.0), (19, 106.0)])
    attempt(tmp_path, 2, 10, 5000.0, [(19, 5004.0), (29, 5008.0)])
    assert clock(journal.read(tmp_path)) == {9: 3.0, 19: 7.0, 29: 11.0}
    assert clock(journal.read(tmp_path), seconds=9.0) == {9: 2.0, 19: 5.0, 29: 9.0}


def test_a_clock_that_is_set_back_loses_the_time_of_one_block(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 0, 100.0, [(9, 103.0), (19, 50.0), (29, 54.0)])
    assert clock(journal.read(tmp_path)) == {9: 3.0, 19: 3.0, 29: 7.0}


@pytest.mark.parametrize("seconds", [None, 3.0])
def test_a_trial_without_an_evaluation_has_no_clock(tmp_path: Path, seconds: float | None) -> None:
    attempt(tmp_path, 1, 0, 100.0, [])
    assert clock(journal.read(tmp_path), seconds) == {}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(1, 20))
def test_a_thinned_series_loses_no_peak_and_keeps_its_ends(values: list[float], columns: int) -> None:
    whole = Series(range(5, 5 + len(values)), values)
    thin = whole.thinned(columns)
    assert len(thin.steps) <= 2 * columns + 2
    pairs = list(whole.pairs())
    assert set(thin.pairs()) <= set(pairs)
    assert {pairs[0], pairs[-1]} <= set(thin.pairs())
    for i in range(columns):
        column = pairs[i * len(pairs) // columns : (i + 1) * len(pairs) // columns]
        kept = [pair[1] for pair in thin.pairs() if pair in column]
        if column:
            seen = [value for _, value in column]
            assert (min(kept), max(kept)) == (min(seen), max(seen))


def test_a_packed_series_is_the_same_numbers_in_eight_bytes_each() -> None:
    steps = range(1000)
    packed = Series(tuple(steps), tuple(step / 7 for step in steps)).packed()
    assert [*packed.pairs()] == [(step, step / 7) for step in steps]
    assert sys.getsizeof(packed.values) + sys.getsizeof(packed.steps) < 9_000
    assert tuple(Series((0, 2), (1.0, 2.0)).packed().steps) == (0, 2)
