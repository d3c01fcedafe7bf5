"""The stability map: what each weight decay and momentum allows, which of them is picked, and the next command."""

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hand_made
from onecycle_sweeps import report
from onecycle_sweeps.outcome import Outcome, read
from onecycle_sweeps.report.stability import Cell, StabilityMap, next_command, stability_maps
from onecycle_sweeps.sweep import RANGE_TEST, Entry, Sweep
from onecycle_sweeps.terminal import invocation
from onecycle_sweeps.trial_folder import TrialFolder

WD, MOMENTUM = "optimizer.weight_decay", "optimizer.momentum"
GRID = {(0.0, 0.8): 4.0, (0.0, 0.9): 2.0, (1e-3, 0.8): 3.0, (1e-3, 0.9): 2.0, (1e-2, 0.8): 1.0, (1e-2, 0.9): 0.5}


def points(limit: float, lowest: float = 0.5) -> list[tuple[float, float, float]]:
    """A test of 100 steps from 1e-4 to 10 whose loss falls until `limit` and leaps above it."""
    rates = [1e-4 * 10 ** (5 * step / 99) for step in range(100)]
    losses = [2.0 - (2.0 - lowest) * step / 99 if rate <= limit else 5.0 for step, rate in enumerate(rates)]
    return [(rate, loss, loss) for rate, loss in zip(rates, losses, strict=True)]


def mapped(
    tmp_path: Path, grid: dict[Any, float], command: tuple[str, ...] = (), keys: tuple[str, ...] = (WD, MOMENTUM)
) -> Sweep:
    """A sweep of range tests, one for each entry of the grid: its values of the keys, and its largest stable rate."""
    entries = []
    for number, values in enumerate(grid):
        varies = {key: f"{value:g}" for key, value in zip(keys, values, strict=True)}
        entries.append(Entry(f"range{number}", RANGE_TEST, varies))
    made = replace(hand_made.sweep(tmp_path, *entries), command=command)
    for one, limit in zip(entries, grid.values(), strict=True):
        hand_made.range_test(made.trial(one.signature), points(limit), suggestions={"max_lr": limit / 10})
    return made


def only(made: Sweep) -> StabilityMap:
    (found,) = stability_maps(read(made))
    return found


def test_the_largest_stable_rate_is_the_last_before_the_loss_diverges(tmp_path: Path):
    for cell, limit in zip(only(mapped(tmp_path, GRID)).cells, GRID.values(), strict=True):
        assert cell.limit is not None and cell.limit <= limit < cell.limit * 10 ** (5 / 99) and not cell.stable


def test_a_test_that_never_diverges_is_stable_up_to_its_last_rate(tmp_path: Path):
    cell = only(mapped(tmp_path, {(0, 0.9): math.inf, (1e-3, 0.9): 1.0})).cells[0]
    assert cell.stable and cell.limit == pytest.approx(10.0)


def test_the_divergence_that_the_test_records_is_taken_and_the_lowest_loss_is_that_of_the_curve(tmp_path: Path):
    made = mapped(tmp_path, {(0, 0.9): 1.0, (1e-3, 0.9): 1.0})
    folder = made.trial("range0")
    metrics = {"suggestion/max_lr": 0.1, "suggestion/divergence": 0.5, "range/lowest_loss": 0.25, "seconds": 1.0}
    folder.write("result", hand_made.a_result(kind="range_test", metrics=metrics, steps=100))
    cell = only(made).cells[0]
    assert cell.limit is not None and 0.5 / 10 ** (5 / 99) <= cell.limit < 0.5
    assert cell.lowest_loss == min(cell.test.curves[0].smoothed)


def test_the_pick_is_the_largest_weight_decay_that_allows_half_of_the_largest_rate(tmp_path: Path):
    pick = only(mapped(tmp_path, GRID)).pick
    assert pick is not None and (pick.weight_decay, pick.momentum) == (1e-3, 0.8)


def cell(weight_decay: float, momentum: float, limit: float | None, loss: float, max_lr: float | None = 0.1) -> Cell:
    metrics = {} if max_lr is None else {"suggestion/max_lr": max_lr}
    test = Outcome(hand_made.range_test_entry(), TrialFolder(Path("range")), "finished", result={"metrics": metrics})
    return Cell(test, weight_decay, momentum, limit, False, loss)


def test_of_equal_weight_decays_the_lower_loss_is_picked():
    low, high = cell(1e-3, 0.9, 1.0, 0.2), cell(1e-3, 0.8, 1.5, 0.3)
    assert StabilityMap((), (high, low, cell(0, 0.9, 1.6, 0.1))).pick is low


def test_a_test_without_a_verdict_is_not_picked():
    good = cell(0, 0.9, 1.0, 0.3)
    assert StabilityMap((), (good, cell(1e-2, 0.9, None, math.nan), cell(1e-2, 0.8, 2.0, 0.1, None))).pick is good
    assert StabilityMap((), (cell(1e-2, 0.9, None, math.nan, None),)).pick is None


@given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(1e-3, 10), st.floats(0.1, 2)), min_size=1, max_size=12))
def test_nothing_with_more_weight_decay_than_the_pick_allows_a_large_rate(drawn: list[tuple[float, float, float]]):
    cells = tuple(cell(weight_decay, 0.9, limit, loss) for weight_decay, limit, loss in drawn)
    pick = StabilityMap((), cells).pick
    top = max(limit for _, limit, _ in drawn)
    assert pick is not None and pick.limit is not None and pick.limit >= top / 2
    assert all(one.limit < top / 2 for one in cells if one.limit and (one.weight_decay or 0) > (pick.weight_decay or 0))


def test_the_next_command_trains_at_the_pick_and_keeps_the_other_overrides(tmp_path: Path):
    typed = ("task=range_test", "data=mnist", f"{WD}=0,1e-3,1e-2", f"{MOMENTUM}=0.8,0.9", "seed=0", "model=lenet")
    made = mapped(tmp_path, GRID, (*typed, "data.classes=[3,7]", "range_test.steps=200", "runs_dir=/r", "-m"))
    line = report.remarks(report.compare(made))[-1]
    assert line == (
        f"next: {invocation()} data=mnist model=lenet 'data.classes=[3,7]' runs_dir=/r {WD}=0.001 {MOMENTUM}=0.8 "
        "max_lr=0.3 policy=onecycle policy.cycle_momentum=false -m"
    )


def test_a_momentum_that_was_not_mapped_is_left_to_the_policy(tmp_path: Path):
    made = mapped(tmp_path, {(0,): 1.0, (1e-2,): 0.9}, (f"{WD}=0,1e-2", "-m"), (WD,))
    one = only(made)
    assert one.pick is not None and len(one.momenta) == 1
    assert next_command(one, one.pick, made).endswith(f"{WD}=0.01 max_lr=0.09 policy=onecycle -m")


def test_each_batch_size_has_a_map_and_a_command_of_its_own(tmp_path: Path):
    grid = {(0, 64): 1.0, (1e-2, 64): 0.9, (0, 256): 2.0, (1e-2, 256): 0.1}
    made = mapped(tmp_path, grid, ("batch_size=64,256", "-m"), (WD, "batch_size"))
    maps = stability_maps(read(made))
    assert [one.title for one in maps] == ["batch_size=64", "batch_size=256"]
    picked = [(one.pick.weight_decay, next_command(one, one.pick, made).split()[3]) for one in maps if one.pick]
    assert picked == [(1e-2, "batch_size=64"), (0.0, "batch_size=256")]


@pytest.mark.parametrize("keys", [("model",), ("batch_size",)])
def test_there_is_no_map_where_neither_weight_decay_nor_momentum_varies(tmp_path: Path, keys: tuple[str, ...]):
    made = mapped(tmp_path, {(1,): 1.0, (2,): 2.0}, keys=keys)
    assert stability_maps(read(made)) == ()
    assert not (made.report / "stability_map.png").exists()


def test_a_test_that_failed_is_a_cell_without_a_rate(tmp_path: Path):
    made = mapped(tmp_path, {(0, 0.9): 1.0, (1e-3, 0.9): 1.0})
    folder = made.trial("range1")
    (folder.path / "result.json").unlink()
    folder.write("failure", {"cause": "it diverged too early", "attempt": 1, "time": 0.0})
    one = only(made)
    good, bad = one.cells
    assert (bad.test.status, bad.limit, bad.max_lr) == ("failed", None, None)
    assert one.pick is good


@pytest.mark.slow
def test_the_report_draws_the_map_and_lists_it(tmp_path: Path):
    made = mapped(tmp_path, GRID)
    files = {path.name for path in report.write(report.compare(made))}
    assert {"stability_map.png", "stability_map.csv"} <= files
    with (made.report / "stability_map.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    (picked,) = [row for row in rows if row["picked"] == "True"]
    assert (picked["weight_decay"], picked["momentum"], picked["diverged"]) == ("0.001", "0.8", "True")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "keys"),
    [
        ({(0,): 1.0, (1e-2,): 0.9}, (WD,)),
        ({(0.8,): 1.0, (0.9,): math.inf}, (MOMENTUM,)),
        ({(0, 64): 1.0, (1e-2, 64): 0.9, (0, 256): 2.0, (1e-2, 256): 0.1}, (WD, "batch_size")),
        ({(0,): 1e-5, (1e-2,): 1e-5}, (WD,)),
    ],
    ids=["weight decay alone", "momentum alone", "two batch sizes", "all diverged at once"],
)
def test_a_map_of_any_shape_is_drawn(tmp_path: Path, grid: Any, keys: tuple[str, ...]):
    assert "stability_map.png" in {
        path.name for path in report.write(report.compare(mapped(tmp_path, grid, keys=keys)))
    }
