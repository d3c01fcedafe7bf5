"""scripts/gpu-check: a line where there is no CUDA, and figures that can be taken on a CPU in tiny sizes."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.page import Requirement, Result, Table
from gpu_check import figures, step
from gpu_check.__main__ import has_failed
from gpu_check.figures import Options, restored, taken
from gpu_check.tests import told

ROOT = Path(__file__).resolve().parents[1]
REPORT = """<testsuites><testsuite><testcase name="good" time="1"/><testcase name="wrong" time="2"><failure/></testcase>
<testcase name="broken" time="0"><error/></testcase><testcase name="left" time="0"><skipped/></testcase></testsuite>
</testsuites>"""


@pytest.mark.slow
def test_without_cuda_it_says_so_in_a_line_and_measures_nothing(tmp_path: Path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / "scripts" / "gpu-check"), "--out", "figures"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "needs a CUDA device" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_taken_is_said_and_costs_no_other(tmp_path: Path):
    good = Result([Table("one", "", ("a",), [(1,)])], [Requirement("fast", 1.0, 2.0)])

    def bad(_: Options) -> Result:
        raise ArithmeticError("no such card")

    result = taken({"bad": bad, "good": lambda _: good}, Options(tmp_path, "cpu", quick=True))
    assert result.tables == good.tables and result.requirements == list(good.requirements)
    (line,) = result.left_out
    assert line.startswith("bad: ") and "no such card" in line
    assert restored(asdict(result)) == result
    assert has_failed(result) and not has_failed(good)


def test_a_test_that_fails_on_the_gpu_is_in_the_table(tmp_path: Path):
    (tmp_path / "report.xml").write_text(REPORT)
    result = told(tmp_path / "report.xml", ["tests/test_devices.py"])
    assert [row[:2] for row in result.tables[0].rows[:3]] == [
        ("wrong", "failed"),
        ("broken", "failed"),
        ("left", "skipped"),
    ]
    assert result.rounds["failed"] == 2 and result.rounds["passed"] == 1 and has_failed(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "work", "range_test", "precision"])
def test_a_figure_is_taken_on_a_cpu_in_tiny_sizes(tmp_path: Path, one_thread: None, name: str):
    figure: figures.Figure = getattr(step, name)
    (table,) = figure(Options(tmp_path, "cpu", quick=True)).tables
    assert len(table.rows) == 2 and {len(row) for row in table.rows} == {len(table.columns)}
