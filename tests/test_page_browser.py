"""report.html in a real browser: wide and narrow, light and dark, and on paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps import report
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
        # Root, as in a container, has no sandbox.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module", params=["few", "many"])
def page_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of two groups, or of many with names that are long."""
    folder = tmp_path_factory.mktemp(request.param)
    made = few(folder) if request.param == "few" else many(folder)
    return report.write(report.compare(made))[0]


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


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off_or_fetched_and_the_console_has_no_error(
    browser: Any, page_path: Path, width: int, scheme: str
) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_path.as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [page_path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate(CLIPPED) == []


@pytest.mark.slow
@pytest.mark.parametrize("medium", ["screen", "print"])
def test_figures_follow_the_dark_scheme_and_are_light_on_paper(browser: Any, page_path: Path, medium: str) -> None:
    with browser.new_context(color_scheme="dark") as context:
        page = context.new_page()
        page.goto(page_path.as_uri())
        page.emulate_media(media=medium)
        colours = {name: sum(map(int, value[4:-1].split(", "))) for name, value in page.evaluate(COLOURS).items()}
        dark = colours["paper"] < 150 and colours["ink"] > 600
        light = colours["paper"] == 3 * 255 and colours["ink"] == 0
        assert (dark, light) == ((True, False) if medium == "screen" else (False, True))


@pytest.mark.slow
def test_no_table_is_cut_off_on_paper(browser: Any, page_path: Path) -> None:
    with browser.new_context(viewport={"width": 680, "height": 1000}) as context:
        page = context.new_page()
        page.goto(page_path.as_uri())
        page.emulate_media(media="print")
        tables = "[...document.querySelectorAll('table')].map(table => table.getBoundingClientRect().right)"
        assert all(right <= 681 for right in page.evaluate(tables))
