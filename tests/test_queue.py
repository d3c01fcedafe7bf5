"""The order in which trials are given out, and what becomes of those whose range test comes to nothing."""

import time
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps.launching import queue
from onecycle_sweeps.launching.queue import Event, Execution, Queue
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep

TESTS = [Entry(name, RANGE_TEST, {"model": name}) for name in ("first", "second")]


def training(number: int, needs: str | None = None) -> Entry:
    return Entry(f"{needs}-{number}", TRAIN, {"policy": "clr", "seed": str(number)}, needs)


def given_out(waiting: Queue) -> list[Entry]:
    found = []
    while entry := waiting.next():
        found.append(entry)
    return found


@pytest.fixture
def at_rates() -> list[Entry]:
    return [training(i) for i in range(3)]


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    return hand_made.sweep(tmp_path)


def test_what_needs_no_rate_goes_first_and_what_gets_one_next(made: Sweep, at_rates: list[Entry]):
    trainings = [training(i, test.signature) for test in TESTS for i in range(2)]
    waiting = Queue(made, [*TESTS, *trainings, *at_rates])
    assert [waiting.next() for _ in range(3)] == [*TESTS, at_rates[0]]
    assert waiting.record(TESTS[1], Execution("finished")) == Event(TESTS[1], "finished")
    assert given_out(waiting) == [*trainings[2:], *at_rates[1:]]
    assert waiting.waiting
    waiting.record(TESTS[0], Execution("finished"))
    assert given_out(waiting) == trainings[:2]
    assert not waiting.waiting


def test_a_training_whose_range_test_is_done_needs_none_of_this_queue(made: Sweep):
    assert given_out(Queue(made, [training(0, "done")])) == [training(0, "done")]


def test_a_trial_that_another_process_works_on_waits_behind_all_others(
    made: Sweep, at_rates: list[Entry], monkeypatch: pytest.MonkeyPatch
):
    waiting = Queue(made, at_rates)
    first = waiting.next()
    assert first
    assert waiting.record(first, Execution("busy", "another process works on it")) is None
    assert given_out(waiting) == at_rates[1:]
    assert waiting.waiting
    later = time.monotonic() + queue.RETRY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert given_out(waiting) == [first]


def test_what_waits_for_a_cancelled_range_test_is_cancelled_with_it_or_fails(made: Sweep):
    cancelled, other = training(0, "first"), training(1, "first")
    for entry in (cancelled, other):
        made.trial(entry.signature).create({})
    made.trial(cancelled.signature).write("cancel", {"time": 0.0})
    waiting = Queue(made, [TESTS[0], cancelled, other])
    assert waiting.next() == TESTS[0]
    assert waiting.record(TESTS[0], Execution("cancelled")) == Event(TESTS[0], "cancelled")
    cause = "range test first: cancelled"
    assert list(waiting.fail_dependents()) == [Event(cancelled, "cancelled"), Event(other, "failed", cause)]
    assert (made.trial(other.signature).failure() or {})["cause"] == cause
    assert not waiting.waiting


def test_no_folder_is_looked_at_for_a_trial_that_waits(made: Sweep, monkeypatch: pytest.MonkeyPatch):
    trainings = [training(i, "first") for i in range(1000)]
    waiting = Queue(made, [TESTS[0], *trainings])
    monkeypatch.setattr(Sweep, "trial", lambda *_: pytest.fail("a folder was looked at"))
    given = []
    while waiting.waiting:
        assert list(waiting.fail_dependents()) == []
        if entry := waiting.next():
            given.append(entry)
            waiting.record(entry, Execution("finished"))
    assert given == [TESTS[0], *trainings]
