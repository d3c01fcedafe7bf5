"""What all figures share: how a figure is composed, colours and lines, and the forms in which it is written.

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
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from onecycle_sweeps import files
from onecycle_sweeps.report import ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Okabe and Ito's colours, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color), without yellow,
# which is invisible on white. The dashes tell apart lines that are printed in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[tuple[float, ...], ...] = (
    *((), (7, 2.5), (3, 1.8), (7, 2, 1.5, 2), (1.3, 1.3), (10, 2, 1.5, 2, 1.5, 2), (4.5, 4.5)),
)
# A solid line is wider than the dashed ones, which are drawn above it, so that equal lines are all visible.
SOLID, DASHED, THIN = 2.6, 1.6, 0.9
BLACK, GREY, GRID, MUTED, PAPER = "#000000", "#B0B0B0", "#E4E4E4", "#606060", "#FFFFFF"
# How much of a colour its shades have, from the lightest to the darkest.
SHADES = (0.36, 0.48, 0.6, 0.72, 0.84)
# Sizes in inches: of a panel, of the space around its content, and of lines of text in the files.
PANEL_WIDTH, PANEL_HEIGHT = 5.0, 3.0
SPACE, LINE = 0.07, 0.19
STEP = ticks.STEP
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# How matplotlib fixes an SVG's size, beside the viewBox that has its shape.
SIZE = re.compile(r' width="[\d.]+pt" height="[\d.]+pt"')
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
FONT = re.compile(r"font: (?:(\d+|bold) )?([\d.]+px) [^;]*")
DIGITS = re.compile(r"(\d\.\d\d)\d+")
# The gid of each part of a drawing has the number of its entry in the legend; lines whose values can be looked up have
# a gid of another form.
LINE_OF, PART_OF = re.compile(r'id="line-of-(\d+)"'), re.compile(r'id="part-of-(\d+)"')


def shade(colour: str, strength: float) -> str:
    """A mixture of the colour with white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in parts)


# The CSS value of the page that stands for each colour, so that figures follow its light and dark scheme.
_NAMED = {colour: f"--c{i}" for i, colour in enumerate(COLOURS[:-1])} | {
    BLACK: "--ink",
    GREY: "--others",
    GRID: "--grid",
    MUTED: "--muted",
    PAPER: "--paper",
}
CSS = {
    shade(colour, strength): f"color-mix(in srgb, var({_NAMED[colour]}) {100 * strength:.0f}%, var(--faint))"
    for colour in COLOURS
    for strength in SHADES
} | {colour.lower(): f"var({name})" for colour, name in _NAMED.items()}


@dataclass(frozen=True)
class Style:
    """How a line is drawn, in a figure and in its legend; `dashes` are lengths in line widths, empty for a solid line.

    Groups that are not highlighted are drawn behind the others. `series` is the number of its entry in the legend.
    """

    colour: str
    dashes: tuple[float, ...] = ()
    width: float = DASHED
    highlighted: bool = True
    series: int | None = None

    @property
    def gid(self) -> str | None:
        """The gid of the parts of a drawing that belong to this series."""
        return None if self.series is None else f"part-of-{self.series}"

    def line(self, **overrides: Any) -> dict[str, Any]:
        """Keywords of `Axes.plot`: the wider the gaps, the nearer to the front."""
        linestyle = (0, self.dashes) if self.dashes else "-"
        front = 3 + 0.1 * DASHES.index(self.dashes) if self.dashes in DASHES else 3
        look = {"color": self.colour, "linestyle": linestyle, "linewidth": self.width}
        look |= {} if self.series is None else {"gid": f"line-of-{self.series}"}
        return look | {"zorder": front if self.highlighted else 1} | overrides

    @property
    def css(self) -> str:
        """The CSS of this line in the page's legend, where it is a little stronger."""
        dashes = (
            f";stroke-dasharray:{' '.join(f'{part * self.width:g}' for part in self.dashes)}" if self.dashes else ""
        )
        return f"stroke:{CSS[self.colour.lower()]};stroke-width:{1.4 * self.width:.3g}{dashes}"


Legend = tuple[tuple[str, Style], ...]


@dataclass(frozen=True)
class Panel:
    """One plot of a figure: `words` say what it shows to those who cannot see it, `captions` how to read it.

    `title` stands above it. `has_values` says that its lines are functions of x, whose values a reader may look up.
    """

    name: str
    words: str
    draw: "Callable[[Axes], None]"
    captions: tuple[str, ...] = ()
    title: str = ""
    width: float = PANEL_WIDTH
    height: float = PANEL_HEIGHT
    has_values: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure of the report: `name` is the stem of its files, in which `columns` panels stand side by side."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    legend: Legend = ()
    columns: int = 3
    is_small: bool = False


def caption(panels: Sequence[Panel]) -> str:
    """How to read the panels, each sentence once."""
    return " ".join(dict.fromkeys(sentence for panel in panels for sentence in panel.captions))


def styles(count: int) -> list[Style]:
    """A style for each of `count` lines: the first few in colour, the others in grey."""
    few = [
        Style(colour, dashes, DASHED if dashes else SOLID, series=i)
        for i, (colour, dashes) in enumerate(zip(COLOURS, DASHES, strict=True))
    ][:count]
    return few + [Style(GREY, width=0.8, highlighted=False, series=len(few))] * (count - len(few))


def blank(width: float, height: float) -> "MatplotlibFigure":
    """A new figure of that size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    _forget_user_style()
    figure = MatplotlibFigure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


@cache
def _forget_user_style() -> None:
    """A matplotlibrc may set colours for which the page has no variables."""
    import matplotlib

    matplotlib.rcdefaults()


def new_axes(figure: "MatplotlibFigure") -> "Axes":
    """Axes in a figure, with a grid and without a frame."""
    made = figure.add_axes((0.15, 0.15, 0.8, 0.8))
    made.grid(True, color=GRID, linewidth=0.6)
    made.set_axisbelow(True)
    made.spines[["top", "right"]].set_visible(False)
    return made


def fit(axes: "Axes", left: float, bottom: float, width: float, height: float) -> None:
    """Place ticks on the axes, and place the axes so that, with their labels, they fill a box of the figure.

    The box is in inches.
    """
    figure = figure_of(axes)
    whole_width, whole_height = figure.get_size_inches()
    free = ticks.free_axes(axes)
    margins = (0.6, 0.45, 0.15, 0.15)
    for _ in range(3):
        inner_width = max(width - margins[0] - margins[2], 0.2)
        inner_height = max(height - margins[1] - margins[3], 0.2)
        box = (left + margins[0], bottom + margins[1], inner_width, inner_height)
        axes.set_position((box[0] / whole_width, box[1] / whole_height, box[2] / whole_width, box[3] / whole_height))
        for axis in free:
            ticks.place(axis)
        taken: Any = axes.get_tightbbox(figure.canvas.get_renderer())  # pyright: ignore[reportAttributeAccessIssue]
        taken = taken.transformed(figure.dpi_scale_trans.inverted())
        needed = (
            box[0] - taken.x0 + SPACE,
            box[1] - taken.y0 + SPACE,
            taken.x1 - box[0] - box[2] + SPACE,
            taken.y1 - box[1] - box[3] + SPACE,
        )
        if all(abs(one - other) < 0.01 for one, other in zip(needed, margins, strict=True)):
            return
        margins = needed


def logarithmic_rates(axes: "Axes") -> None:
    """Make the x axis logarithmic, with numbers as one types them: 1e-4, 0.01, 1; `fit` chooses which."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: ticks.written([rate], alone=True)[0]))
    axes.xaxis.set_minor_locator(NullLocator())


def widen(axes: "Axes") -> None:
    """Give an axis of steps with a single step on it, or two, a range with some whole numbers."""
    first, last = axes.dataLim.intervalx
    if last - first < 2:
        axes.set_xlim(first - 1, last + 1)


def epochs_above(axes: "Axes", steps_per_epoch: int | None) -> None:
    """Name the epochs at the upper edge of axes with steps, if all agree on them: n at the last step of the nth."""
    first, last = axes.get_xlim()
    if not steps_per_epoch or last - first < steps_per_epoch:
        return

    def epochs(step: Any) -> Any:
        return (step + 1) / steps_per_epoch

    def steps(epoch: Any) -> Any:
        return epoch * steps_per_epoch - 1

    above = axes.secondary_xaxis("top", functions=(epochs, steps))
    above.set_xlabel(ticks.EPOCHS)
    above.spines["top"].set_visible(False)


def figure_of(axes: "Axes") -> "MatplotlibFigure":
    """The matplotlib figure that the axes belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def height_of_rows(names: Sequence[str]) -> float:
    """The height, in inches, of a row for each name, all of them as high as the name with the most lines needs."""
    most = max((1 + name.count("\n") for name in names), default=1)
    return len(names) * max(0.27, 0.17 * most)


def plain(text: str) -> str:
    """Text from a config, which matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def compose(plot: Plot) -> "MatplotlibFigure":
    """The whole figure as in its files: a heading, the panels in rows, and the legend below them."""
    columns = min(plot.columns, len(plot.panels))
    rows = [plot.panels[first : first + columns] for first in range(0, len(plot.panels), columns)]
    width = max(sum(panel.width for panel in row) for row in rows)
    heading = [plot.title, *textwrap.wrap(caption(plot.panels), round(13 * width))]
    entries, across = _legend_columns(plot.legend, width)
    heights = [max(panel.height + LINE * len(_title(panel)) for panel in row) for row in rows]
    above, below = LINE * (len(heading) + 0.8), LINE * 1.15 * -(-len(entries) // across) + (0.15 if entries else 0)
    figure = blank(width, above + sum(heights) + below)
    top = above
    whole = figure.get_figheight()
    figure.text(0.5, 1 - 0.08 / whole, plain("\n".join(heading)), ha="center", va="top", fontsize=10, linespacing=1.2)
    for row, height in zip(rows, heights, strict=True):
        left = 0.0
        for panel in row:
            axes = new_axes(figure)
            panel.draw(axes)
            if title := _title(panel):
                axes.set_title(plain("\n".join(title)), fontsize=10)
            fit(axes, left, whole - top - height, panel.width, height)
            left += panel.width
        top += height
    if entries:
        _draw_legend(figure, entries, across)
    return figure


def _title(panel: Panel) -> list[str]:
    return textwrap.wrap(panel.title, round(10 * panel.width))


def _legend_columns(legend: Legend, width: float) -> tuple[Legend, int]:
    longest = max((len(label) for label, _ in legend), default=0)
    return legend, max(1, min(len(legend), int(12 * width) // (longest + 8)))


def _draw_legend(figure: "MatplotlibFigure", legend: Legend, columns: int) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=plain(label), **style.line(gid=None)) for label, style in legend]
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 3.4, "borderaxespad": 0.4}
    figure.legend(handles=lines, loc="lower center", ncols=columns, **look)


def write(plot: Plot, folder: Path) -> list[Path]:
    """Write a figure's PNG and SVG; the SVG fills the width of the page that shows it.

    MLflow's pages give an image no width, so that a wide one would push its neighbours out of the window.
    """
    made = compose(plot)
    picture, scalable = save(made, folder / f"{plot.name}.png"), folder / f"{plot.name}.svg"
    files.write(scalable, SIZE.sub(' width="100%"', _svg(made), count=1))
    return [picture, scalable]


def save(figure: "MatplotlibFigure", path: Path, dpi: int = 150) -> Path:
    """Write a figure as a PNG; a reader sees the earlier picture or this one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture := io.BytesIO(), dpi=dpi, format="png")
    files.write(path, picture.getbuffer())
    return path


def drawn(panel: Panel) -> "Axes":
    """A panel alone, in a figure of its size."""
    axes = new_axes(figure := blank(panel.width, panel.height))
    panel.draw(axes)
    fit(axes, 0, 0, *figure.get_size_inches())
    return axes


def inline(panel: Panel) -> Markup:
    """A panel as an inline `<svg>` of the page; one that has values says where and on which scale its axes are."""
    axes = drawn(panel)
    figure = figure_of(axes)
    scales: dict[str, str] = {}
    if panel.has_values:
        width, height = (72 * size for size in figure.get_size_inches())
        box = axes.get_position()
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        across = [width * box.x0, width * box.x1, x0, x1, axes.get_xscale()]
        up = [height * (1 - box.y0), height * (1 - box.y1), y0, y1, axes.get_yscale()]
        for name, numbers, label in (("x", across, axes.get_xlabel()), ("y", up, axes.get_ylabel())):
            scales[f"data-{name}"] = " ".join(f"{n:.7g}" if isinstance(n, float) else str(n) for n in numbers)
            scales[f"data-{name}-name"] = label.partition(" (optimizer")[0]
    return themed(_svg(figure), panel.name, panel.words, scales)


def _svg(figure: "MatplotlibFigure") -> str:
    """The figure as SVG, its text as text; the same figure always gives the same SVG."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onecycle_sweeps"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return PART_OF.sub(r'data-series="\1"', LINE_OF.sub(r'class="line" data-series="\1"', text.getvalue()))


def themed(svg: str, name: str, words: str, attributes: dict[str, str] | None = None) -> Markup:
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
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": words, "class": "drawn"} | (attributes or {}))
    # ElementTree has escaped all text and attributes.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


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
    return COLOUR.sub(lambda found: CSS[found[0]], value)
