"""Makes the pictures that are named, or all, from the present code."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from illustrations import policy_drawings, recording, screenshots
from onecycle_sweeps import sweep

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
PROGRAM = "python -m onecycle_sweeps"
# The sweep whose terminal, report and MLflow page are shown, and one of several rates.
COMPARISON = "data=fashion_mnist policy=constant,step,clr,onecycle epochs=3 -m"
RATES = "policy=constant,onecycle max_lr_scale=0.1,0.3,1,3 -m"
# The pictures of a report: from the top of the first element to the end of the last.
OF_THE_COMPARISON = {
    "report": ("body", "#result figure"),
    "curves": ("#curves figure >> nth=0",),
    "trajectories": ("#curves figure >> nth=1",),
    "range_test": ("#range-test .beside",),
    "short_trainings": ("#short-trainings-that-found-max_lr figure",),
}
OF_THE_RATES = {"score_over_max_lr": ("#score-over-max_lr figure",)}


@dataclass(frozen=True)
class Workshop:
    """Where sweeps run; those that are there already are used again."""

    folder: Path

    def sweep(self, name: str, typed: str) -> sweep.Sweep:
        """The sweep of a command in a folder of that name; it is run where it has not been."""
        where = self.folder / name
        where.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, *PROGRAM.split()[1:], *typed.split()], cwd=where, env=environment(), check=True)
        return sweep.find(where / "runs", None)


def environment() -> dict[str, str]:
    """This process's environment, in which `python` is the Python that has the program, as printed commands assume."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def terminal(workshop: Workshop) -> None:
    """A recording of the comparison in a terminal, and its last screen as text."""
    where = workshop.folder / "comparison"
    where.mkdir(parents=True, exist_ok=True)
    rerun = ["rerun=true"] if (where / "runs").exists() else []
    command = [sys.executable, *PROGRAM.split()[1:], *COMPARISON.split(), *rerun]
    made = recording.record(command, f"{PROGRAM} {COMPARISON}", where, environment())
    (PICTURES / "terminal.svg").write_text(recording.svg(made), encoding="utf-8")
    (where / "screen.txt").write_text(made.text, encoding="utf-8")
    print(made.text)


def report(workshop: Workshop) -> None:
    """The result of the comparison's report, its other figures, and the scores over several rates."""
    compared, rates = workshop.sweep("comparison", COMPARISON), workshop.sweep("rates", RATES)
    with screenshots.browser() as found:
        screenshots.report(found, compared.report / "report.html", PICTURES, OF_THE_COMPARISON)
        screenshots.report(found, rates.report / "report.html", PICTURES, OF_THE_RATES)


def mlflow(workshop: Workshop) -> None:
    """MLflow's page of the comparison."""
    with screenshots.browser() as found:
        screenshots.mlflow(found, workshop.sweep("comparison", COMPARISON), PICTURES / "mlflow.png")


def policies(workshop: Workshop) -> None:
    """A drawing of each policy."""
    for name in policy_drawings.POLICIES:
        policy_drawings.draw(name, PICTURES / f"policy_{name}.png")


PARTS: dict[str, Callable[[Workshop], None]] = {
    "terminal": terminal,
    "report": report,
    "mlflow": mlflow,
    "policies": policies,
}


def main() -> None:
    """Make the pictures in turn."""
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--work", type=Path, help="folder for the sweeps; those that are there are used again")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pictures-", ignore_cleanup_errors=True) as scratch:
        workshop = Workshop((options.work or Path(scratch)).resolve())
        for part in options.parts or PARTS:
            PARTS[part](workshop)


if __name__ == "__main__":
    main()
