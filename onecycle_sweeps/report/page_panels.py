"""The page's figures: panels of their own that stand side by side or below each other, with a legend in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onecycle_sweeps.outcome import Outcome
from onecycle_sweeps.report import canvas, range_test_figures, val_figures
from onecycle_sweeps.report.budget_figure import budgets_of, draw_budgets
from onecycle_sweeps.report.canvas import Style
from onecycle_sweeps.report.groups import group_name
from onecycle_sweeps.report.markup import figure, listed, paragraph, text
from onecycle_sweeps.report.range_test_figures import RULES, VERDICT, RangeTestFigure
from onecycle_sweeps.report.shown import Shown
from onecycle_sweeps.report.themed import themed, variable
from onecycle_sweeps.report.trajectory_figures import draw_trajectories
from onecycle_sweeps.report.val_measures import ACCURACY, LOSS, SECONDS, STEPS, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS_SHOWN = 20
ROW_HEIGHT = 0.27
# Range tests beyond these are small multiples, in which the verdict alone is marked in words.
FEW = 2
SCALE = 1.7


def trajectories(groups: Shown) -> str:
    """Learning rate and momentum of an example of each group, used and planned."""
    if not groups.examples:
        return ""
    lr, momentum = canvas.panels(2)
    draw_trajectories(lr, momentum, groups)
    panels = [inline(lr, "lr", "Learning rate at each step"), inline(momentum, "momentum", "Momentum at each step")]
    words = "Line: what the optimizer used, by its own record. Dots: what the policy planned. One trial of each group."
    return paragraph(text(_as_planned(groups))) + legend(groups, dotted=True) + figure(panels, words)


def course(groups: Shown, measure: Measure) -> str:
    """A measure's course against steps and against seconds."""
    if not val_figures.has_any(groups, measure):
        return ""
    panels: list[str] = []
    for against, axes in zip((STEPS, SECONDS), canvas.panels(2), strict=True):
        val_figures.draw_course(axes, groups, measure, against)
        panels.append(inline(axes, f"{measure.field}-{against}", f"{measure.title} against {against}"))
    words = val_figures.course_words(groups).capitalize() + "."
    seconds = (
        " Seconds are those of the training loop with its evaluations; trials at work at the same time share a machine."
    )
    return legend(groups) + figure(panels, text(words + seconds))


def ends(groups: Shown) -> str:
    """Accuracy and loss of each seed at the end."""
    measures = [measure for measure in (ACCURACY, LOSS) if val_figures.has_any(groups, measure)]
    rows = list(groups.members.items())[:ROWS_SHOWN]
    lines = sum(1 + val_figures.row_name(*row).count("\n") for row in rows)
    panels: list[str] = []
    for measure, axes in zip(
        measures,
        [canvas.axes(width=canvas.PANEL_WIDTH, height=0.9 + ROW_HEIGHT * lines)[0] for _ in measures],
        strict=True,
    ):
        val_figures.draw_ends(axes, groups, measure, ROWS_SHOWN)
        panels.append(inline(axes, f"{measure.field}-ends", f"{measure.title} of each seed at the end"))
    return figure(panels, text(val_figures.ends_words(groups, ROWS_SHOWN).capitalize() + ".")) if panels else ""


def budgets(outcomes: Sequence[Outcome]) -> str:
    """Accuracy against the epochs of the whole training, where they vary."""
    if not (found := budgets_of(outcomes)):
        return ""
    (axes,) = canvas.panels(1)
    draw_budgets(axes, found)
    names = dict(zip(found.labels, canvas.styles(len(found.lines)), strict=True))
    words = "Line: mean; dot: a seed. Each point is a training of its own, at the rate picked for its length."
    return listed((swatch(style) + text(name) for name, style in names.items()), "legend") + figure(
        [inline(axes, "budgets", "Accuracy against budget")], words
    )


def range_tests(tests: Sequence[RangeTestFigure]) -> str:
    """Each range test's curve with its suggestions; of many the first few."""
    if not tests:
        return ""
    shown = tests[: range_test_figures.MOST]
    few = len(shown) <= FEW
    panels: list[str] = []
    for i, test in enumerate(shown):
        (axes,) = canvas.panels(1, *(() if few else reversed(range_test_figures.SMALL)))
        range_test_figures.draw_curves(axes, test, in_words=few)
        rates = ", ".join(f"{RULES[rule].words} {rate:.3g}" for rule, rate in test.rates.items() if rule != VERDICT)
        below = f"{test.verdict or test.status}; {rates}" if rates else f"{test.status}, without a verdict"
        panels.append(f"<h3>{text(test.name)}</h3>{inline(axes, f'range-{i}', test.name)}<p>{text(below)}</p>")
    left = f" The first {len(shown)} of {len(tests)}." if len(shown) < len(tests) else ""
    words = "Grey: each batch's loss; blue: smoothed. Vertical lines: the rate that each rule suggests."
    return _rules() + figure(panels, text(words + left), "" if few else "small")


def legend(groups: Shown, *, dotted: bool = False) -> str:
    """Which line is whose; groups past the best few share grey."""
    items = [swatch(groups.styles[group]) + text(group_name(group)) for group in groups.highlighted]
    if grey := len(groups.styles) - len(items):
        items.append(swatch(list(groups.styles.values())[-1]) + f"{grey} others")
    if dotted:
        items.append(_line("#000000", (1, 3), 1.2) + "planned")
    return listed(items, "legend")


def swatch(style: Style) -> str:
    """A piece of a group's line."""
    pattern = () if style.dashes == "-" else style.dashes[1]
    return _line(style.colour, tuple(SCALE * part for part in pattern), 2.4 if style.highlighted else 1.2)


def _rules() -> str:
    dashes = {rule: () if rule == VERDICT else (5, 5) for rule in RULES}
    return listed(
        (_line(RULES[rule].colour, dashes[rule], 3 if rule == VERDICT else 2) + RULES[rule].words for rule in RULES),
        "legend",
    )


def _line(colour: str, pattern: Sequence[float], width: float) -> str:
    dashes = f";stroke-dasharray:{' '.join(f'{part:g}' for part in pattern)}" if pattern else ""
    style = f"stroke:{variable(colour)};stroke-width:{width:g}{dashes}"
    return f'<svg class="swatch" viewBox="0 0 32 8" aria-hidden="true"><path d="M0 4H32" style="{style}"/></svg>'


def _as_planned(groups: Shown) -> str:
    """Whether what was used is what was planned, from both."""
    examples = [example for example in groups.examples.values() if not example.plan.unknown]
    off = [f"{example.outcome.name}: {example.plan.off}" for example in examples if example.plan.off]
    unknown = [f"{e.outcome.name}: {e.plan.unknown}" for e in groups.examples.values() if e.plan.unknown]
    steps = sum(len(example.outcome.used.lr.steps) for example in examples)
    said: list[str] = []
    if off:
        said.append(f"Used and planned differ: {'; '.join(off)}.")
    elif examples:
        said.append(
            f"Used equals planned, bit for bit, at every one of the {steps} steps taken by the {len(examples)} "
            f"trial{'s' * (len(examples) > 1)} shown."
        )
    if unknown:
        said.append(f"No plan to compare with: {'; '.join(unknown)}.")
    return " ".join(said)


def inline(axes: "Axes", name: str, words: str) -> str:
    """A figure as part of the page; `name` sets its ids apart, `words` stand for it where it cannot be seen."""
    return themed(canvas.svg(axes), name.replace("_", "-"), words)
