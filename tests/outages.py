"""Faults of a tracking server, injected under a real training, and what they cost."""

import http.client
import json
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

import program
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import PER_STEP, Row, written
from tracking_server import ROOT, Server

# A training without end, of steps of some milliseconds, which saves all the time: what is saved is shipped.
ENDLESS = ("policy=constant", "max_lr=0.01", "epochs=100000", "batch_size=64", "model.channels=[64,128,256]")
ENDLESS += ("optimizer._target_=users_code.Clocked", "checkpoint_minutes=0.01")
# At least so many steps are taken during a fault, and without one.
STEPS = 100
SECONDS = 120.0


@dataclass(frozen=True)
class Fault:
    """A way for a server to fail; once `mend` returns it is as before."""

    begin: Callable[[], object]
    mend: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """A time of a training: its steps, the longest and the median in seconds, its points lost and doubled."""

    steps: int
    longest: float
    median: float
    lost: int
    doubled: int


class Proxy:
    """Passes requests on to a server, or answers each with one status while `status` is set.

    While `losing` is a set, the answer to each POST that is not in it, by path and body, gets lost: the server has done
    what it was asked.
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
                # A server that is down has its proxy hang up; one that hangs is left by the client first.
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
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answers(self, status: int) -> Fault:
        """Every request gets this status."""

        def become(wanted: int | None) -> None:
            self.status = wanted

        return Fault(lambda: become(status), lambda: become(None))

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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return listening.getsockname()[1]


@contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy before the server."""
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()


def killed(server: Server, name: str) -> Fault:
    """One of the server's programs dies at once and is started again."""
    return Fault(lambda: server.kill(name), lambda: server.start(name))


def stopped(server: Server, name: str) -> Fault:
    """One of the server's programs is stopped and started in order."""
    return Fault(lambda: server.stop(name), lambda: server.start(name))


def hanging(server: Server) -> Fault:
    """The server takes connections and answers none."""

    def send(number: signal.Signals) -> None:
        os.killpg(server.pid("mlflow"), number)

    return Fault(lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))


def full(server: Server, disk: Path) -> Fault:
    """The disk that its database and its artifacts lie on is full; what that ended is started again."""
    ballast = disk / "ballast"

    def fill() -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
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
    """The disk is full, and PostgreSQL comes to where its write-ahead log needs another file: it dies of that."""
    without_room = full(server, disk)

    def use_up() -> bool:
        with suppress(Exception):
            server.ask("select pg_switch_wal(), pg_logical_emit_message(true, 'test', 'a record after it')")
        return not server.is_alive("postgres")

    def begin() -> None:
        without_room.begin()
        program.wait_until(use_up, "PostgreSQL to need another file for its log", SECONDS)

    return Fault(begin, without_room.mend)


@dataclass(frozen=True)
class Training:
    """A worker that trains the one trial of a sweep, with the shipper of a launching process beside it."""

    folder: Path
    sweep: Sweep
    environment: dict[str, str]

    def taken(self) -> int:
        """How many steps have been taken."""
        path = self.folder / "steps"
        return path.stat().st_size // 8 if path.exists() else 0

    def shipped(self) -> int:
        """The step up to which all has arrived by the ledger."""
        runs = ledger.load(self.sweep).runs
        return runs[self.sweep.trials[0].signature].next if runs else 0

    def complaints(self) -> int:
        """How much the shipper has complained."""
        return (self.sweep.folder / "shipper.log").stat().st_size

    def through(self, fault: Fault) -> range:
        """Let a fault begin, be noticed by the shipper, last for some steps, and be mended; returns the steps taken.

        When it returns, the shipper has brought by itself what was taken meanwhile.
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
        """Return once so many have been taken."""
        program.wait_until(lambda: self.taken() >= count, f"step {count}", SECONDS)

    def sync(self) -> list[int]:
        """The exit statuses of two `sync` commands at once."""
        return synced(self.folder, self.environment)

    def costs(self, windows: dict[str, range]) -> dict[str, Cost]:
        """What each time has cost, by what the store has when all is over."""
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


@contextmanager
def training(folder: Path, uri: str, login: dict[str, str]) -> Iterator[Training]:
    """A real training that has begun to arrive; it is asked to leave, and has saved all, when this is left."""
    made, (entry,) = program.planned(folder, ENDLESS)
    made = replace(made, tracking_uri=uri, experiment=folder.name)
    made.save()
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **login, "PYTHONPATH": path}
    with subprocess.Popen(
        program.WORKER, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin and worker.stdout
        print(json.dumps(str(made.trial(entry.signature).path)), file=worker.stdin, flush=True)
        begun = Training(folder, made, environment)
        with tracking.Shipper(made.folder, interval=0.2, grace=2.0):
            try:
                program.wait_until(begun.shipped, "the first points to arrive", SECONDS)
                yield begun
            finally:
                worker.terminate()
                worker.communicate(timeout=SECONDS)


def synced(folder: Path, environment: dict[str, str], *words: str) -> list[int]:
    """The exit statuses of two `sync` commands at once."""
    command, quiet = [*program.MODULE, "sync", *words], subprocess.DEVNULL
    started = [subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet) for _ in range(2)]
    return [process.wait(SECONDS) for process in started]


def arrived(made: Sweep, run_id: str) -> list[Row]:
    """The points that a store has of a run, as MLflow tells them, with what it has twice."""
    from mlflow import MlflowClient

    client = MlflowClient(made.tracking_uri)
    found = [point for name in PER_STEP for point in client.get_metric_history(run_id, name)]
    rows: list[Row] = [(point.key, point.step, point.value, point.timestamp) for point in found]
    return sorted(rows, key=lambda row: row[:2])
