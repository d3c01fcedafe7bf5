"""The queue on this machine, driven with worker processes that train; where the point is what a worker says at which
moment, with processes that only talk like one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from onecycle_sweeps import journal
from onecycle_sweeps.launch import local, machine
from onecycle_sweeps.launch.queue import Event
from onecycle_sweeps.launch.worker import LEFT, Worker
from onecycle_sweeps.state import state
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
from program import QUICK, WORKER, helpers, planned, wait_until, write

# The slow tests share two sweeps.
pytestmark = pytest.mark.xdist_group("local_queue")

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


@dataclass(frozen=True)
class Seen:
    """A sweep that has run: its events that name a trial, and the worker processes that it took."""

    sweep: Sweep
    events: list[Event]
    started: int

    def ended(self) -> dict[str, tuple[str, str | None]]:
        """The status and cause of each trial by its kind, its model and its seed."""
        ends = [(event.entry, event) for event in self.events if event.entry and event.status != "running"]
        return {self.label(entry): (event.status or "", event.cause) for entry, event in ends}

    def label(self, entry: Entry) -> str:
        model = self.sweep.trial(entry.signature).config()["model"]["_target_"].rpartition(".")[2]
        return f"{entry.kind} {model} {entry.varies.get('seed', '')}".strip()


def drive(made: Sweep, todo: list[Entry], places: int) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        started: list[Worker] = []
        begin = Worker.start
        patch.setattr(Worker, "start", lambda worker: (started.append(worker), begin(worker))[1])
        crew = local.Crew()
        events = list(local.run(crew, made, todo, local.places("cpu", 1, places, 1, len(todo))))
        crew.leave()
    return Seen(made, [event for event in events if event.entry], len(started))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, decoded: Path) -> Iterator[Path]:
    """The folder that commands are typed in, with models of the user's in it."""
    here = write(tmp_path_factory.mktemp("queue"), {"models.py": MODELS})
    (here / "runs").mkdir()
    (here / "runs" / "data").symlink_to(decoded)
    before = Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)


@pytest.fixture(scope="module")
def healthy(folder: Path) -> Seen:
    """Four seeds at the rate of the one range test that they share."""
    commands = [("epochs=1", "policy=constant", f"seed={seed}") for seed in range(4)]
    return drive(*planned(folder, *commands), places=2)


@pytest.fixture(scope="module")
def troubled(folder: Path) -> Seen:
    """A range test that fails and the trainings that wait for it, trainings that break their worker, and sound ones."""
    broken = [(*QUICK, f"model._target_=models.{name}") for name in ("Raising", "Killed", "Leaving", "Vanishing")]
    without_rate = [("epochs=1", f"seed={s}", "model._target_=models.Raising") for s in (1, 2)]
    sound = [(*QUICK, f"seed={seed}") for seed in (1, 2)]
    return drive(*planned(folder, *without_rate, *broken, *sound), places=2)


@pytest.mark.slow
def test_every_trial_runs_once_and_torch_is_imported_once_for_each_worker(healthy: Seen):
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
        ("Raising", "ArithmeticError: no way forward (models.py:7)"),
        ("Killed", "the worker was killed by signal 9 (SIGKILL): out of memory, perhaps"),
        ("Leaving", "its code left the process by sys.exit('enough')"),
        ("Vanishing", "the worker exited with status 0"),
    ],
)
def test_a_trial_that_breaks_its_worker_fails_with_the_cause(troubled: Seen, model: str, cause: str):
    assert troubled.ended()[f"train {model} 0"] == ("failed", cause)
    (entry,) = [e for e in troubled.sweep.trials if troubled.label(e) == f"train {model} 0"]
    stands = state(troubled.sweep.trial(entry.signature))
    assert (stands.status, stands.cause) == ("failed", cause)


@pytest.mark.slow
def test_trials_that_break_their_workers_cost_no_other_trial(troubled: Seen):
    sound = {label: status for label, (status, _) in troubled.ended().items() if "SimpleCNN" in label}
    assert sound == {"train SimpleCNN 1": "finished", "train SimpleCNN 2": "finished"}
    dead = 2
    assert troubled.started <= 2 + dead


@pytest.mark.slow
def test_what_a_dying_worker_said_stands_in_its_trials_log(troubled: Seen):
    (entry,) = [e for e in troubled.sweep.trials if troubled.label(e) == "train Killed 0"]
    assert "about to die" in troubled.sweep.trial(entry.signature).log.read_text()


@pytest.mark.slow
def test_a_range_test_that_fails_is_run_once_and_fails_what_waits_for_it(troubled: Seen):
    cause = "ArithmeticError: no way forward (models.py:7)"
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
def test_a_worker_leaves_on_sigterm_and_says_so_by_its_exit_status():
    with subprocess.Popen([sys.executable, "-m", WORKER], stdin=-1, stdout=-1, text=True) as worker:
        assert worker.stdout and worker.stdout.readline() == "ready\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == LEFT


Actor = Callable[[str], None]


@pytest.fixture
def acted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """Puts a shell script in the workers' place; $TAKE is how many processes have been started with this one."""

    def act(script: str) -> None:
        actor = tmp_path / "actor"
        count = f"echo >> {tmp_path}/takes; TAKE=$(wc -l < {tmp_path}/takes)"
        actor.write_text(f"#!/bin/sh\n{count}\n{script}\n")
        actor.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(actor))

    return act


@pytest.fixture
def made(tmp_path: Path, runs_dir: Path) -> tuple[Sweep, list[Entry]]:
    return planned(tmp_path, QUICK)


FINISHED = """{"status": "finished", "cause": null}"""
STILL = "cat > /dev/null"


def test_an_answer_that_arrives_together_with_ready_is_heard(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted(f"read order; printf 'ready\\n{FINISHED}\\n'; {STILL}")
    assert [e.status for e in drive(*made, places=1).events] == ["running", "finished"]


def test_what_a_library_prints_as_a_worker_starts_is_no_answer(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted(f"echo hello; echo ready; read order; echo '{FINISHED}'; {STILL}")
    assert [e.status for e in drive(*made, places=1).events] == ["running", "finished"]


@pytest.mark.parametrize("word", ["busy", "stopped"])
def test_a_trial_that_is_busy_or_was_stopped_waits_for_its_turn_again(
    made: tuple[Sweep, list[Entry]], acted: Actor, word: str
):
    answer = FINISHED.replace("finished", word)
    acted(f"echo ready; read order; echo '{answer}'; read order; echo '{FINISHED}'; {STILL}")
    assert [e.status for e in drive(*made, places=1).events] == ["running", "running", "finished"]


def test_a_worker_that_was_told_to_leave_fails_no_trial(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted(f"echo ready; read order; [ $TAKE = 1 ] && exit {LEFT}; echo '{FINISHED}'; {STILL}")
    seen = drive(*made, places=1)
    assert [e.status for e in seen.events] == ["running", "running", "finished"]
    assert seen.started == 2
    assert seen.sweep.trial(made[1][0].signature).failure() is None


def test_a_worker_that_cannot_start_is_reported_in_one_line_with_its_log(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted("echo no torch here >&2; exit 3")
    with pytest.raises(local.WorkerLost) as lost:
        drive(*made, places=1)
    log = made[0].folder / "worker-0.log"
    assert str(lost.value) == f"the worker exited with status 3 before it could begin; its output is in {log}"
    assert log.read_text() == "no torch here\n"


def test_a_machine_that_starts_no_process_is_reported_in_one_line(
    made: tuple[Sweep, list[Entry]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(local.WorkerLost, match=r"^a worker process cannot be started: .*/nowhere/python'$"):
        drive(*made, places=1)


def test_a_failure_that_left_no_word_in_the_folder_is_recorded_there(made: tuple[Sweep, list[Entry]], acted: Actor):
    answer = FINISHED.replace("finished", "failed").replace("null", '"the disk is full"')
    acted(f"echo ready; read order; echo '{answer}'; {STILL}")
    drive(*made, places=1)
    stands = state(made[0].trial(made[1][0].signature))
    assert (stands.status, stands.cause) == ("failed", "the disk is full")


def test_leaving_the_iteration_ends_the_workers(made: tuple[Sweep, list[Entry]], acted: Actor, tmp_path: Path):
    acted(f"echo ready; read order; {STILL}; echo gone > {tmp_path}/gone")
    events = local.run(local.Crew(), *made, local.places("cpu", 1, 1, 1, 1))
    assert next(events).status == "running"
    events.close()
    assert (tmp_path / "gone").read_text() == "gone\n"


def test_the_workers_of_one_launch_take_the_trials_of_the_next(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted(f"echo ready; while read order; do echo '{FINISHED}'; done")
    crew, places = local.Crew(), local.places("cpu", 1, 1, 1, 1)
    processes = set()
    for _ in range(2):
        assert [e.status for e in local.run(crew, *made, places) if e.entry] == ["running", "finished"]
        processes |= {worker.process.pid for worker in crew.workers}
    (worker,) = crew.workers
    crew.leave()
    assert processes == {worker.process.pid}
    assert worker.process.returncode is not None


def test_a_worker_that_dies_between_two_launches_fails_no_trial(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted(f"echo ready; while read order; do echo '{FINISHED}'; [ $TAKE = 1 ] && exit 1; done")
    crew, places = local.Crew(), local.places("cpu", 1, 1, 1, 1)
    list(local.run(crew, *made, places))
    crew.workers[0].process.wait(5)
    assert [e.status for e in local.run(crew, *made, places) if e.entry] == ["running", "finished"]
    crew.leave()


@pytest.mark.parametrize("patience", [0.5, 60.0])
def test_a_worker_whose_trial_does_not_leave_is_killed_after_a_time_or_at_the_next_ctrl_c(
    patience: float, made: tuple[Sweep, list[Entry]], acted: Actor, monkeypatch: pytest.MonkeyPatch
):
    acted("echo ready; exec sleep 60")
    monkeypatch.setattr(local, "LEAVE_SECONDS", patience)
    crew = local.Crew()
    crew.grow(made[0], local.places("cpu", 1, 1, 1, 1))
    (worker,) = crew.workers
    worker.entry = made[1][0]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        crew.leave()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.process.returncode == -signal.SIGKILL


def test_a_sweep_without_anything_to_do_starts_no_worker(made: tuple[Sweep, list[Entry]]):
    assert drive(made[0], [], places=2).started == 0


@pytest.mark.parametrize(
    ("cores", "threads", "asked", "trials", "count"),
    [
        (4, 1, None, 9, 4),
        (4, 2, None, 9, 2),
        (4, 8, None, 9, 1),
        (4, 1, None, 3, 3),
        (4, 1, 6, 9, 6),
        (4, 1, None, 0, 0),
    ],
)
def test_there_are_as_many_workers_as_the_cores_carry_and_the_trials_need(
    cores: int, threads: int, asked: int | None, trials: int, count: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "gpus", list)
    places = local.places("auto", threads, asked, 1, trials)
    assert [place["OMP_NUM_THREADS"] for place in places] == [str(threads)] * count


def test_each_gpu_has_as_many_workers_as_it_is_to_carry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "3"])
    places = local.places("auto", 1, None, 2, 9)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0", "3", "0", "3"]
    assert "CUDA_VISIBLE_DEVICES" not in local.places("cpu", 1, 1, 1, 9)[0]


def test_wait_until_can_fail():
    with pytest.raises(AssertionError, match=r"waited 0 s in vain: nothing"):
        wait_until(lambda: False, "nothing", 0)
