"""Ticks of the figures' axes: from 3 to 8 numbers on each, at round values, which do not overlap."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from onecycle_sweeps.measures import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

LEAST, MOST = 3, 8
# Free pixels between two numbers, as a share of the height of the text.
GAP = 0.5
# An axis of steps has whole numbers.
STEP = "step (optimizer updates)"
EPOCHS = "epochs"
# Where the thousands of larger numbers are written as k, and smaller numbers as one types them: 4e-4.
LONG, SHORT = 1e4, 1e-3
MOST_DECIMALS = 12
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def free_axes(axes: "Axes") -> "list[Axis]":
    """The axes that need ticks: all but those whose ticks were fixed when they were drawn, such as names."""
    from matplotlib.ticker import FixedLocator, NullLocator

    both = [axis for one in (axes, *axes.child_axes) for axis in (one.xaxis, one.yaxis)]
    return [axis for axis in both if not isinstance(axis.get_major_locator(), FixedLocator | NullLocator)]


def place(axis: "Axis") -> None:
    """Put the best ticks on an axis that its present length has room for."""
    low, high = sorted(map(float, axis.get_view_interval()))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return
    logarithmic = axis.get_scale() == "log"
    enough: list[float] = []
    for ticks in _candidates(axis, low, high):
        if not LEAST <= len(ticks) <= MOST:
            continue
        enough = ticks if not enough or len(ticks) < len(enough) else enough
        _set(axis, ticks, logarithmic)
        if not _overlap(axis):
            return
    _set(axis, enough, logarithmic)


def _candidates(axis: "Axis", low: float, high: float) -> Iterator[list[float]]:
    """Ticks for an axis, best first: of steps and epochs whole ones; if there are too few epochs, also halves."""
    if axis.get_scale() == "log":
        return _logarithmic(low, high)
    if axis.get_label_text() == EPOCHS:
        return chain(_linear(low, high, whole=True), _linear(low, high, few=True))
    return _linear(low, high, whole=axis.get_label_text() == STEP)


def written(values: Sequence[float], *, alone: bool = False) -> list[str]:
    """The numbers of an axis: with as many decimals as tell them apart, or if `alone`, each by itself."""
    if alone:
        return [_short(value) for value in values]
    largest = max(map(abs, values), default=0.0)
    gap = min((abs(other - one) for one, other in pairwise(values)), default=0.0) or largest
    if 0 < largest < 10 * SHORT:
        digits = 3 + max(0, math.ceil(math.log10(largest / gap) - 1))
        return [_short(value, digits) for value in values]
    factor, suffix = next((one for one in PREFIXES if largest >= LONG and largest >= one[0]), (1.0, ""))
    scaled = [value / factor for value in values]
    exact = (n for n in range(MOST_DECIMALS) if all(abs(round(x, n) - x) < 0.01 * gap / factor for x in scaled))
    decimals = next(exact, MOST_DECIMALS)
    return [f"{x:z.{decimals}f}{suffix if x else ''}".replace("-", MINUS) for x in scaled]


def _short(value: float, digits: int = 3) -> str:
    """A number as one types it: 20k, 0.05, 4e-4; the mantissa of a small one has at most `digits` decimals."""
    sign, size = (MINUS if value < 0 else ""), abs(value)
    for factor, suffix in PREFIXES:
        if LONG <= size < 1e12 and size >= factor:
            return f"{sign}{size / factor:.4g}{suffix}"
    if SHORT <= size < LONG or not size:
        return f"{sign}{size:.{digits + 1}g}"
    mantissa, exponent = f"{size:.{digits}e}".split("e")
    return f"{sign}{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _linear(low: float, high: float, *, whole: bool = False, few: bool = False) -> Iterator[list[float]]:
    """Ticks of a linear axis, the preferred number first."""
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    wanted = (3, 4, 5, 6, 7, 8) if few else (6, 7, 5, 8, 4, 3, 9, 10, 12)
    for count in wanted:
        found = MaxNLocator(count, integer=whole, min_n_ticks=1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        yield [float(tick) for tick in found if low - slack <= tick <= high + slack]


def _logarithmic(low: float, high: float) -> Iterator[list[float]]:
    """Ticks of a logarithmic axis: each decade; where they are many, some; where they are few, also within them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def within(subdivisions: Sequence[int]) -> list[float]:
        found = [float(f"{sub}e{decade}") for decade in decades for sub in subdivisions]
        return [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]

    whole = within((1,))
    for stride in range(1, max(2, len(whole))):
        yield from (whole[first::stride] for first in reversed(range(stride)))
    yield from map(within, ((1, 3), (1, 2, 5), (1, 2, 3, 5), (1, 2, 4, 6, 8), range(1, 10)))
    yield from _linear(low, high)


def _set(axis: "Axis", ticks: Sequence[float], logarithmic: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis.set_ticks(list(ticks), written(ticks, alone=logarithmic))
    axis.set_minor_locator(LogLocator(numticks=20) if logarithmic else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _overlap(axis: "Axis") -> bool:
    """Whether two of the numbers lie closer together than they should."""
    from matplotlib.axis import YAxis

    figure: Any = axis.get_figure(root=True)
    renderer = figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels() if label.get_text()]
    if isinstance(axis, YAxis):
        ordered = sorted(boxes, key=lambda box: box.y0)
        return any(other.y0 < one.y1 for one, other in pairwise(ordered))
    ordered = sorted(boxes, key=lambda box: box.x0)
    return any(other.x0 - one.x1 < GAP * one.height for one, other in pairwise(ordered))
