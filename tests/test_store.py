"""Which addresses can be a store, and how a store that cannot be used is reported: soon, and in one line."""

import importlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import outages
from onecycle_sweeps import tracking
from onecycle_sweeps.config import paths
from onecycle_sweeps.credentials import address, redacted
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from recorded import attempt, client, finish, stored, sweep, training, written

SECONDS = 20


@pytest.fixture
def made(tmp_path: Path) -> Sweep:
    """A sweep of one finished trial, `a`."""
    made = sweep(tmp_path, training("a"))
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    return made


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    importlib.import_module("mlflow")  # its import must not count in the seconds measured


def refusal(made: Sweep, uri: str) -> str:
    """The line with which shipping fails, which it does soon."""
    began = time.monotonic()
    with pytest.raises(tracking.StoreUnreachable) as raised:
        tracking.ship(replace(made, tracking_uri=uri))
    assert time.monotonic() - began < SECONDS
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.slow
def test_importing_tracking_loads_neither_mlflow_nor_its_database():
    names = ("mlflow", "sqlalchemy", "alembic", "torch")
    code = f"import sys, onecycle_sweeps.tracking; print([n for n in {names} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/p", "http://host:5000/p"),
        ("postgresql://me:se@cret@host/db?password=secret", "postgresql://host/db"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_has_no_credentials(uri: str, shown: str):
    assert address(uri) == shown
    assert "secret" not in redacted(shown)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:////there/mlflow.db"),
        ("sqlite:///../a/b.db?timeout=5", "sqlite:////a/b.db?timeout=5"),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql:///db", "postgresql:///db"),
    ],
)
def test_a_relative_sqlite_path_is_made_absolute(uri: str, absolute: str):
    assert paths.absolute_uri(uri, Path("/there")) == absolute


def test_a_server_that_is_down_is_reported_soon_and_without_its_password(made: Sweep):
    port = outages.free_port()
    line = refusal(made, f"http://me:secret@127.0.0.1:{port}")
    assert line.startswith(f"the MLflow store http://127.0.0.1:{port} cannot be used: ")
    assert "secret" not in line


def test_a_server_that_never_answers_is_given_up_soon(made: Sweep):
    with outages.silent_server() as port:
        assert "timed out" in refusal(made, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("status", [401, 403, 413, 429, 500, 503])
def test_a_server_that_refuses_is_unreachable_even_if_it_asks_to_retry_later(made: Sweep, status: int):
    with outages.answering_server(status) as port:
        line = refusal(made, f"http://me:secret@127.0.0.1:{port}")
    assert str(status) in line
    assert "secret" not in line


@pytest.mark.slow
def test_a_database_that_cannot_be_created_gets_everything_once_it_can(made: Sweep, tmp_path: Path):
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
def test_an_address_that_is_no_store_is_unreachable(made: Sweep, uri: str, tmp_path: Path):
    (tmp_path / "text.db").write_text("this is not a database " * 100)
    assert refusal(made, uri.format(tmp_path))


def test_a_deleted_experiment_is_named(made: Sweep):
    tracking.ship(made)
    experiment = ledger.load(made).experiment
    assert experiment
    client(made).delete_experiment(experiment)
    assert made.experiment in refusal(made, made.tracking_uri)


def test_a_run_that_the_store_refuses_costs_the_others_nothing(made: Sweep, tmp_path: Path):
    made = sweep(tmp_path, training("a"), training("b", "clr"))
    tracking.ship(made)
    attempt(made.trial("b"), 0, 20, saved=20, end="stopped")
    tracking.ship(made)
    run = ledger.load(made).runs["b"]
    client(made).delete_run(run.run_id)
    attempt(made.trial("b"), 20, 40)
    finish(made.trial("b"))
    left = tracking.ship(made)
    assert left.runs == 1
    assert "clr max_lr=0.8 seed=0" in left.refused[0]
    assert stored(made, "a") == written(made.trial("a"), 1)
