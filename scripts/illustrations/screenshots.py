"""Screenshots of a sweep's report and of MLflow's page, in the system's Chromium."""

import io
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from onecycle_sweeps import tracking
from onecycle_sweeps.sweep import Sweep

# Of a palette; a page has few colours, and a picture of them all would be three times the size.
COLOURS = 256
SECONDS = 60
# Buttons of MLflow's page that close what stands beside its charts.
BESIDE_THE_CHARTS = ("mlflow.experiment_page.shared_view.dismiss", "mlflow.assistant.chat_panel.close")
# In pixels: of a page, and around what is cut out of it.
WIDTH, MARGIN = 1100, 12


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window; raises FileNotFoundError where it is not installed."""
    if not (path := shutil.which("chromium")):
        raise FileNotFoundError("no chromium on the PATH: apt-get install chromium")
    with sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def save(png: bytes, path: Path, colours: int = COLOURS) -> None:
    """Write a screenshot with a palette."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def report(found: Browser, page: Path, folder: Path, pictures: Mapping[str, Sequence[str]]) -> None:
    """Each picture of a report, by its name: from the top of its first selector's element to the end of its last."""
    shown = found.new_page(viewport={"width": WIDTH, "height": 900})
    shown.goto(page.as_uri())
    for name, selectors in pictures.items():
        boxes: list[Any] = [shown.locator(selector).first.bounding_box() for selector in selectors]
        top = max(boxes[0]["y"] - MARGIN, 0)
        end = boxes[-1]["y"] + boxes[-1]["height"] + MARGIN
        cut: Any = {"x": 0, "y": top, "width": WIDTH, "height": end - top}
        save(shown.screenshot(full_page=True, clip=cut), folder / f"{name}.png")
    shown.close()


def mlflow(found: Browser, sweep: Sweep, path: Path) -> None:
    """What the link at a sweep's end opens: MLflow's page with the sweep's curves over each other."""
    port = _free_port()
    command = tracking.ui_command(sweep.tracking_uri, port)
    server = subprocess.Popen(command, env=tracking.ui_environment(sweep.tracking_uri), cwd=sweep.cwd)
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        shown = found.new_page(viewport={"width": 1400, "height": 950})
        shown.goto(tracking.overlay_link(sweep, port))
        card: Any = shown.locator("[data-testid=experiment-view-compare-runs-card]", has_text="schedule/lr")
        card.first.wait_for(timeout=1000 * SECONDS)
        shown.locator("svg .scatterlayer path").first.wait_for(state="attached", timeout=1000 * SECONDS)
        for name in BESIDE_THE_CHARTS:
            if (button := shown.locator(f"[data-component-id='{name}']")).count():
                button.first.click()
        # The other charts are drawn one after the other.
        shown.wait_for_timeout(6000)
        save(shown.screenshot(), path)
    finally:
        server.terminate()
        server.wait()


def _wait(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
