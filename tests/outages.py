"""Faults of a tracking server, injected under a training's journal, and what they cost."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

from onecycle_sweeps import tracking
from onecycle_sweeps.folder import TrialFolder
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import PER_STEP, Row, finish, training
from recorded import sweep as recorded_sweep
from tracking_server import Server

# So many steps are taken during a fault, each of so many seconds.
STEPS, PACE, BLOCK = 600, 0.005, 20


@dataclass(frozen=True)
class Fault:
    """A way for a server to fail; `begin` and `mend` return soon or are called beside the training."""

    begin: Callable[[], None]
    mend: Callable[[], None]


@dataclass(frozen=True)
class Cost:
    """What a fault cost: the longest that a step took in seconds, and the points that were lost and doubled."""

    stall: float
    lost: int
    doubled: int


class Proxy:
    """Passes requests on to a server, or answers each with one status while `status` is set."""

    def __init__(self, behind: int) -> None:
        proxy = self
        self.status: int | None = None

        class Handler(BaseHTTPRequestHandler):
            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.status:
                    return self.answer(proxy.status, {}, b"injected")
                # A server that is down has its proxy hang up; one that hangs is left by the client first.
                with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", behind, timeout=30)) as onward:
                    onward.request(self.command, self.path, body, dict(self.headers) | {"Host": f"127.0.0.1:{behind}"})
                    got = onward.getresponse()
                    self.answer(got.status, {"Content-Type": got.getheader("Content-Type", "")}, got.read())

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


def hanging(server: Server) -> Fault:
    """The server takes connections and answers none."""

    def send(number: signal.Signals) -> None:
        os.killpg(server.pid("mlflow"), number)

    return Fault(lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))


def endured(made: Sweep, fault: Fault) -> float:
    """Train the sweep's one trial, `a`, through the fault, its shipper beside it; returns the longest step's seconds.

    The fault begins when some points have arrived, and is mended when the training and its shipper have ended.
    """
    trial, longest, begun = made.trial("a"), 0.0, None
    with tracking.Shipper(made.folder, interval=0.2, grace=2.0):
        for step, took in steps(trial):
            longest = max(longest, took)
            if begun is None and step % BLOCK == 0 and arriving(made):
                threading.Thread(target=fault.begin).start()
                begun = step
            if begun is not None and step == begun + STEPS:
                break
        finish(trial)
    fault.mend()
    return longest


def arriving(made: Sweep) -> bool:
    """Whether some of the points of the sweep's trial have arrived."""
    shipped = ledger.load(made.folder, made.tracking_uri).runs.get("a")
    return shipped is not None and shipped.next > 0


def steps(trial: TrialFolder) -> Iterator[tuple[int, float]]:
    """The steps of a training without end that saves with each block, each with the seconds that it took in all."""
    trial.create({"max_lr": "auto"})
    trial.write("resolved", {"max_lr": 0.8, "max_lr_from": "range_test:r", "total_steps": STEPS})
    with trial.lock():
        book = Journal(trial.journal, trial.attempts() + 1, 0)
        for step in count():
            began = time.monotonic()
            time.sleep(PACE)
            if (step + 1) % BLOCK == 0:
                block = range(step + 1 - BLOCK, step + 1)
                book.append(block[0], {name: [k + i / 100 for i in block] for k, name in enumerate(PER_STEP)})
                book.sync()
                trial.checkpoint.write_text(f"step {step}")
                book.saved(step + 1)
            yield step, time.monotonic() - began


def one_trial(folder: Path, uri: str) -> Sweep:
    """A sweep of one trial, `a`, in an experiment that bears the folder's name."""
    return recorded_sweep(folder, training("a"), uri=uri)


def arrived(made: Sweep, run_id: str) -> list[Row]:
    """The points that a store has of a run, as MLflow tells them, with what it has twice."""
    from mlflow import MlflowClient

    client = MlflowClient(made.tracking_uri)
    found = [point for name in PER_STEP for point in client.get_metric_history(run_id, name)]
    rows: list[Row] = [(point.key, point.step, point.value, point.timestamp) for point in found]
    return sorted(rows, key=lambda row: row[:2])
