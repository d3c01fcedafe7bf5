"""A tracking server that fails during a training: no step waits for it, and no point is lost or doubled."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import outages
import program
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from outages import Cost, Fault, Proxy
from recorded import PER_STEP, Row, attempt, finish, sweep, training, written
from tracking_server import Server

# Slow, so that these long tests begin first.
pytestmark = [pytest.mark.server, pytest.mark.slow]

FAULTS: dict[str, Callable[[Server, Proxy], Fault]] = {
    "killed": lambda server, _: outages.killed(server, "mlflow"),
    "hanging": lambda server, _: outages.hanging(server),
    "postgres killed": lambda server, _: outages.killed(server, "postgres"),
    "postgres stopped": lambda server, _: outages.stopped(server, "postgres"),
    **{str(code): lambda _, proxy, code=code: proxy.answers(code) for code in (401, 403, 413, 500)},
}
OF_EACH_STEP = """SELECT count(*), count(DISTINCT (run_uuid, metrics.key, step)) FROM metrics JOIN runs USING (run_uuid)
    JOIN experiments USING (experiment_id) WHERE experiments.name = %s
    AND metrics.key IN ('schedule/lr', 'schedule/momentum', 'train/loss')"""


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with outages.proxied(server) as made:
        yield made


@pytest.fixture(scope="module")
def endured(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cost]]:
    """What each fault cost one training that went through all of them, one after the other."""
    folder = tmp_path_factory.mktemp("endured")
    with pytest.MonkeyPatch.context() as patch, outages.proxied(server) as proxy:
        for name, value in (server.environment | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}).items():
            patch.setenv(name, value)
        with outages.training(folder, proxy.uri, server.environment) as begun:
            start = begun.taken()
            begun.wait_for_steps(start + outages.STEPS)
            windows = {"none": range(start, begun.taken())}
            for name, make in FAULTS.items():
                windows[name] = begun.through(make(server, proxy))
            fault, statuses = proxy.answers(502), []
            away = Fault(lambda: (fault.begin(), statuses.append(begun.sync())), fault.mend)
            windows["sync while away"] = begun.through(away)
            start = begun.taken()
            statuses.append(begun.sync())
            windows["sync"] = range(start, begun.taken())
        assert statuses == [[2, 2], [0, 0]]
        assert not tracking.ship(begun.sweep)
        costs = begun.costs(windows)
    outages.tell(costs)
    yield costs


@pytest.mark.parametrize("name", [*FAULTS, "sync while away", "sync", "all"])
def test_a_fault_of_the_server_costs_no_step_and_no_point(name: str, endured: dict[str, Cost]):
    found = endured[name]
    assert found.steps > 0
    assert (found.lost, found.doubled) == (0, 0)
    assert found.longest < outages.STALL_SECONDS


def lost_and_doubled(made: Sweep) -> tuple[int, int]:
    """The number of points of all trials that are missing, and of those that are there twice."""
    runs = ledger.load(made).runs
    lost = doubled = 0
    for entry in made.trials:
        wanted = Counter(row for row in written(made.trial(entry.signature), 1) if row[0] in PER_STEP)
        found: Counter[Row] = Counter(outages.arrived(made, runs[entry.signature].run_id))
        lost += (wanted - found).total()
        doubled += (found - wanted).total()
    return lost, doubled


def number_of_runs(made: Sweep) -> int:
    """The number of runs in the sweep's experiment, the parent included."""
    from mlflow import MlflowClient

    client = MlflowClient(made.tracking_uri)
    experiment = client.get_experiment_by_name(made.experiment)
    assert experiment
    return len(client.search_runs([experiment.experiment_id], max_results=1000))


def test_the_shipper_catches_up_by_itself_once_the_server_is_back(proxy: Proxy, tmp_path: Path):
    made = sweep(tmp_path, training("a"), uri=proxy.uri)
    attempt(made.trial("a"), 0, 500)
    finish(made.trial("a"))
    fault = proxy.answers(503)
    fault.begin()
    with tracking.Shipper(made.folder, interval=0.2) as shipper:
        assert "503" in (shipper.deliver([], "the table") or "")
        fault.mend()
        assert shipper.deliver([], "the table") is None
    assert lost_and_doubled(made) == (0, 0)


def test_two_threads_that_ship_one_sweep_at_once_lose_and_double_nothing(proxy: Proxy, tmp_path: Path):
    made = sweep(tmp_path, training("a"), training("b", "clr"), uri=proxy.uri, experiment=tmp_path.name)
    for signature in ("a", "b"):
        attempt(made.trial(signature), 0, 1000)
        finish(made.trial(signature))
    threads = [threading.Thread(target=tracking.ship, args=(made,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost_and_doubled(made) == (0, 0)


def test_a_lost_answer_creates_no_run_twice(proxy: Proxy, tmp_path: Path):
    made = sweep(tmp_path, training("a"), uri=proxy.uri)
    attempt(made.trial("a"), 0, 50)
    finish(made.trial("a"))
    proxy.losing = lost = set()

    def has_arrived() -> bool:
        with suppress(tracking.StoreUnreachable):
            return not tracking.ship(made)
        return False

    program.wait_until(has_arrived, "a pass without a lost answer", outages.SECONDS)
    proxy.losing = None
    answers = Counter(path.rpartition("/mlflow/")[2] for path, _ in lost)
    assert answers["runs/create"] == number_of_runs(made) == 2
    assert answers["experiments/create"] and answers["runs/log-batch"]
    assert lost_and_doubled(made) == (0, 0)


def test_two_hundred_trials_move_to_a_server_by_two_syncs_at_once(server: Server, proxy: Proxy, tmp_path: Path):
    made = sweep(tmp_path, *(training(f"t{i:03d}", f"p{i}") for i in range(200)), uri=f"sqlite:///{tmp_path}/mlflow.db")
    for entry in made.trials:
        attempt(made.trial(entry.signature), 0, 10)
        finish(made.trial(entry.signature))
    assert outages.synced(tmp_path, {**os.environ}, f"tracking.uri={server.uri}") == [0, 0]
    moved = replace(made, tracking_uri=server.uri)
    assert not tracking.backlog(moved)
    assert number_of_runs(moved) == 201
    count, distinct = server.ask(OF_EACH_STEP, made.experiment)[0]
    assert count == distinct == 200 * 10 * len(PER_STEP)
    some = replace(moved, trials=moved.trials[::50])
    assert lost_and_doubled(some) == (0, 0)
    assert not (tmp_path / "mlflow.db").exists()
