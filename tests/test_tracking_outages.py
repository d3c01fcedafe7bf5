"""A tracking server that fails under a training: no step waits for it, and no point is lost or doubled."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import outages
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from outages import Cost, Fault, Proxy
from recorded import Row, attempt, finish, sweep, training, written
from tracking_server import Server

pytestmark = pytest.mark.server

FAULTS: dict[str, Callable[[Server, Proxy], Fault]] = {
    "killed": lambda server, _: outages.killed(server, "mlflow"),
    "hanging": lambda server, _: outages.hanging(server),
    "postgres killed": lambda server, _: outages.killed(server, "postgres"),
    **{str(code): lambda _, proxy, code=code: proxy.answers(code) for code in (401, 403, 413, 500)},
}
# A step takes 5 ms, a request that waits for a dead server ten seconds.
STALL_SECONDS = 3.0


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with outages.proxied(server) as made:
        yield made


def cost(made: Sweep, stall: float) -> Cost:
    """What lacks and what is there twice, of all trials."""
    runs = ledger.load(made.folder, made.tracking_uri).runs
    lost = doubled = 0
    for entry in made.trials:
        wanted = Counter(row for row in written(made.trial(entry.signature), 1) if row[0] in outages.PER_STEP)
        found: Counter[Row] = Counter(outages.arrived(made, runs[entry.signature].run_id))
        lost += (wanted - found).total()
        doubled += (found - wanted).total()
    return Cost(stall, lost, doubled)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_server_costs_no_step_and_no_point(name: str, server: Server, proxy: Proxy, tmp_path: Path):
    made = outages.one_trial(tmp_path, proxy.uri)
    stall = outages.endured(made, FAULTS[name](server, proxy))
    assert tracking.backlog(made)
    assert not tracking.ship(made)
    found = cost(made, stall)
    print(f"\noutage: {name}: longest step {found.stall:.3f} s, {found.lost} lost, {found.doubled} doubled")
    assert (found.lost, found.doubled) == (0, 0)
    assert found.stall < STALL_SECONDS


def test_the_shipper_catches_up_by_itself_once_the_server_is_back(proxy: Proxy, tmp_path: Path):
    made = outages.one_trial(tmp_path, proxy.uri)
    attempt(made.trial("a"), 0, 500)
    finish(made.trial("a"))
    fault = proxy.answers(503)
    fault.begin()
    with tracking.Shipper(made.folder, interval=0.2) as shipper:
        assert "503" in (shipper.deliver([], "the table") or "")
        fault.mend()
        assert shipper.deliver([], "the table") is None
    assert cost(made, 0.0) == Cost(0.0, 0, 0)


def test_two_that_sync_one_sweep_at_once_lose_and_double_nothing(proxy: Proxy, tmp_path: Path):
    made = sweep(tmp_path, training("a"), training("b", "clr"), uri=proxy.uri, experiment=tmp_path.name)
    for signature in ("a", "b"):
        attempt(made.trial(signature), 0, 1000)
        finish(made.trial(signature))
    threads = [threading.Thread(target=tracking.ship, args=(made,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cost(made, 0.0) == Cost(0.0, 0, 0)
