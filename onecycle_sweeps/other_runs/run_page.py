"""report.html of a comparison of runs from elsewhere, with its figures and CSV files."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onecycle_sweeps import files
from onecycle_sweeps.other_runs.judging import RunClaim, arrival
from onecycle_sweeps.other_runs.showing import Compared, answer, contents, remarks, title
from onecycle_sweeps.report import canvas
from onecycle_sweeps.report.canvas import Plot, Style
from onecycle_sweeps.report.courses import CourseFigure, RunCurve, named
from onecycle_sweeps.report.csv_files import write_csv
from onecycle_sweeps.report.figures import styles_of
from onecycle_sweeps.report.page import PAGE, by_figure, environment
from onecycle_sweeps.report.scores import INTERVALS, NAME_WIDTH, IntervalRow, intervals_panel

TEMPLATE = "compare.html"
# This last share of the steps is shown once more, if a curve has so many points that enough of them lie in it.
ZOOM, ZOOMED_FROM = 0.2, 15


def write(found: Sequence[Compared], notes: Sequence[str], command: str, folder: Path) -> Path:
    """Write the page and the files beside it; returns the page. `notes` are what was guessed, left out, or differs."""
    folder.mkdir(parents=True, exist_ok=True)
    courses = [course(one) for one in found]
    figures = [one.figure() for one in courses]
    intervals = [differences(one, drawn.styles) for one, drawn in zip(found, courses, strict=True)]
    written = [
        write_csv(folder / "claims.csv", (_claim(claim) for one in found for claim in one.claims)),
        write_csv(folder / "runs.csv", (row for one in found for row in _runs(one))),
    ]
    if any(one.runs.has_curves for one in found):
        written.append(write_csv(folder / "curves.csv", (row for one in found for row in _curves(one))))
    written += [path for figure in (*intervals, *figures) for path in canvas.write(figure, folder)]
    text = (
        environment()
        .get_template(TEMPLATE)
        .render(
            title=_title(found),
            under=f"onecycle_sweeps, {sum(len(one.runs.runs) for one in found)} runs from elsewhere",
            measures=[
                {
                    "title": title(one),
                    "answer": answer(one),
                    "contents": contents(one),
                    "remarks": list(remarks(one)),
                    "styles": courses[i].styles,
                    "figure": figures[i],
                    "differences": intervals[i],
                }
                for i, one in enumerate(found)
            ],
            notes=notes,
            command=command,
            cwd=Path.cwd(),
            files=by_figure(written),
        )
    )
    files.write(folder / PAGE, text)
    return folder / PAGE


def differences(one: Compared, styles: Mapping[str, Style]) -> Plot:
    """The figure of the groups' differences from the baseline, in the order of the table."""
    rows = [
        IntervalRow("\n".join(textwrap.wrap(claim.name, NAME_WIDTH)), claim.difference, claim.low, claim.high, style)
        for claim in one.claims
        for style in [styles[claim.name]]
    ]
    better = "right of 0: better" if one.runs.goal == "max" else "left of 0: better"
    adjusted = " after Holm's adjustment" if one.tested > 1 else ""
    has_intervals = any(claim.low is not None for claim in one.claims)
    words = f"Dot: difference{f'; bar: its 95 % interval{adjusted}' if has_intervals else ''}; {better}."
    name = one.runs.as_measure.name
    panel = intervals_panel(f"{name}-differences", rows, f"{one.runs.measure}, minus that of {one.baseline}", [words])
    return Plot(f"{name}_differences", INTERVALS, (panel,))


def course(one: Compared) -> CourseFigure:
    """The figure of the runs' curves, as far as the log has them, and of their ends; the best mean comes first."""
    groups, ranked = one.runs.groups, one.ranked
    styles = styles_of(ranked, list(groups))
    measure = one.runs.as_measure
    return CourseFigure(
        name=measure.name,
        title=one.runs.measure,
        label=one.runs.measure,
        measure=measure,
        curves={name: [_curve(run.curve or ((0.0, run.value),)) for run in groups[name]] for name in ranked},
        styles=styles,
        legend=named(styles),
        of="run",
        step_label=one.runs.step or "",
        has_steps=one.runs.has_curves,
        zoom=ZOOM if max(len(run.curve) for run in one.runs.runs) >= ZOOMED_FROM else None,
    )


def _curve(values: Sequence[tuple[float, float]]) -> RunCurve:
    steps, shown = np.asarray(values, dtype=float).T
    return RunCurve(steps, shown, np.full(len(steps), np.nan))


def _title(found: Sequence[Compared]) -> str:
    groups = list(dict.fromkeys(name for one in found for name in one.runs.groups))
    measures = ", ".join(one.runs.measure for one in found)
    return f"{measures}: {' against '.join(reversed(groups)) if len(groups) == 2 else f'{len(groups)} groups'}"


def _claim(claim: RunClaim) -> dict[str, Any]:
    """A claim's numbers; those of a slope and a speed-up have its name as a prefix."""
    flat = {key: value for key, value in asdict(claim).items() if key not in ("worth", "speedup")}
    if claim.worth:
        numbers = asdict(claim.worth)
        flat |= {f"slope_{key}": value for key, value in numbers.pop("slope").items()}
        flat |= {f"worth_{key}": value for key, value in numbers.items()}
    if claim.speedup:
        flat |= {f"speedup_{key}": value for key, value in asdict(claim.speedup).items()}
    return flat


def _runs(one: Compared) -> Iterator[dict[str, Any]]:
    """Each run with its last value, and the step at which it reached the target."""
    for run in one.runs.runs:
        row = {"measure": one.runs.measure, "group": run.group, "run": run.name, "seed": run.seed}
        row |= {"last_step": run.last_step, "value": run.value}
        if one.target is not None:
            found = arrival(one.runs, run, one.target) if run.curve else None
            row["step_of_target"] = found.steps if found and found.reached else None
        yield row


def _curves(one: Compared) -> Iterator[dict[str, Any]]:
    for run in one.runs.runs:
        for step, value in run.curve:
            yield {
                "measure": one.runs.measure,
                "group": run.group,
                "run": run.name,
                "step": f"{step:g}",
                "value": value,
            }
