"""The benchmark in quick mode: every row is there, and a side that logs less than it claims ends it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import __main__, page, timing, training, verdict
from benchmarks.page import Requirement, Result, Table, markdown
from benchmarks.peers import torch_loop
from benchmarks.timing import Cost, Rounds
from benchmarks.work import STEP_METRICS, Incomplete, Options, Points, Side, Work, installed, works

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = ("A step of simple_cnn", "A step of one layer")


@pytest.fixture
def work(tmp_path: Path, one_thread: None) -> Work:
    """The one-layer net's training of the quick mode."""
    return works(Options(tmp_path, quick=True))["one layer"]


def losing(which: Sequence[int]) -> Side:
    """The program, with the losses of some steps missing, or logged twice."""

    def train(work: Work) -> tuple[Cost, Points]:
        cost, points = training.train(work)
        return cost, {**points, "train/loss": sorted({*range(work.steps)} - {*which}) + [s for s in which if s == 0]}

    return Side("a side that loses points", train, STEP_METRICS)


@pytest.mark.slow
def test_the_quick_mode_writes_every_row_of_a_part_as_markdown_and_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "step", "--quick", "--rounds", "1", "--out", str(tmp_path)]
    paths = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True)
    page = (tmp_path / "benchmark.md").read_text()
    written = json.loads((tmp_path / "benchmark.json").read_text())
    chosen, left_out = installed(training.STEP_SIDES)
    assert page.count("### ") == 2
    assert all(reason in page for reason in left_out)
    assert {"torch", "fastai", "lightning", "mlflow", "hydra-core", "git commit", "CPU"} <= written["facts"].keys()
    for title, table in zip(HEADINGS, written["parts"]["step"]["tables"], strict=True):
        assert title in table["title"]
        assert table["caption"] in page
        assert all(f"| {row[0]} |" in page for row in table["rows"])
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        assert [row[:2] for row in table["rows"]] == [[side.name, 10 * len(side.logs)] for side in chosen]
    assert len(written["parts"]["step"]["requirements"]) == 4


@pytest.mark.slow
def test_the_program_has_a_point_at_every_step_of_the_benchmark(work: Work) -> None:
    assert Side("the program", training.train, STEP_METRICS).run(work).wall > 0


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 7, 9], ids=["twice", "lacking", "the last"])
def test_a_missing_or_repeated_point_ends_the_benchmark(work: Work, step: int) -> None:
    with pytest.raises(Incomplete, match=r"a side that loses points.*train/loss.*\b(9|10)\b.*\b10\b"):
        losing([step]).run(work)


@pytest.mark.slow
def test_a_side_that_takes_too_few_steps_ends_the_benchmark(work: Work) -> None:
    del work.order[-1]
    with pytest.raises(RuntimeError, match=r"\b10\b.*\b9\b"):
        Side("bare", torch_loop.train).run(work)


def test_peers_that_are_not_installed_are_left_out_with_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    chosen, left_out = installed(training.STEP_SIDES)
    assert [side.name for side in chosen][:2] == [training.BARE, training.OURS]
    assert not [side for side in chosen if "fastai" in side.name or "Lightning" in side.name]
    assert len(left_out) == 3
    assert all(reason.endswith(page.HOW_TO_INSTALL) for reason in left_out)


def test_an_unknown_part_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/benchmark", "steps"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    assert {"steps", *__main__.PARTS} <= set(re.findall(r"\w+", capsys.readouterr().err))


def test_ratios_are_taken_within_a_round() -> None:
    slow_then_fast = Rounds(
        {"one": [Cost(2, 2), Cost(20, 20), Cost(1, 1)], "two": [Cost(4, 5), Cost(40, 23), Cost(2, 9)]}
    )
    assert slow_then_fast.ratio("two", "one") == 2
    assert slow_then_fast.added_cpu("two", "one") == 3


@pytest.mark.slow
def test_sides_take_turns_and_warm_rounds_are_not_counted() -> None:
    turns: list[str] = []
    sides = {name: lambda name=name: (turns.append(name), Cost(len(turns), 0))[1] for name in "ab"}
    measured = timing.interleaved(sides, rounds=2, warm=1)
    assert turns == [*"ababab"]
    assert [cost.wall for cost in measured["a"]] == [3, 5]


def test_the_page_says_which_requirements_are_met() -> None:
    table = Table("A table", "What a row is.", ("way", "ms"), [("this | that", 0.01234), ("other", 12345.6)])
    required = [Requirement("a ratio", 1.5, 1.02), Requirement("a speed", 25.0, 20, at_least=True)]
    page = markdown({"torch": "2"}, False, {"step": Result([table], required, ["fastai: not installed"])})
    assert "| step | a ratio | 1.5 | at most 1.02 | **no** |" in page
    assert "| step | a speed | 25 | at least 20 | yes |" in page
    assert "| this \\| that | 0.0123 |" in page
    assert "| other | 12,346 |" in page
    assert "- fastai: not installed" in page


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_the_verdicts_of_a_pair_are_trained_at_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(tmp_path / "scratch", quick=True, out=tmp_path / "out")
    first = verdict.verdict(options)
    (table,) = first.tables
    ((name, steps, best, *rest),) = table.rows
    assert (name, steps) == (*verdict.QUICK, 50)
    assert float(str(best).partition(":")[0]) in (0.1, 0.2, 0.4)
    for cell, one in zip(rest, next(iter(first.rounds["verdicts"].values())), strict=False):
        assert str(cell) == f"{one.rate:.3g}: {one.lost:.2f} %, {one.word}"
        assert one.steps >= 100
        assert one.lost >= 0
    # All that it says is in the trials that it leaves.
    monkeypatch.setattr(verdict.Sweeps, "run", lambda *_: None)
    assert verdict.verdict(options) == first
