"""How often a sweep's records are read: as often as it has trials, whatever is told of them."""

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

import hand_made
from onecycle_sweeps import files, journal, report
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep

POINTS = [(10 ** (i / 20 - 4), 2.3 - i / 60, 2.3 - i / 60) for i in range(100)]


def made(tmp_path: Path, count: int) -> Sweep:
    """So many range tests, of which a stability map is made, and for each a training that has finished."""
    tests = [Entry(f"range{i}", RANGE_TEST, {"optimizer.momentum": f"{i / count}"}) for i in range(count)]
    trainings = [hand_made.entry(f"training{i}", "clr", i) for i in range(count)]
    found = hand_made.sweep(tmp_path / str(count), *tests, *trainings)
    for test, training in zip(tests, trainings, strict=True):
        hand_made.range_test(found.trial(test.signature), POINTS, suggestions={"max_lr": 0.2})
        hand_made.training(found.trial(training.signature), accuracy={4: 0.9}, loss={4: 0.1})
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The JSON files and journals that are read, by their place in RUNS_DIR."""
    counted: Counter[str] = Counter()

    def watch(module, name: str) -> None:
        read = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda path, *rest: (counted.update([f"{path.parent.name}/{path.name}"]), read(path, *rest))[1],
        )

    watch(files, "read_json")
    watch(journal, "read")
    return counted


@pytest.mark.slow
def test_a_report_and_its_table_read_each_journal_once(tmp_path: Path, reads: Counter[str]):
    sweep = made(tmp_path, 3)
    comparison = report.compare(sweep)
    assert "stability_map.png" in {path.name for path in report.write(comparison)}
    assert {place: count for place, count in reads.items() if place.endswith("/journal")} == {
        f"{entry.signature}/journal": 1 for entry in sweep.trials
    }


def test_a_status_of_twice_as_many_trials_reads_twice_as_much_and_no_journal(tmp_path: Path, reads: Counter[str]):
    counts = []
    for count in (5, 10):
        sweep = made(tmp_path, count)
        reads.clear()
        report.show_status(sweep, Console(quiet=True))
        assert not any(place.endswith("/journal") for place in reads)
        counts.append(reads.total())
    assert counts[1] == 2 * counts[0]
