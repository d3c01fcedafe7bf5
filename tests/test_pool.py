"""Workers that answer and die in every way, fake_worker by functions that talk like a worker and train nothing."""

import itertools
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker, spawn
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps import machine
from onecycle_sweeps.launching import pool
from onecycle_sweeps.launching.pool import Worker, WorkerPool
from onecycle_sweeps.launching.queue import LEFT_STATUS
from onecycle_sweeps.sweep import Entry, Sweep
from program import QUICK, drive, planned, wait_until

FakeWorker = Callable[[str], None]

# The beginning of a fake worker's code; `start` is the number of the process, from 1 on.
FAKE_WORKER = """
import os, signal, sys, time
from pathlib import Path
from onecycle_sweeps.launching.queue import READY, Execution

HERE = Path(__file__).parent
FINISHED = Execution("finished")

def serve(orders, answers):
    with (HERE / "starts").open("a") as starts:
        print(os.getpid(), file=starts, flush=True)
        start = len((HERE / "starts").read_text().split())

    def until_closed():
        try:
            while True:
                orders.recv()
        except EOFError:
            pass
"""


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWorker]:
    """Replaces the workers' code by lines of Python, in a fork server that has imported nothing."""

    def replace(lines: str) -> None:
        (tmp_path / "fake_worker_code.py").write_text(FAKE_WORKER + textwrap.indent(textwrap.dedent(lines), "    "))
        monkeypatch.setattr(pool, "WORK", "fake_worker_code")

    pool.stop_server()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pool, "PRELOADED", [])
    yield replace
    pool.stop_server()


@pytest.fixture
def workers() -> Iterator[WorkerPool]:
    made = WorkerPool()
    yield made
    made.leave()


@pytest.fixture
def made(tmp_path: Path, runs_dir: Path) -> tuple[Sweep, list[Entry]]:
    return planned(tmp_path, QUICK)


ONE_SLOT = pool.slots("cpu", 1, 1, 1, 1)


@pytest.mark.slow
def test_what_a_worker_prints_goes_to_its_log_and_is_not_taken_for_an_answer(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker
):
    fake_worker("""
        print("hello", flush=True)
        answers.send(READY); orders.recv(); answers.send([FINISHED]); until_closed()
    """)
    assert [e.status for e in drive(*made, places=1).events] == ["running", "finished"]
    assert (made[0].folder / "worker-0.log").read_text() == "hello\n"


@pytest.mark.slow
@pytest.mark.parametrize("status", ["busy", "stopped"])
def test_a_trial_that_is_busy_or_was_stopped_goes_back_into_the_queue(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, status: str
):
    fake_worker(f"""
        answers.send(READY); orders.recv(); answers.send([Execution("{status}")])
        orders.recv(); answers.send([FINISHED]); until_closed()
    """)
    assert [e.status for e in drive(*made, places=1).events] == ["running", "running", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packed", "batch_sizes", "said"),
    [
        (2, (32, 32, 32, 32), ["not packed: the data are decoded"]),
        (2, (32, 64), ["packed=2 has packed nothing"]),
        ("auto", (32, 64), []),
    ],
)
def test_news_say_why_trials_are_not_packed(
    tmp_path: Path, fake_worker: FakeWorker, workers: WorkerPool, packed: Any, batch_sizes: tuple[int], said: list[str]
):
    fake_worker("""
        answers.send(READY)
        while order := orders.recv():
            count = len(order[0])
            answers.send([Execution("finished", not_packed="the data are decoded" if count > 1 else None)] * count)
    """)
    asked = [(*QUICK, f"seed={seed}", f"batch_size={size}") for seed, size in enumerate(batch_sizes)]
    events = list(pool.run(workers, *planned(tmp_path, *asked), ONE_SLOT, packed))
    assert [event.news.partition(": trainings")[0] for event in events if event.news] == said


@pytest.mark.slow
def test_a_worker_that_leaves_on_sigterm_does_not_fail_its_trial(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker
):
    fake_worker(f"""
        answers.send(READY); orders.recv()
        if start == 1:
            sys.exit({LEFT_STATUS})
        answers.send([FINISHED]); until_closed()
    """)
    seen = drive(*made, places=1)
    assert [e.status for e in seen.events] == ["running", "running", "finished"]
    assert seen.started == 2
    assert seen.sweep.trial(made[1][0].signature).failure() is None


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_reported_in_one_line_with_its_log(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker
):
    fake_worker("print('no torch here', file=sys.stderr); sys.exit(3)")
    with pytest.raises(pool.WorkerLost) as lost:
        drive(*made, places=1)
    log = made[0].folder / "worker-0.log"
    assert "status 3" in str(lost.value) and str(log) in str(lost.value)
    assert log.read_text() == "no torch here\n"


def test_a_machine_that_cannot_start_a_process_is_reported_in_one_line(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
):
    resource_tracker.ensure_running()
    monkeypatch.setattr(spawn, "_python_exe", b"/nowhere/python")
    with pytest.raises(pool.WorkerLost, match=r"^a worker process cannot be started: .*memory"):
        drive(*made, places=1)


def test_a_failure_that_the_trial_did_not_record_is_recorded_in_its_folder(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker
):
    fake_worker("""
        answers.send(READY); orders.recv()
        answers.send([Execution("failed", "the disk is full")]); until_closed()
    """)
    drive(*made, places=1)
    stands = made[0].trial(made[1][0].signature).state()
    assert (stands.status, stands.cause) == ("failed", "the disk is full")


def test_closing_the_generator_ends_the_workers(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, tmp_path: Path, workers: WorkerPool
):
    fake_worker("""
        answers.send(READY); orders.recv(); until_closed(); (HERE / "gone").touch()
    """)
    events = pool.run(workers, *made, ONE_SLOT)
    assert next(event for event in events if event.entry).status == "running"
    events.close()
    assert (tmp_path / "gone").exists()


@pytest.mark.slow
def test_the_workers_of_one_launch_take_the_trials_of_the_next(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker("""
        answers.send(READY)
        while orders.recv():
            answers.send([FINISHED])
    """)
    processes = set()
    for _ in range(2):
        assert [e.status for e in pool.run(workers, *made, ONE_SLOT) if e.entry] == ["running", "finished"]
        processes |= {worker.process.pid for worker in workers.workers}
    (worker,) = workers.workers
    workers.leave()
    assert processes == {worker.process.pid}
    assert not Path(f"/proc/{worker.process.pid}").exists()


ENDS_AFTER_A_TRIAL = """
    answers.send(READY)
    while orders.recv():
        answers.send([FINISHED])
        if start == 1:
            sys.exit(1)
"""


@pytest.mark.slow
def test_a_worker_that_dies_between_two_launches_does_not_fail_a_trial(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker(ENDS_AFTER_A_TRIAL)
    list(pool.run(workers, *made, ONE_SLOT))
    workers.workers[0].wait(5)
    assert [e.status for e in pool.run(workers, *made, ONE_SLOT) if e.entry] == ["running", "finished"]


@pytest.mark.slow
def test_a_trial_that_is_given_to_a_dead_worker_does_not_fail(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    fake_worker("""
        answers.send(READY)
        while orders.recv():
            answers.send([FINISHED])
    """)
    list(pool.run(workers, *made, ONE_SLOT))
    (worker,) = workers.workers
    os.kill(worker.process.pid or 0, signal.SIGKILL)
    wait_until(lambda: worker.process.exitcode is not None, "the worker dies")
    unnoticed = iter([True])
    is_free = Worker.is_free
    monkeypatch.setattr(Worker, "is_free", lambda worker: next(unnoticed, is_free(worker)))
    assert [e.status for e in pool.run(workers, *made, ONE_SLOT) if e.entry] == ["running", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("patience", [0.5, 60.0])
def test_a_worker_that_does_not_leave_is_killed_after_a_timeout_or_at_the_next_ctrl_c(
    patience: float, made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
):
    fake_worker("answers.send(READY); time.sleep(60)")
    monkeypatch.setattr(pool, "LEAVE_SECONDS", patience)
    workers = WorkerPool()
    workers.grow(made[0], ONE_SLOT)
    (worker,) = workers.workers
    worker.entries = (made[1][0],)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        workers.leave()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_worker_that_closes_its_pipe_but_lives_on_is_killed_and_replaced(
    made: tuple[Sweep, list[Entry]],
    fake_worker: FakeWorker,
    workers: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """Events keep coming while the process is alive."""
    monkeypatch.setattr(pool, "END_SECONDS", 1.5)
    fake_worker("""
        answers.send(READY); orders.recv()
        if start == 1:
            answers.close(); orders.close(); time.sleep(60)
        answers.send([FINISHED]); until_closed()
    """)
    times, causes = [time.monotonic()], []
    for event in pool.run(workers, *made, ONE_SLOT):
        times.append(time.monotonic())
        causes += [event.cause] if event.cause else []
    (cause,) = causes
    assert "closed its pipe" in cause and "1.5 s" in cause
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1.2
    first = (tmp_path / "starts").read_text().split()[0]
    assert not Path(f"/proc/{first}").exists()


@pytest.mark.slow
def test_the_end_of_a_worker_is_noticed_even_if_its_child_holds_the_pipe_open(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker
):
    fake_worker("""
        answers.send(READY); orders.recv()
        if start == 1:
            if not os.fork():
                time.sleep(20)
            os._exit(3)
        answers.send([FINISHED]); until_closed()
    """)
    began = time.monotonic()
    seen = drive(*made, places=1)
    assert [(e.status, e.cause) for e in seen.events] == [
        ("running", None),
        ("failed", "the worker exited with status 3"),
    ]
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_an_incomplete_answer_is_ignored(made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker):
    fake_worker("""
        answers.send(READY); orders.recv(); os.write(answers.fileno(), b"\\0\\0\\0\\7half"); os._exit(3)
    """)
    assert [e.cause for e in drive(*made, places=1).events] == [None, "the worker exited with status 3"]


@pytest.mark.slow
def test_a_worker_may_start_processes(made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker):
    """A user's loader may."""
    fake_worker("""
        import multiprocessing
        answers.send(READY); orders.recv()
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.1,))
        process.start(); process.join()
        answers.send([FINISHED] if process.exitcode == 0 else None); until_closed()
    """)
    assert [e.status for e in drive(*made, places=1).events] == ["running", "finished"]


@pytest.mark.slow
def test_a_worker_has_a_session_of_its_own_its_environment_and_the_working_folder(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker("""
        print(os.getsid(0) == os.getpid(), os.environ["MINE"], os.getcwd(), flush=True)
        answers.send(READY); orders.recv(); answers.send([FINISHED]); until_closed()
    """)
    list(pool.run(workers, *made, [{"MINE": "here"}]))
    assert (made[0].folder / "worker-0.log").read_text().split() == ["True", "here", os.getcwd()]


def test_gpus_are_counted_in_a_process_from_which_no_worker_is_forked(
    fake_worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fake torch counts three GPUs and records in which process it did."""
    cuda = "is_available = staticmethod(lambda: True); device_count = staticmethod(lambda: (log(), 3)[1])"
    (tmp_path / "torch.py").write_text(
        f"import os\ndef log(): open('{tmp_path}/asked', 'a').write(f'{{os.getpid()}} ')\nclass cuda: {cuda}\n"
    )
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_nvidias", lambda: 0)
    pool.count_gpus.cache_clear()
    slots = pool.slots("auto", 1, None, 1, 9)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "2"]
    assert pool.slots("auto", 1, None, 1, 0) == []
    (asked,) = (tmp_path / "asked").read_text().split()
    assert int(asked) not in (server_pid(), os.getpid())
    pool.count_gpus.cache_clear()


def test_preloaded_modules_are_imported_once_for_all_workers(
    made: tuple[Sweep, list[Entry]],
    tmp_path: Path,
    fake_worker: FakeWorker,
    workers: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
):
    fake_worker("answers.send(READY); until_closed()")
    (tmp_path / "early.py").write_text(f"open('{tmp_path}/imports', 'a').write('once ')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(pool, "PRELOADED", ["early"])
    workers.grow(made[0], pool.slots("cpu", 1, 3, 1, 3))
    assert len({worker.process.pid for worker in workers.workers}) == 3
    assert (tmp_path / "imports").read_text() == "once "


def test_a_module_of_the_workers_that_cannot_be_imported_is_reported_in_one_line_with_its_log(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool, "WORK", "no_such_module")
    with pytest.raises(pool.WorkerLost, match=r"status 1 .*worker-0\.log$"):
        drive(*made, places=1)
    assert "No module named 'no_such_module'" in (made[0].folder / "worker-0.log").read_text()


@pytest.mark.slow
def test_a_worker_outlives_its_fork_server_and_another_server_forks_the_next(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker(ENDS_AFTER_A_TRIAL)
    killed = []
    for event in pool.run(workers, *made, ONE_SLOT):
        if event.status == "running":
            killed.append(kill_server())
        elif event.status:
            assert event.status == "finished"
    workers.workers[0].kill()
    assert [e.status for e in pool.run(workers, *made, ONE_SLOT) if e.entry] == ["running", "finished"]
    assert server_pid() not in (None, *killed)


def test_a_worker_that_dies_after_its_fork_server_fails_its_trial_with_an_unknown_status(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker("answers.send(READY); orders.recv(); time.sleep(0.3); sys.exit(3)")
    events = pool.run(workers, *made, ONE_SLOT)
    causes = [kill_server() if event.status == "running" else event.cause for event in events]
    assert any("fork server died" in str(cause) for cause in causes)


@pytest.mark.slow
def test_a_worker_may_exit_with_the_status_by_which_a_dead_fork_server_is_reported(
    made: tuple[Sweep, list[Entry]], fake_worker: FakeWorker, workers: WorkerPool
):
    fake_worker("answers.send(READY); orders.recv(); os._exit(255)")
    causes = [event.cause or "" for event in pool.run(workers, *made, ONE_SLOT)]
    assert any(cause.startswith("the worker exited with status 255") for cause in causes)


def server_pid() -> int | None:
    return forkserver._forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]


def kill_server() -> int:
    pid = server_pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_sweep_with_nothing_to_do_starts_no_worker(made: tuple[Sweep, list[Entry]]):
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
def test_the_number_of_workers_follows_from_cores_threads_and_trials(
    cores: int, threads: int, asked: int | None, trials: int, count: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "gpus", lambda _: [])
    slots = pool.slots("auto", threads, asked, 1, trials)
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == [str(threads)] * count


@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 500))
def test_workers_and_their_threads_are_never_more_than_the_cores(cores: int, threads: int, trials: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "cores", lambda: cores)
        patch.setattr(machine, "gpus", lambda _: [])
        made = pool.slots("auto", threads, None, 1, trials)
    # With more threads than cores there is one worker.
    assert len(made) * threads <= max(cores, threads)
    assert bool(made) is (trials > 0)


def test_each_gpu_has_jobs_per_gpu_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda _: [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "03"])
    slots = pool.slots("auto", 1, None, 2, 9)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3", "0", "3"]
    assert "CUDA_VISIBLE_DEVICES" not in pool.slots("cpu", 1, 1, 1, 9)[0]
