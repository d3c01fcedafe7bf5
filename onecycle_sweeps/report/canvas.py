"""What all figures share: a figure that needs no display, its colours, and its file."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onecycle_sweeps import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by the colour-blind (https://jfly.uni-koeln.de/color), without the yellow that
# vanishes on white. The dashes tell lines apart that lie on each other, or that are printed in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)), "-", (0, (6, 2)), (0, (2, 1.2)))
GREY, GRID, MUTED, PAPER = "#B0B0B0", "#E4E4E4", "#606060", "#FFFFFF"
PANEL_WIDTH = 5.0
# The room in inches that a panel leaves for ticks and labels.
LEFT, RIGHT, BOTTOM, TOP = 0.68, 0.12, 0.52, 0.1
STEP = "step (optimizer updates)"
# How matplotlib fixes an SVG's size, beside the viewBox that has its shape.
SIZE = re.compile(r' width="[\d.]+pt" height="[\d.]+pt"')


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
    return _figure("constrained", width, height, rows, columns, ratios)


def panels(count: int, height: float = 3.0, width: float = PANEL_WIDTH) -> "list[Axes]":
    """Axes that stand each in a figure of its own, at the width of a page's column and with margins all alike."""
    return [tiles(1, 1, width, height)[0] for _ in range(count)]


def tiles(rows: int, columns: int, width: float, height: float, title: float = 0.0) -> "list[Axes]":
    """The axes of a fresh figure, row by row, each with its margins `width` by `height`; `title` is room above it."""
    made = _figure(None, columns * width, rows * height, rows, columns)
    left, right, bottom, top = LEFT / width, RIGHT / width, BOTTOM / height, (TOP + title) / height
    figure_of(made[0]).subplots_adjust(
        left=left / columns,
        right=1 - right / columns,
        bottom=bottom / rows,
        top=1 - top / rows,
        wspace=(left + right) / (1 - left - right),
        hspace=(bottom + top) / (1 - bottom - top),
    )
    return made


def _figure(
    layout: Literal["constrained"] | None,
    width: float,
    height: float,
    rows: int,
    columns: int,
    ratios: Sequence[float] = (),
) -> "list[Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _forget_user_style()
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    made = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios or None).ravel().tolist()
    for one in made:
        one.grid(True, color=GRID, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made


@cache
def _forget_user_style() -> None:
    """A matplotlibrc may set colours that the page has no variables for."""
    import matplotlib

    matplotlib.rcdefaults()


def logarithmic(axes: "Axes") -> None:
    """Make the y axis logarithmic, with numbers at 1, 2 and 5 of each decade, or of each at 1 where there are many."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def logarithmic_rates(axes: "Axes") -> None:
    """Make the x axis logarithmic, with every other decade as one types it: 1e-4, 0.01, 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}".replace("e-0", "e-")))
    axes.xaxis.set_minor_locator(NullLocator())


def figure_of(axes: "Axes") -> "Figure":
    """The figure that the axes stand in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def save(axes: "Axes", path: Path, dpi: int = 150) -> Path:
    """Write the figure that the axes are part of as a PNG; the path holds the earlier picture or this one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_of(axes).savefig(picture := io.BytesIO(), dpi=dpi, format="png")
    files.write(path, picture.getbuffer())
    return path


def save_both(axes: "Axes", path: Path) -> list[Path]:
    """Write the figure as a PNG to `path`, and beside it as an SVG that is as wide as the page that shows it has room.

    MLflow's pages take no width for an image, and let a wide one push what stands beside it out of the window.
    """
    save(axes, path)
    # What the picture was laid out like serves the other form too.
    figure_of(axes).set_layout_engine("none")
    scalable = path.with_suffix(".svg")
    files.write(scalable, SIZE.sub(' width="100%"', svg(axes), count=1))
    return [path, scalable]


def svg(axes: "Axes") -> str:
    """The figure that the axes are part of as SVG, its text as text; the same figure gives the same text again."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onecycle_sweeps"}):
        figure_of(axes).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def plain(text: str) -> str:
    """Text from a config, which matplotlib shall not read as mathematics."""
    return text.replace("$", r"\$")
