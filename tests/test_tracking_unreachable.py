import importlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import attempt, finish, stored, sweep, training, written

SECONDS = 20


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one finished trial, `a`."""
    made = sweep(tmp_path, training("a"))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    importlib.import_module("mlflow")  # the seconds that are measured are not those of the import


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


def refusal(made: Sweep, uri: str) -> str:
    """The line that shipping raises, soon."""
    began = time.monotonic()
    with pytest.raises(tracking.StoreUnreachable) as raised:
        tracking.ship(replace(made, tracking_uri=uri))
    assert time.monotonic() - began < SECONDS
    assert "\n" not in str(raised.value)
    return str(raised.value)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return listening.getsockname()[1]


def test_a_server_that_is_down_is_named_within_seconds_and_without_its_password(made: Sweep):
    port = free_port()
    line = refusal(made, f"http://me:secret@127.0.0.1:{port}")
    assert line.startswith(f"the MLflow store http://127.0.0.1:{port} cannot be used: ")
    assert "secret" not in line


def test_a_server_that_never_answers_is_given_up_within_seconds(made: Sweep):
    with silent_server() as port:
        assert "timed out" in refusal(made, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500, 503])
def test_a_server_that_refuses_is_unreachable_whatever_it_asks_for(made: Sweep, status: int):
    with answering_server(status) as port:
        line = refusal(made, f"http://me:secret@127.0.0.1:{port}")
    assert str(status) in line
    assert "secret" not in line


def test_a_database_that_cannot_be_made_gets_everything_once_it_can(made: Sweep, tmp_path: Path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is needed")
    later = replace(made, tracking_uri=f"sqlite:///{blocked}/mlflow.db")
    assert str(blocked) in refusal(made, later.tracking_uri)
    left = tracking.backlog(later)
    # The result has one figure, its seconds.
    assert (left.runs, left.points) == (1, 3 * 50 + 1 + 1)
    blocked.unlink()
    assert not tracking.ship(later)
    assert stored(later, "a") == written(made.trial("a"), 1)


@pytest.mark.parametrize("uri", ["sqlite:///{}/text.db", "mysql://host/db", "nonsense", "file:///tmp/mlruns"])
def test_what_is_no_store_is_unreachable(made: Sweep, uri: str, tmp_path: Path):
    (tmp_path / "text.db").write_text("this is no database " * 100)
    assert refusal(made, uri.format(tmp_path))


def test_a_deleted_experiment_is_named(made: Sweep):
    tracking.ship(made)
    experiment = ledger.load(made).experiment
    assert experiment
    importlib.import_module("mlflow").MlflowClient(made.tracking_uri).delete_experiment(experiment)
    assert made.experiment in refusal(made, made.tracking_uri)


def test_a_run_that_the_store_refuses_costs_the_others_nothing(made: Sweep, tmp_path: Path):
    made = sweep(tmp_path, training("a"), training("b", "clr"))
    tracking.ship(made)
    attempt(made.trial("b"), 0, 20, saved=20, end="stopped")
    tracking.ship(made)
    run = ledger.load(made).runs["b"]
    importlib.import_module("mlflow").MlflowClient(made.tracking_uri).delete_run(run.run_id)
    attempt(made.trial("b"), 20, 40)
    finish(made.trial("b"))
    left = tracking.ship(made)
    assert left.runs == 1
    assert "clr max_lr=0.8 seed=0" in left.refused[0]
    assert stored(made, "a") == written(made.trial("a"), 1)


def test_the_shipper_delivers_beside_the_training_and_the_rest_when_it_is_left(made: Sweep, tmp_path: Path):
    with tracking.Shipper(made.folder, interval=0.05):
        while tracking.backlog(made):
            time.sleep(0.05)
        assert stored(made, "a") == written(made.trial("a"), 1)
        grown = sweep(tmp_path, training("a"), training("b", "clr"))
        attempt(made.trial("b"), 0, 30)
        finish(made.trial("b"))
    assert not tracking.backlog(grown)
    assert stored(grown, "b") == written(made.trial("b"), 1)


def test_a_delivery_has_everything_and_the_report_with_it(made: Sweep, tmp_path: Path):
    (tmp_path / "trials.csv").write_text("signature\na\n")
    with tracking.Shipper(made.folder) as shipper:
        assert shipper.deliver([tmp_path / "trials.csv"], "the table") is None
        assert stored(made, "a") == written(made.trial("a"), 1)


def test_the_shipper_tells_the_fault_of_its_store(made: Sweep):
    replace(made, tracking_uri=f"http://127.0.0.1:{free_port()}").save()
    with tracking.Shipper(made.folder) as shipper:
        line = shipper.deliver([], "the table")
    assert line and "127.0.0.1" in line


def test_a_shipper_that_died_fails_nobody(made: Sweep):
    with tracking.Shipper(made.folder) as shipper:
        shipper._process.kill()
        line = shipper.deliver([], "the table")
    assert line and "shipping process ended" in line


def test_leaving_the_shipper_takes_no_longer_than_its_grace(made: Sweep):
    with silent_server() as port:
        replace(made, tracking_uri=f"http://127.0.0.1:{port}").save()
        with tracking.Shipper(made.folder, interval=0.01, grace=1.0) as shipper:
            time.sleep(0.5)
            began = time.monotonic()
        # The silent server would hold it for some twenty seconds.
        assert time.monotonic() - began < SECONDS / 2
    assert shipper._process.poll() is not None


def test_the_shipper_ends_with_the_process_that_launched_it(made: Sweep):
    launch = f"""
import os, sys, pathlib
from onecycle_sweeps import tracking
with tracking.Shipper(pathlib.Path({str(made.folder)!r})) as shipper:
    print(shipper._process.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    pid = int(subprocess.run([sys.executable, "-c", launch], capture_output=True, text=True, check=False).stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert stored(made, "a") == written(made.trial("a"), 1)
