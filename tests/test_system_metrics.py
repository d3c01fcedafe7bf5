"""The use of CPU and memory that a training records where its config asks for it."""

from pathlib import Path

import pytest

import real_trials
from onecycle_sweeps import journal, trial
from onecycle_sweeps.trial import system_metrics
from onecycle_sweeps.trial.system_metrics import SystemMetrics

CPU, MEMORY = "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"


def trained(runs_dir: Path, *overrides: str) -> journal.Record:
    """The journal of a short training."""
    folder = real_trials.made(runs_dir, *real_trials.SHORT, "policy=constant", *overrides)
    trial.run(folder)
    return journal.read(folder.journal)


def test_they_are_recorded_only_where_the_config_asks_and_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(system_metrics, "INTERVAL_SECONDS", 0.0)
    plain = trained(tmp_path / "plain")
    watched = trained(tmp_path / "watched", "tracking.system_metrics=true")
    assert not any(name.startswith("system/") for block in plain.blocks for name in block.metrics)
    steps, used = watched.series(CPU)
    assert steps and all(0 <= value < 100_000 for value in used)
    assert all(value > 10 for value in watched.series(MEMORY)[1])
    for name in (journal.LR, journal.TRAIN_LOSS, "val/accuracy"):
        assert watched.series(name) == plain.series(name)


def test_they_are_measured_at_most_once_in_an_interval(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(system_metrics.time, "monotonic", lambda: now)
    monkeypatch.setattr(system_metrics.time, "process_time", lambda: now / 2)
    metrics = SystemMetrics("cpu")
    now = 0.5
    assert metrics.measure() == {}
    now = 2.0
    assert metrics.measure()[CPU] == [50.0]
    assert metrics.measure() == {}
