"""The queue on this machine: the order of trials, failed range tests, and workers that train and die in every way."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps import journal
from onecycle_sweeps.launching import pool, queue
from onecycle_sweeps.launching.queue import LEFT_STATUS, Event, Execution, Queue
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry, Sweep
from program import QUICK, Seen, drive, helpers, planned, wait_until, with_data, write

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


def test_trials_without_a_range_test_come_first_and_those_whose_range_test_ends_come_next(
    made: Sweep, at_rates: list[Entry]
):
    trainings = [training(i, test.signature) for test in TESTS for i in range(2)]
    waiting = Queue(made, [*TESTS, *trainings, *at_rates])
    assert [waiting.next() for _ in range(3)] == [*TESTS, at_rates[0]]
    assert waiting.record(TESTS[1], Execution("finished")) == Event(TESTS[1], "finished")
    assert given_out(waiting) == [*trainings[2:], *at_rates[1:]]
    assert waiting.waiting
    waiting.record(TESTS[0], Execution("finished"))
    assert given_out(waiting) == trainings[:2]
    assert not waiting.waiting


def test_a_training_whose_range_test_is_not_in_the_queue_is_ready(made: Sweep):
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


def test_trials_that_wait_for_a_cancelled_range_test_fail_unless_they_were_cancelled_too(made: Sweep):
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


def test_the_folders_of_waiting_trials_are_not_read(made: Sweep, monkeypatch: pytest.MonkeyPatch):
    trainings = [training(i, "first") for i in range(1000)]
    waiting = Queue(made, [TESTS[0], *trainings])
    monkeypatch.setattr(Sweep, "trial", lambda *_: pytest.fail("a folder was read"))
    given = []
    while waiting.waiting:
        assert list(waiting.fail_dependents()) == []
        if entry := waiting.next():
            given.append(entry)
            waiting.record(entry, Execution("finished"))
    assert given == [TESTS[0], *trainings]


# The slow tests share two sweeps.

MODELS = """
import os, signal, sys
from onecycle_sweeps.models.simple_cnn import SimpleCNN

class Raising(SimpleCNN):
    def forward(self, images):
        raise ArithmeticError("no way forward")

class Killed(SimpleCNN):
    def forward(self, images):
        print("about to die", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

class Leaving(SimpleCNN):
    def forward(self, images):
        sys.exit("enough")

class Vanishing(SimpleCNN):
    def forward(self, images):
        os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with the user's models in it."""
    here = with_data(write(tmp_path_factory.mktemp("queue"), {"models.py": MODELS}))
    before = Path.cwd()
    os.chdir(here)
    sys.path.append(str(here))
    yield here
    sys.path.remove(str(here))
    os.chdir(before)
    pool.stop_server()


@pytest.fixture(scope="module")
def healthy(folder: Path) -> Seen:
    """Four seeds that share one range test."""
    commands = [("epochs=1", "policy=constant", f"seed={seed}") for seed in range(4)]
    return drive(*planned(folder, *commands), places=2)


@pytest.fixture(scope="module")
def troubled(folder: Path) -> Seen:
    """A range test that fails, trainings that wait for it, trainings that break their worker, and healthy ones."""
    broken = [(*QUICK, f"model._target_=models.{name}") for name in ("Raising", "Killed", "Leaving", "Vanishing")]
    without_rate = [("epochs=1", f"seed={s}", "model._target_=models.Raising") for s in (1, 2)]
    sound = [(*QUICK, f"seed={seed}") for seed in (1, 2)]
    return drive(*planned(folder, *without_rate, *broken, *sound), places=2)


@pytest.mark.slow
def test_every_trial_runs_once_and_each_worker_is_started_once(healthy: Seen):
    assert {status for status, _ in healthy.ended().values()} == {"finished"}
    assert len(healthy.ended()) == 5
    assert [healthy.sweep.trial(e.signature).attempts() for e in healthy.sweep.trials] == [1] * 5
    assert healthy.started == 2


@pytest.mark.slow
def test_no_training_begins_before_its_range_test_has_ended(healthy: Seen):
    test, *trainings = [healthy.sweep.trial(entry.signature) for entry in healthy.sweep.trials]
    found = test.result() or {}
    for training in trainings:
        (attempt,) = journal.read(training.journal).attempts
        assert attempt.time > found["finished"]
        assert (training.resolved() or {})["max_lr"] == found["metrics"]["suggestion/max_lr"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("Raising", "ArithmeticError: no way forward (models.py:7 in forward)"),
        ("Killed", "the worker was killed by signal 9 (SIGKILL): out of memory, perhaps"),
        ("Leaving", "the code left the process by sys.exit('enough') (models.py:16 in forward)"),
        ("Vanishing", "the worker exited with status 0"),
    ],
)
def test_a_trial_that_breaks_its_worker_fails_with_the_cause(troubled: Seen, model: str, cause: str):
    assert troubled.ended()[f"train {model} 0"] == ("failed", cause)
    (entry,) = [e for e in troubled.sweep.trials if troubled.label(e) == f"train {model} 0"]
    stands = troubled.sweep.trial(entry.signature).state()
    assert (stands.status, stands.cause) == ("failed", cause)


@pytest.mark.slow
def test_trials_that_break_their_workers_do_not_affect_other_trials(troubled: Seen):
    sound = {label: status for label, (status, _) in troubled.ended().items() if "SimpleCNN" in label}
    assert sound == {"train SimpleCNN 1": "finished", "train SimpleCNN 2": "finished"}
    dead = 2
    assert troubled.started <= 2 + dead


@pytest.mark.slow
def test_the_output_of_a_dying_worker_is_in_its_trials_log(troubled: Seen):
    (entry,) = [e for e in troubled.sweep.trials if troubled.label(e) == "train Killed 0"]
    assert "about to die" in troubled.sweep.trial(entry.signature).log.read_text()


@pytest.mark.slow
def test_a_range_test_that_fails_is_run_once_and_fails_the_trials_that_wait_for_it(troubled: Seen):
    cause = "ArithmeticError: no way forward (models.py:7 in forward)"
    assert troubled.ended()["range_test Raising"] == ("failed", cause)
    (test,) = [e for e in troubled.sweep.trials if e.kind == RANGE_TEST]
    for seed in (1, 2):
        assert troubled.ended()[f"train Raising {seed}"] == ("failed", f"range test {test.signature}: {cause}")
    waiting = [e for e in troubled.sweep.trials if e.needs == test.signature]
    assert [troubled.sweep.trial(e.signature).attempts() for e in (test, *waiting)] == [1, 0, 0]


@pytest.mark.slow
def test_no_worker_outlives_its_sweep(troubled: Seen, healthy: Seen, folder: Path):
    assert helpers(folder) == []


@pytest.mark.slow
def test_a_worker_leaves_on_sigterm_with_an_exit_status_of_its_own(tmp_path: Path):
    worker = pool.Worker({}, tmp_path / "log")
    wait_until(lambda: worker.receive() == [] and worker.is_ready, "the worker is ready")
    os.kill(worker.process.pid or 0, signal.SIGTERM)
    assert worker.wait(20)
    assert worker.process.exitcode == LEFT_STATUS


def test_wait_until_can_fail():
    with pytest.raises(AssertionError, match=r"waited 0 s in vain: nothing"):
        wait_until(lambda: False, "nothing", 0)
