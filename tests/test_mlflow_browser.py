"""What MLflow's own pages show of a sweep, in a real browser, with the installed version of MLflow."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import recorded
from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.tracking import ledger
from test_cli import unused_port
from tracking_server import mlflow_server

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
POLICIES = ("constant", "step", "clr", "onecycle")
ANSWER = "On digits with lenet, onecycle reached 90.05 %."
CARD = "[data-testid=experiment-view-compare-runs-card]"
SECONDS = 60_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Four policies with three seeds, all of which have finished and are in a store."""
    folder = tmp_path_factory.mktemp("pages")
    entries = [Entry(f"{p}{s}", TRAIN, {"policy": p, "seed": str(s)}) for s in range(3) for p in POLICIES]
    choices = {"data": "digits", "model": "lenet"}
    made = recorded.sweep(folder, *entries, uri=f"sqlite:///{folder}/mlflow.db", choices=choices)
    for shift, entry in enumerate(entries):
        recorded.attempt(made.trial(entry.signature), 0, 20, shift=shift / 100)
        recorded.finish(made.trial(entry.signature), metrics={"final/val_accuracy": 0.9})
    assert tracking.deliver(made, [], f"{ANSWER}\n\nthe table", {"winner": "onecycle"}) is None
    return made


@pytest.fixture(scope="module")
def port(made: Sweep) -> Iterator[int]:
    with mlflow_server(made.tracking_uri, port := unused_port()):
        yield port


@pytest.fixture(scope="module")
def page(port: int) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context(viewport={"width": 1800, "height": 1000}).new_page()
        browser.close()


def test_the_link_shows_a_line_for_each_policy_and_not_for_each_run(made: Sweep, port: int, page: Any):
    page.goto(tracking.overlay_link(made, port))
    card = page.locator(CARD, has_text="schedule/lr")
    card.wait_for(timeout=SECONDS)
    legend = card.get_by_text("(schedule/lr)")
    legend.nth(len(POLICIES) - 1).wait_for(timeout=SECONDS)
    page.get_by_text("12 matching runs").wait_for(timeout=SECONDS)
    assert sorted(text.split()[0] for text in legend.all_inner_texts()) == sorted(POLICIES)
    assert page.get_by_text("Something went wrong").count() == 0


def test_the_page_of_a_sweep_begins_with_its_answer_and_its_links_stay_in_the_mode_for_trainings(
    made: Sweep, port: int, page: Any
):
    known = ledger.load(made)
    mode = "workflowType=machine_learning"
    page.goto(f"http://127.0.0.1:{port}/#/experiments/{known.experiment}/runs/{known.parent}?{mode}")
    page.get_by_text(ANSWER).wait_for(timeout=SECONDS)
    page.get_by_role("heading", name="digits, lenet: 4 policies x 3 seeds").wait_for(timeout=SECONDS)
    # MLflow has a list of child runs of its own, whose links do not name the mode.
    link = page.locator(f'a[href*="{mode}"]', has_text="onecycle max_lr=0.8 seed=2").first
    link.wait_for(timeout=SECONDS)
