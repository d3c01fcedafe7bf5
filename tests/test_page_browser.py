"""report.html in a real browser: wide and narrow, light and dark, on paper, and what its script does."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hand_made
from hand_made import entry, range_test_entry, training
from kinds_of_sweeps import KINDS
from onecycle_sweeps.sweep import Sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RATES = {"minimum": 0.2, "steepest": 0.1, "valley": 0.01, "slide": 0.1, "max_lr": 0.2}
FALLING = [(10 ** (i / 20 - 4), 2.3 - i / 60 + (i % 3) / 20, 2.3 - i / 60) for i in range(100)]
# What of a page stands beyond the window and in no container that scrolls.
CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(element =>
    !element.closest('svg') && !element.closest('.wide') && element.getBoundingClientRect().right > innerWidth + 1
).map(element => element.outerHTML.slice(0, 100))"""
# Texts of a figure that its own frame cuts off.
CLIPPED = """() => [...document.querySelectorAll('svg.drawn text')].filter(text => {
    const frame = text.closest('svg').getBoundingClientRect(), box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
        box.bottom > frame.bottom + 1;
}).map(text => text.textContent)"""
# Texts of a figure that lie over each other.
OVERLAPPING = """() => [...document.querySelectorAll('svg.drawn')].flatMap(drawing => {
    const boxes = [...drawing.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], i) => boxes.slice(0, i).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.2 * Math.min(a.height, b.height)
    ).map(([other]) => [one, other]));
})"""
# Numbers of a name and short words of a heading that break in their midst.
BROKEN = """() => {
    const lines = range => new Set([...range.getClientRects()].filter(box => box.width).map(box => box.top)).size;
    const found = [...document.querySelectorAll('.number')].map(number => {
        const range = document.createRange();
        range.selectNodeContents(number);
        return range;
    });
    for (const text of [...document.querySelectorAll('thead th')].map(head => head.firstChild)) {
        if (text?.nodeType !== Node.TEXT_NODE) continue;
        for (const word of text.data.matchAll(/\\S+/g)) {
            if (word[0].length > 12) continue;
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            found.push(range);
        }
    }
    return found.filter(range => lines(range) > 1).map(String);
}"""
COLOURS = """() => ({
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector('svg.drawn text')).fill,
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no sandbox; without a GPU, Chromium would emulate one.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Any]:
    with browser.new_context() as found:
        yield found


@pytest.fixture
def tab(window: Any) -> Iterator[Any]:
    """An empty page of the window, which all tests share, since a window takes a second to open."""
    found = window.new_page()
    yield found
    found.close()


@pytest.fixture(scope="module", params=["few", "many"])
def page_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of two groups, or of many with names that are long."""
    folder = tmp_path_factory.mktemp(request.param)
    made = few(folder) if request.param == "few" else many(folder)
    return hand_made.page(made)


def few(folder: Path) -> Sweep:
    made = hand_made.sweep(folder, range_test_entry(), entry("a", "onecycle", 0), entry("b", "clr", 0))
    hand_made.range_test(made.trial("range"), FALLING, suggestions=RATES)
    training(made.trial("a"), accuracy={1: 0.5, 4: 0.9}, loss={1: 2.0, 4: 0.1})
    training(made.trial("b"), status="diverged", cause="the loss is nan" * 20, accuracy={1: 0.3}, loss={1: 3.0})
    return made


def many(folder: Path) -> Sweep:
    keys = [{"optimizer.weight_decay": f"{i}e-5", "data.root": "/a/long/path" * i} for i in range(1, 26)]
    trainings = [entry(f"t{i}", "onecycle_smith", 0, varies) for i, varies in enumerate(keys)]
    tests = [type(trainings[0])(f"r{i}", "range_test", varies) for i, varies in enumerate(keys[:5])]
    made = hand_made.sweep(folder, *tests, *trainings)
    for i, one in enumerate(tests):
        hand_made.range_test(made.trial(one.signature), FALLING, suggestions=RATES | {"max_lr": 10.0 ** (i / 2 - 2)})
    for i, one in enumerate(trainings):
        training(made.trial(one.signature), accuracy={1: 0.5, 4: 0.7 + i / 100}, loss={1: 2.0, 4: 0.1})
    return made


def said_by(page: Any) -> list[str]:
    """What appears on the console of a page."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_or_fetched_and_the_console_has_no_error(tab: Any, page_path: Path, scheme: str) -> None:
    said, asked = said_by(tab), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.emulate_media(color_scheme=scheme)
    for width in (1280, 400):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.goto(page_path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(CUT_OFF) == []
        assert tab.evaluate(CLIPPED) == []
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {page_path.as_uri()}


@pytest.mark.slow
def test_figures_follow_the_dark_scheme_and_are_light_on_paper(tab: Any, page_path: Path) -> None:
    tab.goto(page_path.as_uri())
    for medium, expected in (("screen", (True, False)), ("print", (False, True))):
        tab.emulate_media(media=medium, color_scheme="dark")
        colours = {name: sum(map(int, value[4:-1].split(", "))) for name, value in tab.evaluate(COLOURS).items()}
        dark = colours["paper"] < 150 and colours["ink"] > 600
        light = colours["paper"] == 3 * 255 and colours["ink"] == 0
        assert (dark, light) == expected


@pytest.mark.slow
def test_the_faintest_line_is_seen_in_the_dark(tab: Any, tmp_path: Path) -> None:
    def luminance(colour: str) -> float:
        """By WCAG, of `rgb(1, 2, 3)` or `color(srgb 0.1 0.2 0.3)`."""
        scale = 1 if colour.startswith("color") else 255
        parts = [float(part) / scale for part in re.findall(r"[\d.]+", colour.replace("srgb", ""))[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    tab.emulate_media(color_scheme="dark")
    tab.goto(hand_made.page(KINDS["rates"](tmp_path)).as_uri())
    paper = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    shades = "[...document.querySelectorAll('.drawn [style*=color-mix]')].map(one => getComputedStyle(one).stroke)"
    strokes = {stroke for stroke in tab.evaluate(shades) if stroke != "none"}
    assert len(strokes) >= 4
    assert min((luminance(stroke) + 0.05) / (paper + 0.05) for stroke in strokes) > 2


@pytest.mark.slow
def test_no_table_is_cut_off_on_paper(tab: Any, page_path: Path) -> None:
    tab.set_viewport_size({"width": 680, "height": 1000})
    tab.goto(page_path.as_uri())
    tab.emulate_media(media="print")
    tables = "[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)"
    assert all(right <= 681 for right in tab.evaluate(tables))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_each_kind_of_sweep_is_whole_wide_and_narrow(tab: Any, kind: str, tmp_path: Path) -> None:
    path, said = hand_made.page(KINDS[kind](tmp_path)), said_by(tab)
    for width in (1280, 400):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert [tab.evaluate(found) for found in (CUT_OFF, CLIPPED, OVERLAPPING, BROKEN)] == [[], [], [], []]
    tab.set_viewport_size({"width": 680, "height": 1000})
    tab.emulate_media(media="print")
    assert tab.evaluate(BROKEN) == []
    assert said == []


@pytest.mark.slow
def test_a_stability_map_of_four_momenta_needs_no_scrolling(tab: Any, tmp_path: Path) -> None:
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.goto(hand_made.page(KINDS["stability map"](tmp_path)).as_uri())
    assert tab.locator(".wide:has(table.map)").count() == 2
    assert tab.locator(".scrolls:has(table.map)").count() == 0


@pytest.fixture(scope="module")
def default_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made.page(KINDS["default"](tmp_path_factory.mktemp("default")))


@pytest.fixture
def opened(tab: Any, default_page: Path) -> Iterator[Any]:
    """The page of four policies, opened; a message on the console fails the test."""
    said = said_by(tab)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(default_page.as_uri())
    yield tab
    assert said == []


def column(page: Any, place: int) -> list[str]:
    """A column of the page's first table, from the top."""
    return page.evaluate(
        "place => [...document.querySelector('table').tBodies[0].rows].map(row => row.cells[place].innerText.trim())",
        place,
    )


@pytest.mark.slow
def test_the_answer_the_rate_and_the_evidence_are_on_the_first_screen(opened: Any) -> None:
    def bottom(selector: str) -> float:
        return opened.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().bottom")

    assert all(bottom(selector) < 900 for selector in (".verdict", ".rates", "table", "figure svg"))
    assert "onecycle reached" in opened.inner_text(".verdict") and "max_lr=0.3" in opened.inner_text(".rates")


@pytest.mark.slow
def test_a_click_on_the_legend_hides_a_line_and_shows_it_again(opened: Any) -> None:
    entry = opened.locator(".legend li", has_text="onecycle").first
    series = entry.get_attribute("data-series")
    line = opened.locator(f"figure:has(.legend) svg .line[data-series='{series}']").first
    assert line.is_visible()
    entry.click()
    assert not line.is_visible() and entry.get_attribute("aria-checked") == "false"
    opened.emulate_media(media="print")
    assert line.is_visible()
    opened.emulate_media(media="screen")
    entry.press("Enter")
    assert line.is_visible()


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_by_its_column(opened: Any) -> None:
    before = column(opened, 0)
    heading = opened.locator("table").first.locator("th", has_text="final val")
    place = heading.evaluate("head => head.cellIndex")
    for order in (1, -1):
        heading.locator("[role=button]").click()
        values = [float(value.split()[0]) for value in column(opened, place) if value]
        assert values == sorted(values, reverse=order == 1)
    assert sorted(column(opened, 0)) == sorted(before) and column(opened, 0) != before


@pytest.mark.slow
def test_the_pointer_on_a_curve_shows_the_values_of_all_lines_there(opened: Any) -> None:
    drawing = opened.locator("svg[data-x-name=step]").first
    drawing.scroll_into_view_if_needed()
    # The last evaluation of four epochs of ten steps, on the right end of the curves.
    from_, to, low, high = map(float, drawing.get_attribute("data-x").split()[:4])
    box, view = drawing.bounding_box(), drawing.evaluate("one => one.viewBox.baseVal.width")
    across = from_ + (39 - low) / (high - low) * (to - from_)
    opened.mouse.move(box["x"] + across * box["width"] / view, box["y"] + box["height"] / 2)
    lines = opened.locator(".tip").inner_text().splitlines()
    assert lines[0] == "step 39"
    final = {line.split(": ")[0].strip(): float(line.split(": ")[1]) for line in lines[1:]}
    table = dict(zip(column(opened, 0), column(opened, 3), strict=True))
    assert final.keys() == {"constant", "step", "clr", "onecycle"}
    assert final == pytest.approx({name: float(table[name].split()[0]) for name in final}, abs=0.02)


@pytest.mark.slow
def test_a_table_is_copied_as_latex_and_as_markdown(opened: Any) -> None:
    opened.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")
    opened.get_by_role("button", name="Copy as LaTeX").first.click()
    latex = opened.evaluate("window.copied")
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert r"\begin{tabular}{l" in latex and latex.count(r"\pm") >= 4 and "max\\_lr" in latex
    assert len(rows) == 1 + len(column(opened, 0)) and len({row.count(" & ") for row in rows}) == 1
    opened.get_by_role("button", name="Copy as Markdown").first.click()
    table = [line for line in opened.evaluate("window.copied").splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(column(opened, 0)) and table[1].startswith("| --- | ---: |")


@pytest.mark.slow
def test_the_page_is_printed_whole_with_page_numbers(opened: Any, tmp_path: Path) -> None:
    opened.pdf(path=(path := tmp_path / "page.pdf"), format="A4")
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 20_000
    opened.emulate_media(media="print")
    folded = opened.locator("details:not([open])")
    assert folded.count() > 3
    assert all(folded.nth(i).locator("dl, table, ul").first.is_visible() for i in range(folded.count()))


@pytest.mark.slow
def test_without_its_script_the_page_has_all_but_the_conveniences(browser: Any, default_page: Path) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(default_page.as_uri())
        assert page.locator("table").first.is_visible() and page.locator("svg.drawn").first.is_visible()
        assert page.get_by_role("button", name="Copy as LaTeX").count() == 0


@pytest.mark.slow
def test_the_page_of_the_comparison_is_small(default_page: Path) -> None:
    assert default_page.stat().st_size < 400_000
