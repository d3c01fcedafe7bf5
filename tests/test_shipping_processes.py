"""Several processes that ship at once, or are killed while they ship."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import program
import warm
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import shipping
from recorded import ask, attempt, database, finish, runs, stored, sweep, training, whole_store, written
from tracking_server import mlflow_server

pytestmark = pytest.mark.slow

INTERVAL, GRACE = "3", "60"


def ship_elsewhere(made: Sweep, temporary: Path) -> "subprocess.Popen[bytes]":
    """The process that a sweep starts to ship, whose standard input has ended, as it does at the launcher's death."""
    command = [sys.executable, "-m", shipping.__name__, str(made.folder), INTERVAL, GRACE, ""]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    environment = warm.environment(program.shared(temporary))
    return subprocess.Popen(command, stdin=null, stdout=pipe, stderr=subprocess.STDOUT, env=environment)


def finished_sweep(folder: Path, uri: str, name: str = "5weeb1d0", steps: int = 50) -> Sweep:
    entries = training(f"{name}a"), training(f"{name}b", "clr")
    made = sweep(folder, *entries, uri=uri, id=name, experiment=name, command=(f"tracking.uri={uri}", "-m"))
    for entry in made.trials:
        attempt(made.trial(entry.signature), 0, steps, config={"tracking": {"uri": uri}})
        finish(made.trial(entry.signature))
    return made


def test_four_processes_at_once_fill_a_fresh_store_with_nothing_lost_or_doubled_or_printed(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sweeps = [finished_sweep(tmp_path, uri, name) for name in ("one", "two")]
    processes = [ship_elsewhere(made, tmp_path) for made in sweeps * 2]
    assert [(p.communicate()[0], p.returncode) for p in processes] == [(b"", 0)] * 4
    for made in sweeps:
        assert len(runs(made)) == 3
        for entry in made.trials:
            assert stored(made, entry.signature) == written(made.trial(entry.signature), 1)


def test_a_process_killed_while_it_ships_loses_and_doubles_nothing(tmp_path: Path):
    made = finished_sweep(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", steps=2500)
    for points in (1, 4000, 8000):
        process = ship_elsewhere(made, tmp_path)
        while process.poll() is None and points_stored(made) < points:
            time.sleep(0.02)
        process.kill()
        process.communicate()
    assert not tracking.ship(made)
    assert len(runs(made)) == 3
    for entry in made.trials:
        assert stored(made, entry.signature) == written(made.trial(entry.signature), 1)


def points_stored(made: Sweep) -> int:
    try:
        return ask(made, "SELECT count(*) FROM metrics")[0][0]
    except Exception:
        return 0


def test_a_server_gets_everything_once_it_is_up_and_no_password(tmp_path: Path):
    port = 5391
    made = finished_sweep(tmp_path, f"http://me:hunter2@127.0.0.1:{port}", steps=500)
    behind = replace(made, tracking_uri=f"sqlite:///{tmp_path}/server/mlflow.db")
    with pytest.raises(tracking.StoreUnreachable):
        tracking.ship(made)
    database(behind).parent.mkdir()
    with mlflow_server(behind.tracking_uri, port):
        assert not tracking.ship(made)
        before = whole_store(behind)
        tracking.ship(made)
        assert whole_store(behind) == before
        assert tracking.overlay_link(made).startswith(f"http://127.0.0.1:{port}/#/experiments/")
    for entry in made.trials:
        assert stored(behind, entry.signature) == written(made.trial(entry.signature), 1)
    kept = [*(tmp_path / "server").rglob("*"), made.folder / "tracking.json"]
    assert "config.yaml" in {path.name for path in kept}
    assert not [path for path in kept if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_process_killed_while_it_creates_the_store_leaves_it_usable(tmp_path: Path):
    made = finished_sweep(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    for seconds in (0.2, 1.0):
        process = ship_elsewhere(made, tmp_path)
        while process.poll() is None and not (tmp_path / "mlflow.db.part").exists():
            time.sleep(0.02)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    tracking.ship(made)
    for entry in made.trials:
        assert stored(made, entry.signature) == written(made.trial(entry.signature), 1)
