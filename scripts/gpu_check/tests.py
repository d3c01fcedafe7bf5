"""The tests marked cuda."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.page import Result, Table
from gpu_check.card import ROOT
from gpu_check.figures import Options

SECONDS = 240
CAPTION = """`pytest -m cuda` over {files}: {passed} passed, {failed} failed, {skipped} skipped, in {seconds:.0f} s of \
their own time. Each row is one that did not pass, or one of the slowest."""
SLOWEST = 3
# What a file with tests for CUDA has: the mark, or the fixture that runs a test on each kind of device.
SIGNS = ("pytest.mark.cuda", "device: str")


def run(options: Options) -> Result:
    """All of them, in four processes; needs pytest-xdist."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").glob("test_*.py")}
    files = sorted(path for path, text in texts.items() if any(sign in text for sign in SIGNS))
    report = options.scratch / "report.xml"
    # The plugin of pytest-benchmark, where it is installed, warns beside pytest-xdist, and warnings are errors.
    asked = ("-m", "cuda", "-q", "-n", "4", "-p", "no:cacheprovider", "-p", "no:benchmark", f"--junitxml={report}")
    command = [sys.executable, "-m", "pytest", *asked, *files]
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, timeout=SECONDS, check=False)
    if not report.exists():
        return Result([], (), [f"pytest ended with status {done.returncode} and no report"])
    return told(report, files)


def told(report: Path, files: list[str]) -> Result:
    """What pytest's report says."""
    cases = [(case, _outcome(case), float(case.get("time", 0))) for case in ElementTree.parse(report).iter("testcase")]
    count = {word: sum(outcome == word for _, outcome, _ in cases) for word in ("passed", "failed", "skipped")}
    slowest = sorted(cases, key=lambda one: -one[2])[:SLOWEST]
    shown = [one for one in cases if one[1] != "passed"] + [one for one in slowest if one[1] == "passed"]
    rows = [(case.get("name", ""), outcome, seconds) for case, outcome, seconds in shown]
    caption = CAPTION.format(files=", ".join(files), **count, seconds=sum(seconds for *_, seconds in cases))
    failed = [case.get("name", "") for case, outcome, _ in cases if outcome == "failed"]
    return Result([Table("Tests on the GPU", caption, ("test", "", "s"), rows)], (), (), {**count, "names": failed})


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"
