"""What all figures share: a figure that needs no display, its colours, and its file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind (https://jfly.uni-koeln.de/color), without the yellow that
# vanishes on white. The dashes tell lines apart that lie on each other, or that are printed in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)), "-", (0, (6, 2)), (0, (2, 1.2)))
GREY = "#B0B0B0"
STEP = "step (optimizer updates)"


@dataclass(frozen=True)
class Style:
    """How one group is drawn in every figure of a sweep; those past the best few stand back in grey."""

    colour: str
    dashes: Any
    highlighted: bool

    def line(self) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        front = {"linewidth": 1.7, "zorder": 3} if self.highlighted else {"linewidth": 0.8, "zorder": 1}
        return {"color": self.colour, "linestyle": self.dashes, **front}


def styles(count: int) -> list[Style]:
    """A style for each of `count` groups, best first: the first few in colour."""
    shown = zip(COLOURS, DASHES, strict=True)
    few = [Style(colour, dashes, True) for colour, dashes in shown][:count]
    return few + [Style(GREY, "-", False)] * (count - len(few))


def axes(
    columns: int = 1, width: float = 9.0, height: float = 3.6, ratios: Sequence[float] = (), rows: int = 1
) -> "list[Axes]":
    """The axes of a fresh figure, side by side, row by row; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios or None).flat
    for one in (made := list(made)):
        one.grid(True, color="#E4E4E4", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made


def logarithmic(axes: "Axes") -> None:
    """Make the y axis logarithmic, with numbers at 1, 2 and 5 of each decade, or of each at 1 where there are many."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def figure_of(axes: "Axes") -> "Figure":
    """The figure that the axes stand in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def save(axes: "Axes", path: Path, dpi: int = 150) -> Path:
    """Write the figure that the axes are part of as a PNG; the path holds the earlier picture or this one, whole."""
    figure = figure_of(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        figure.savefig(part, dpi=dpi)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def plain(text: str) -> str:
    """Text from a config, which matplotlib shall not read as mathematics."""
    return text.replace("$", r"\$")
