"""What all figures share: how a figure is composed, colours and lines, axes, and the forms in which it is written.

A `Plot` is a figure as a composition of panels with captions and a legend. `write` makes its PNG and SVG files, and
`inline` makes each panel an SVG of the page, so that both show the same thing. matplotlib is imported on first use.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from markupsafe import Markup

from onecycle_sweeps import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Okabe and Ito's colours, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color), without yellow,
# which is invisible on white. The dashes tell apart lines that cover each other or are printed in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.2), (6, 2, 1.5, 2), (), (6, 2), (2, 1.2))
BLACK, GREY, GRID, MUTED, PAPER = "#000000", "#B0B0B0", "#E4E4E4", "#606060", "#FFFFFF"
# The CSS variable of the page that stands for each colour, so that figures follow its light and dark scheme.
VARIABLES = {colour.lower(): f"--c{i}" for i, colour in enumerate(COLOURS[:-1])} | {
    BLACK.lower(): "--ink",
    GREY.lower(): "--others",
    GRID.lower(): "--grid",
    MUTED.lower(): "--muted",
    PAPER.lower(): "--paper",
}
# Sizes are in inches: of a panel, and the margins that leave room for ticks and labels.
PANEL_WIDTH, PANEL_HEIGHT = 5.0, 3.0
LEFT, RIGHT, BOTTOM, TOP = 0.8, 0.12, 0.52, 0.1
# Numbers from here on do not fit between a panel's y axis and its label.
LONG_NUMBERS = 1e4
STEP = "step (optimizer updates)"
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# How matplotlib fixes an SVG's size, beside the viewBox that has its shape.
SIZE = re.compile(r' width="[\d.]+pt" height="[\d.]+pt"')
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
FONT = re.compile(r"font: (?:(\d+|bold) )?([\d.]+px) [^;]*")
DIGITS = re.compile(r"(\d\.\d\d)\d+")


@dataclass(frozen=True)
class Style:
    """How a line is drawn, in a figure and in its legend; `dashes` are lengths in line widths, empty for a solid line.

    Groups that are not highlighted are drawn behind the others.
    """

    colour: str
    dashes: tuple[float, ...] = ()
    width: float = 1.7
    highlighted: bool = True

    def line(self, **overrides: Any) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        linestyle = (0, self.dashes) if self.dashes else "-"
        zorder = 3 if self.highlighted else 1
        return {"color": self.colour, "linestyle": linestyle, "linewidth": self.width, "zorder": zorder, **overrides}

    @property
    def css(self) -> str:
        """The same line in the page's legend, a little stronger."""
        dashes = (
            f";stroke-dasharray:{' '.join(f'{part * self.width:g}' for part in self.dashes)}" if self.dashes else ""
        )
        return f"stroke:{_variable(self.colour)};stroke-width:{1.4 * self.width:.3g}{dashes}"


@dataclass(frozen=True)
class Panel:
    """One plot of a figure: `words` say what it shows to those who cannot see it, `captions` how to read it.

    `title` stands above it. `below` is a line under it on the page. `fits_labels` is for plots whose labels need an
    unknown amount of room; the others have the same margins, so that panels are aligned.
    """

    name: str
    words: str
    draw: "Callable[[Axes], None]"
    captions: tuple[str, ...] = ()
    title: str = ""
    below: str = ""
    width: float = PANEL_WIDTH
    height: float = PANEL_HEIGHT
    fits_labels: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure of the report: `name` is the stem of its files, whose axes `layout` makes; `title` also heads it on the
    page. In the files the legend stands below the panels if `has_legend_below`, otherwise the panels name their lines.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    layout: "Callable[[], list[Axes]]"
    legend: tuple[tuple[str, Style], ...] = ()
    has_legend_below: bool = False
    is_small: bool = False


def caption(panels: Sequence[Panel]) -> str:
    """How to read the panels, each sentence once."""
    return " ".join(dict.fromkeys(sentence for panel in panels for sentence in panel.captions))


def styles(count: int) -> list[Style]:
    """A style for each of `count` groups, best first: the first few in colour, the others in grey."""
    few = [Style(colour, dashes) for colour, dashes in zip(COLOURS, DASHES, strict=True)][:count]
    return few + [Style(GREY, width=0.8, highlighted=False)] * (count - len(few))


def axes(
    columns: int = 1, width: float = 9.0, height: float = 3.6, ratios: Sequence[float] = (), rows: int = 1
) -> "list[Axes]":
    """The axes of a new figure of that size, row by row; margins fit the labels."""
    return _subplots("constrained", width, height, rows, columns, ratios)


def tiles(rows: int, columns: int, width: float, height: float, title: float = 0.0) -> "list[Axes]":
    """The axes of a new figure, row by row, each `width` by `height` with equal margins and room for a title."""
    made = _subplots(None, columns * width, rows * height, rows, columns)
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


def _subplots(
    layout: Literal["constrained"] | None,
    width: float,
    height: float,
    rows: int,
    columns: int,
    ratios: Sequence[float] = (),
) -> "list[Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    _forget_user_style()
    figure = MatplotlibFigure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    made = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios or None).ravel().tolist()
    for one in made:
        one.grid(True, color=GRID, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made


@cache
def _forget_user_style() -> None:
    """A matplotlibrc may set colours for which the page has no variables."""
    import matplotlib

    matplotlib.rcdefaults()


def logarithmic(axes: "Axes") -> None:
    """Make the y axis logarithmic, with numbers at 1, 2 and 5 of each decade, or only at 1 if there are many."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def short_numbers(axes: "Axes") -> None:
    """Write the numbers of the y axis with k, M or G: 80k."""
    from matplotlib.ticker import EngFormatter

    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def short_rates(axes: "Axes") -> None:
    """Write rates below 0.001 on the y axis as one types them, 4e-4, so that they fit beside the panel."""
    from matplotlib.ticker import FuncFormatter

    def written(rate: float, _: object) -> str:
        if not 0 < abs(rate) < 1e-3:
            return f"{rate:.4g}"
        mantissa, exponent = f"{rate:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"

    axes.yaxis.set_major_formatter(FuncFormatter(written))


def logarithmic_rates(axes: "Axes") -> None:
    """Make the x axis logarithmic, with every other decade as one types it: 1e-4, 0.01, 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}".replace("e-0", "e-")))
    axes.xaxis.set_minor_locator(NullLocator())


def figure_of(axes: "Axes") -> "MatplotlibFigure":
    """The matplotlib figure that the axes belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def plain(text: str) -> str:
    """Text from a config, which matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def write(plot: Plot, folder: Path) -> list[Path]:
    """Write a figure's PNG and SVG."""
    made = plot.layout()
    for one, panel in zip(made, plot.panels, strict=False):
        panel.draw(one)
        if panel.title:
            one.set_title(plain(panel.title), fontsize=10)
    for unused in made[len(plot.panels) :]:
        unused.set_visible(False)
    whole = figure_of(made[0])
    if whole.get_layout_engine() is not None:
        words = textwrap.fill(caption(plot.panels), round(14 * whole.get_figwidth()))
        whole.suptitle(plain(f"{plot.title}\n{words}"), fontsize=10)
    if plot.has_legend_below:
        _draw_legend(whole, plot.legend)
    return save_both(made[0], folder / f"{plot.name}.png")


def _draw_legend(whole: "MatplotlibFigure", legend: Sequence[tuple[str, Style]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=plain(label), **style.line()) for label, style in legend]
    columns = max(1, min(len(lines), 110 // (max(len(label) for label, _ in legend) + 8)))
    whole.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)


def save(axes: "Axes", path: Path, dpi: int = 150) -> Path:
    """Write the figure that the axes belong to as a PNG; a reader sees the earlier picture or this one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_of(axes).savefig(picture := io.BytesIO(), dpi=dpi, format="png")
    files.write(path, picture.getbuffer())
    return path


def save_both(axes: "Axes", path: Path) -> list[Path]:
    """Write the figure as a PNG to `path`, and beside it as an SVG that fills the width of the page that shows it.

    MLflow's pages give an image no width, so that a wide one would push its neighbours out of the window.
    """
    save(axes, path)
    # The layout of the picture serves the SVG as well.
    figure_of(axes).set_layout_engine("none")
    scalable = path.with_suffix(".svg")
    files.write(scalable, SIZE.sub(' width="100%"', _svg(axes), count=1))
    return [path, scalable]


def inline(panel: Panel) -> Markup:
    """A panel as an inline `<svg>` of the page."""
    (made,) = axes(1, panel.width, panel.height) if panel.fits_labels else tiles(1, 1, panel.width, panel.height)
    panel.draw(made)
    return themed(_svg(made), panel.name, panel.words)


def _svg(axes: "Axes") -> str:
    """The figure as SVG, its text as text; the same figure always gives the same SVG."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onecycle_sweeps"}):
        figure_of(axes).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def themed(svg: str, name: str, words: str) -> Markup:
    """A matplotlib SVG adapted to the page: its colours as variables, the page's font, and ids that begin with `name`.

    `words` become the label for those who cannot see it. Raises KeyError for a colour that has no variable.
    """
    root = ElementTree.fromstring(svg)
    for child in [child for child in root if child.tag == f"{SVG}metadata"]:
        root.remove(child)
    for defs in root.findall(f"{SVG}defs"):
        for style in defs.findall(f"{SVG}style"):
            defs.remove(style)
    used = {match for element in root.iter() for value in element.attrib.values() for match in _references(value)}
    for element in root.iter():
        _adapt(element, name, used)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": words, "class": "drawn"})
    # ElementTree has escaped all text and attributes.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _variable(colour: str) -> str:
    """The CSS value that stands for one of the figures' colours."""
    return f"var({VARIABLES[colour.lower()]})"


def _references(value: str) -> list[str]:
    return [value[1:]] if value.startswith("#") else REFERENCE.findall(value)


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    element.tag = element.tag.removeprefix(SVG)
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    attributes = {key.replace(XLINK, ""): value for key, value in element.attrib.items()}
    if attributes.get("id") not in used:
        attributes.pop("id", None)
    for key, value in attributes.items():
        if key == "id":
            attributes[key] = f"{name}-{value}"
        elif key == "href":
            attributes[key] = f"#{name}-{value[1:]}"
        elif key == "d":
            attributes[key] = DIGITS.sub(r"\1", " ".join(value.split()))
        elif key == "style":
            attributes[key] = _adapted_style(value)
        else:
            attributes[key] = REFERENCE.sub(rf"url(#{name}-\1)", value)
    element.attrib.clear()
    element.attrib.update(attributes)


def _adapted_style(value: str) -> str:
    value = FONT.sub(lambda found: f"font-size: {found[2]}" + (f"; font-weight: {found[1]}" if found[1] else ""), value)
    return COLOUR.sub(lambda found: _variable(found[0]), value)
