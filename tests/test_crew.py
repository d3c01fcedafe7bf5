"""The workers of a command: what they say at which moment is acted by processes that only talk like a worker."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps.launching import fork_server, local, machine
from onecycle_sweeps.launching import worker as worker_module
from onecycle_sweeps.launching.fork_server import ForkServer
from onecycle_sweeps.launching.worker import LEFT, Worker
from onecycle_sweeps.sweep import Entry, Sweep
from program import QUICK, drive, planned, wait_until

Actor = Callable[[str], None]


@pytest.fixture
def acted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """Puts a shell script in the workers' place; $TAKE is how many processes have been started with this one."""

    def act(script: str) -> None:
        actor = tmp_path / "actor"
        count = f"echo >> {tmp_path}/takes; TAKE=$(wc -l < {tmp_path}/takes)"
        actor.write_text(f"#!/bin/sh\n{count}\n{script}\n")
        actor.chmod(0o755)
        (tmp_path / "acting.py").write_text(f"import os\ndef serve(): os.execv('{actor}', ['actor'])")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(fork_server, "WORK", "acting")

    return act


@pytest.fixture
def crew() -> Iterator[local.Crew]:
    crew = local.Crew(ForkServer())
    yield crew
    crew.leave()


@pytest.fixture
def made(tmp_path: Path, runs_dir: Path) -> tuple[Sweep, list[Entry]]:
    return planned(tmp_path, QUICK)


FINISHED = """{"status": "finished", "cause": null}"""
STILL = "cat > /dev/null"
ONE_PLACE = local.places("cpu", 1, 1, 1, 1)


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
    stands = made[0].trial(made[1][0].signature).state()
    assert (stands.status, stands.cause) == ("failed", "the disk is full")


def test_leaving_the_iteration_ends_the_workers(
    made: tuple[Sweep, list[Entry]], acted: Actor, tmp_path: Path, crew: local.Crew
):
    acted(f"echo ready; read order; {STILL}; echo gone > {tmp_path}/gone")
    events = local.run(crew, *made, ONE_PLACE)
    assert next(events).status == "running"
    events.close()
    assert (tmp_path / "gone").read_text() == "gone\n"


def test_the_workers_of_one_launch_take_the_trials_of_the_next(
    made: tuple[Sweep, list[Entry]], acted: Actor, crew: local.Crew
):
    acted(f"echo ready; while read order; do echo '{FINISHED}'; done")
    processes = set()
    for _ in range(2):
        assert [e.status for e in local.run(crew, *made, ONE_PLACE) if e.entry] == ["running", "finished"]
        processes |= {worker.pid for worker in crew.workers}
    (worker,) = crew.workers
    crew.leave()
    assert processes == {worker.pid}
    assert not Path(f"/proc/{worker.pid}").exists()


def test_a_worker_that_dies_between_two_launches_fails_no_trial(
    made: tuple[Sweep, list[Entry]], acted: Actor, crew: local.Crew
):
    acted(f"echo ready; while read order; do echo '{FINISHED}'; [ $TAKE = 1 ] && exit 1; done")
    list(local.run(crew, *made, ONE_PLACE))
    assert crew.workers[0].wait(5)
    assert [e.status for e in local.run(crew, *made, ONE_PLACE) if e.entry] == ["running", "finished"]


def test_a_worker_whose_death_is_not_heard_yet_fails_no_trial(
    made: tuple[Sweep, list[Entry]], acted: Actor, crew: local.Crew, monkeypatch: pytest.MonkeyPatch
):
    acted(f"echo ready; while read order; do echo '{FINISHED}'; [ $TAKE = 1 ] && exit 1; done")
    list(local.run(crew, *made, ONE_PLACE))
    (worker,) = crew.workers
    wait_until(lambda: worker.server.status(worker.pid) == 1, "the worker dies")
    unheard = iter([True])
    is_free = Worker.is_free
    monkeypatch.setattr(Worker, "is_free", lambda worker: next(unheard, is_free(worker)))
    assert [e.status for e in local.run(crew, *made, ONE_PLACE) if e.entry] == ["running", "finished"]


@pytest.mark.parametrize("patience", [0.5, 60.0])
def test_a_worker_whose_trial_does_not_leave_is_killed_after_a_time_or_at_the_next_ctrl_c(
    patience: float, made: tuple[Sweep, list[Entry]], acted: Actor, monkeypatch: pytest.MonkeyPatch
):
    acted("echo ready; exec sleep 60")
    monkeypatch.setattr(local, "LEAVE_SECONDS", patience)
    crew = local.Crew(ForkServer())
    crew.grow(made[0], ONE_PLACE)
    (worker,) = crew.workers
    worker.entry = made[1][0]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        crew.leave()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.status == -signal.SIGKILL


def test_a_worker_that_closed_its_pipe_and_lives_on_is_killed_and_another_takes_its_place(
    made: tuple[Sweep, list[Entry]], acted: Actor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The launching process waits for none of it: it goes on to say what happens while the process lives."""
    monkeypatch.setattr(worker_module, "END_SECONDS", 1.5)
    acted(
        f"echo ready; read order; [ $TAKE = 1 ] && echo $$ > {tmp_path}/first && exec sleep 60 >&- <&-;"
        f" echo '{FINISHED}'; {STILL}"
    )
    crew, times, causes = local.Crew(ForkServer()), [time.monotonic()], []
    for event in local.run(crew, *made, ONE_PLACE):
        times.append(time.monotonic())
        causes += [event.cause] if event.cause else []
    crew.leave()
    assert causes == ["the worker closed its pipe and lived on, so it was killed after 1.5 s"]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1.2
    assert not Path(f"/proc/{(tmp_path / 'first').read_text().strip()}").exists()


def test_a_worker_that_ended_is_heard_of_though_a_child_of_it_holds_its_pipe(
    made: tuple[Sweep, list[Entry]], acted: Actor
):
    acted(f"echo ready; read order; [ $TAKE = 1 ] && (sleep 20 & ) && exit 3; echo '{FINISHED}'; {STILL}")
    began = time.monotonic()
    seen = drive(*made, places=1)
    assert [(e.status, e.cause) for e in seen.events] == [
        ("running", None),
        ("failed", "the worker exited with status 3"),
    ]
    assert time.monotonic() - began < 15


def test_a_line_that_a_worker_did_not_end_is_no_answer(made: tuple[Sweep, list[Entry]], acted: Actor):
    acted('echo ready; read order; printf \'{"status": "fin\'; exit 3')
    assert [e.cause for e in drive(*made, places=1).events] == [None, "the worker exited with status 3"]


def test_torch_is_asked_for_gpus_in_a_process_that_forks_no_worker(
    made: tuple[Sweep, list[Entry]], acted: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A torch that counts three GPUs and writes down which process it was asked in."""
    cuda = "is_available = staticmethod(lambda: True); device_count = staticmethod(lambda: (log(), 3)[1])"
    (tmp_path / "torch.py").write_text(
        f"import os\ndef log(): open('{tmp_path}/asked', 'a').write(f'{{os.getpid()}} ')\nclass cuda: {cuda}\n"
    )
    acted(f"echo ready; echo $PPID > {tmp_path}/parent; read order; echo '{FINISHED}'; {STILL}")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_nvidias", lambda: 0)
    server = ForkServer()
    places = local.places("auto", 1, None, 1, 9, server)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0", "1", "2"]
    assert server.gpus() == 3 and local.places("auto", 1, None, 1, 0, server) == []
    (asked,) = (tmp_path / "asked").read_text().split()
    assert server.pid and int(asked) != server.pid
    server.close()


def test_what_workers_need_is_imported_once_for_all_of_them(
    made: tuple[Sweep, list[Entry]], tmp_path: Path, acted: Actor, crew: local.Crew
):
    acted("echo ready; cat > /dev/null")
    with (tmp_path / "acting.py").open("a") as module:
        module.write(f"\nopen('{tmp_path}/imports', 'a').write('once ')")
    crew.grow(made[0], local.places("cpu", 1, 3, 1, 3))
    assert len({worker.pid for worker in crew.workers}) == 3
    assert (tmp_path / "imports").read_text() == "once "


def test_a_fork_server_that_cannot_import_is_reported_in_one_line(
    made: tuple[Sweep, list[Entry]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fork_server, "WORK", "no_such_module")
    with pytest.raises(local.WorkerLost) as lost:
        drive(*made, places=1)
    end = "exited with status 1: ModuleNotFoundError: No module named 'no_such_module'"
    assert str(lost.value) == f"a worker process cannot be started: the process that imports torch {end}"


def test_a_worker_whose_fork_server_is_killed_goes_on_and_another_server_forks_the_next(
    made: tuple[Sweep, list[Entry]], acted: Actor, monkeypatch: pytest.MonkeyPatch
):
    acted(f"echo ready; read order; echo '{FINISHED}'; [ $TAKE = 1 ] && exit 1; {STILL}")
    server = ForkServer()
    crew = local.Crew(server)
    killed = []
    for event in local.run(crew, *made, ONE_PLACE):
        if event.status == "running":
            killed.append(kill(server))
        elif event.status:
            assert event.status == "finished"
    assert crew.workers[0].wait(5)
    assert [e.status for e in local.run(crew, *made, ONE_PLACE) if e.entry] == ["running", "finished"]
    assert server.pid not in (None, *killed)
    crew.leave()


def test_a_worker_that_dies_after_its_fork_server_fails_its_trial_with_what_is_known(
    made: tuple[Sweep, list[Entry]], acted: Actor
):
    acted("echo ready; read order; sleep 0.3; exit 3")
    server = ForkServer()
    crew = local.Crew(server)
    causes = [kill(server) if event.status == "running" else event.cause for event in local.run(crew, *made, ONE_PLACE)]
    crew.leave()
    assert "the worker ended after the process that it was forked from, so how is not known" in causes


def kill(server: ForkServer) -> int:
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    return server.pid


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
    monkeypatch.setattr(machine, "gpus", lambda _: [])
    places = local.places("auto", threads, asked, 1, trials)
    assert [place["OMP_NUM_THREADS"] for place in places] == [str(threads)] * count


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 500))
def test_workers_and_their_threads_are_never_more_than_the_cores(cores: int, threads: int, trials: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "cores", lambda: cores)
        patch.setattr(machine, "gpus", lambda _: [])
        made = local.places("auto", threads, None, 1, trials)
    # Who asks for more threads than there are cores has one worker.
    assert len(made) * threads <= max(cores, threads)
    assert bool(made) is (trials > 0)


def test_each_gpu_has_as_many_workers_as_it_is_to_carry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda _: [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "03"])
    places = local.places("auto", 1, None, 2, 9)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0", "3", "0", "3"]
    assert "CUDA_VISIBLE_DEVICES" not in local.places("cpu", 1, 1, 1, 9)[0]
