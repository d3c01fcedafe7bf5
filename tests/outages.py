"""Faults of a tracking server, injected during a real training, and what they cost."""

import http.client
import os
import signal
import socket
import statistics
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

import program
import warm
from onecycle_sweeps import tracking
from onecycle_sweeps.launching.pool import Worker
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import PER_STEP, Row, written
from tracking_server import ROOT, Server

# A training without end, with short steps and frequent checkpoints: what a checkpoint covers is shipped.
ENDLESS = ("policy=constant", "max_lr=0.01", "epochs=100000", "batch_size=64", "model.channels=[4,8,8]")
ENDLESS += ("optimizer._target_=users_code.Clocked", "checkpoint_minutes=0.01")
# The least number of steps during a fault, and without one.
STEPS = 40
SECONDS = 120.0
# A step takes milliseconds, and a step that waits for the tracker takes as long as the fault.
STALL_SECONDS = 3.0


@dataclass(frozen=True)
class Fault:
    """A way for a server to fail; once `mend` returns, it works as before."""

    begin: Callable[[], object]
    mend: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """A part of a training: its number of steps, the longest and the median in seconds, its points lost and doubled."""

    steps: int
    longest: float
    median: float
    lost: int
    doubled: int


class Proxy:
    """Forwards requests to a server, or answers all of them with `status` while that is set.

    While `losing` is a set, the first answer to each POST (by path and body) is lost after the server has done what it
    was asked; the set has the POSTs whose answer was lost.
    """

    def __init__(self, behind: int) -> None:
        proxy = self
        self.status: int | None = None
        self.losing: set[tuple[str, bytes]] | None = None

        class Handler(BaseHTTPRequestHandler):
            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.status:
                    return self.answer(proxy.status, {}, b"injected")
                # If the server is down, the proxy hangs up; if it hangs, the client gives up first.
                with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", behind, timeout=30)) as onward:
                    onward.request(self.command, self.path, body, dict(self.headers) | {"Host": f"127.0.0.1:{behind}"})
                    got = onward.getresponse()
                    answer = got.read()
                    if self.command == "POST" and proxy.losing is not None and (self.path, body) not in proxy.losing:
                        proxy.losing.add((self.path, body))
                        return self.answer(504, {}, b"lost")
                    self.answer(got.status, {"Content-Type": got.getheader("Content-Type", "")}, answer)

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answers(self, status: int) -> Fault:
        """Every request is answered with this status."""

        def set_status(value: int | None) -> None:
            self.status = value

        return Fault(lambda: set_status(status), lambda: set_status(None))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def silent_server() -> Iterator[int]:
    """A server that accepts connections and never answers: its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


@contextmanager
def answering_server(status: int) -> Iterator[int]:
    """A server that answers everything with one status, and asks for an hour of patience: its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "3600")
            self.end_headers()
            self.wfile.write(b"no, says http://me:secret@127.0.0.1")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return listening.getsockname()[1]


@contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()


def killed(server: Server, name: str) -> Fault:
    """One of the server's programs is killed and started again."""
    return Fault(lambda: server.kill(name), lambda: server.start(name))


def stopped(server: Server, name: str) -> Fault:
    """One of the server's programs is stopped in an orderly way and started again."""
    return Fault(lambda: server.stop(name), lambda: server.start(name))


def hanging(server: Server) -> Fault:
    """The server accepts connections but does not answer."""

    def send(number: signal.Signals) -> None:
        os.killpg(server.pid("mlflow"), number)

    return Fault(lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))


def full(server: Server, disk: Path) -> Fault:
    """The disk with the database and the artifacts is full; PostgreSQL is started again if that ended it."""
    ballast = disk / "ballast"

    def fill() -> None:
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(bytes(512)):
                pass

    def free() -> None:
        ballast.unlink()
        if not server.is_alive("postgres"):
            server.start("postgres")

    return Fault(fill, free)


def full_to_its_log(server: Server, disk: Path) -> Fault:
    """The disk is full and PostgreSQL needs another file for its write-ahead log, so that it ends."""
    disk_full = full(server, disk)

    def begin() -> None:
        # More files at once than a checkpoint leaves to be used again.
        switched = "select pg_switch_wal(), pg_logical_emit_message(true, 'test', 'a record after it')"
        # A connection that is made on a full disk is refused where PostgreSQL wants to write a cache of its catalogue.
        with server.connected() as connection:
            disk_full.begin()
            with suppress(Exception):
                connection.execute(f"{switched} from generate_series(1, 20)")
        program.wait_until(lambda: not server.is_alive("postgres"), "PostgreSQL to end", SECONDS)

    return Fault(begin, disk_full.mend)


@dataclass(frozen=True)
class Training:
    """A worker that trains the only trial of a sweep, with a shipper as a launching process has it."""

    folder: Path
    sweep: Sweep
    environment: dict[str, str]

    def taken(self) -> int:
        """The number of steps taken so far."""
        path = self.folder / "steps"
        return path.stat().st_size // 8 if path.exists() else 0

    def shipped(self) -> int:
        """The step up to which everything has arrived according to the ledger."""
        runs = ledger.load(self.sweep).runs
        return runs[self.sweep.trials[0].signature].next if runs else 0

    def complaints(self) -> int:
        """The size of the shipper's log of failures."""
        return (self.sweep.folder / "shipper.log").stat().st_size

    def through(self, fault: Fault) -> range:
        """Begin a fault, wait until the shipper notices it and for some steps, and mend it; returns the steps taken.

        When it returns, the shipper has caught up by itself.
        """
        start, said = self.taken(), self.complaints()
        fault.begin()
        program.wait_until(lambda: self.complaints() > said, "the shipper to notice the fault", SECONDS)
        self.wait_for_steps(start + STEPS)
        fault.mend()
        stop = self.taken()
        program.wait_until(lambda: self.shipped() >= stop, "the shipper to catch up", SECONDS)
        return range(start, stop)

    def wait_for_steps(self, count: int) -> None:
        """Return once this many steps have been taken."""
        program.wait_until(lambda: self.taken() >= count, f"step {count}", SECONDS)

    def sync(self) -> list[int]:
        """The exit statuses of two `sync` commands at once."""
        return synced(self.folder, self.environment)

    def costs(self, windows: dict[str, range]) -> dict[str, Cost]:
        """What each part of the training has cost, according to the store at the end."""
        times = [moment for (moment,) in struct.iter_unpack("d", (self.folder / "steps").read_bytes())]
        signature = self.sweep.trials[0].signature
        run_id = ledger.load(self.sweep).runs[signature].run_id
        wanted = Counter(row for row in written(self.sweep.trial(signature), 1) if row[0] in PER_STEP)
        found = Counter(arrived(self.sweep, run_id))
        assert wanted.total() == len(PER_STEP) * len(times)
        return {
            name: _cost(times[max(steps.start - 1, 0) : steps.stop], steps, wanted - found, found - wanted)
            for name, steps in (windows | {"all": range(len(times))}).items()
        }


def _cost(times: Sequence[float], steps: range, lost: Counter[Row], doubled: Counter[Row]) -> Cost:
    took = [after - before for before, after in pairwise(times)]
    of_these = [sum(count for row, count in rows.items() if row[1] in steps) for rows in (lost, doubled)]
    return Cost(len(steps), max(took), statistics.median(took), *of_these)


def tell(costs: dict[str, Cost]) -> None:
    for name, cost in costs.items():
        print(
            f"outage: {name}: {cost.steps} steps, longest {cost.longest:.3f} s, median {cost.median * 1000:.1f} ms, "
            f"{cost.lost} points lost, {cost.doubled} doubled"
        )


@contextmanager
def training(folder: Path, uri: str, login: dict[str, str]) -> Iterator[Training]:
    """A real training whose first points have arrived; on leaving, it is asked to stop and saves everything."""
    made, (entry,) = program.planned(folder, ENDLESS)
    made = replace(made, tracking_uri=uri, experiment=folder.name)
    made.save()
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **login, "PYTHONPATH": path}
    # A worker works in the folder of the process that starts it; the net writes its file of steps there.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        program.warm_processes(patch, folder)
        worker = Worker(login, folder / "worker.log")
    try:
        assert worker.give((entry,), [made.trial(entry.signature)])
        begun = Training(folder, made, environment)
        with tracking.Shipper(made.folder, interval=0.2, grace=2.0):
            program.wait_until(begun.shipped, "the first points to arrive", SECONDS)
            yield begun
            worker.leave()
            assert worker.wait(SECONDS)
    finally:
        worker.kill()


def synced(folder: Path, environment: dict[str, str], *words: str) -> list[int]:
    """The exit statuses of two `sync` commands at once."""
    command, quiet = [*program.MODULE, "sync", *words], subprocess.DEVNULL
    # The proxy passes on no empty file.
    environment = warm.environment(program.shared(folder), environment, pictures=True)
    started = [subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet) for _ in range(2)]
    return [process.wait(SECONDS) for process in started]


def arrived(made: Sweep, run_id: str) -> list[Row]:
    """The points of a run in the store according to MLflow, duplicates included."""
    from mlflow import MlflowClient

    client = MlflowClient(made.tracking_uri)
    found = [point for name in PER_STEP for point in client.get_metric_history(run_id, name)]
    rows: list[Row] = [(point.key, point.step, point.value, point.timestamp) for point in found]
    return sorted(rows, key=lambda row: row[:2])
