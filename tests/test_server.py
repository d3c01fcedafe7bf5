"""Sweeps on a real tracking server with a login: what its pages show, and that secrets are not leaked."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import program
from onecycle_sweeps import credentials, tracking
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.store import connected
from tracking_server import PUBLIC_NAME, ROOT, Server

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# More runs than the ten that MLflow's charts show by themselves.
TWELVE = ("-m", "policy=constant,onecycle", "max_lr=0.1,0.2,0.4", "seed=0,1", "epochs=1")
ANOTHER = ("policy=constant", "max_lr=0.3", "seed=0", "epochs=1")
TOKEN = "a-token-that-nobody-asked-for"
CARD = "[data-testid=experiment-view-compare-runs-card]"
SECONDS = 60_000


@dataclass(frozen=True)
class Swept:
    """Two sweeps of one experiment: the output of the first, and its processes with a secret in their arguments."""

    folder: Path
    whole: Sweep
    another: Sweep
    said: str
    overheard: set[str]


@pytest.fixture(scope="module")
def swept(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep with its password typed into tracking.uri, and one that has it from the environment."""
    folder = tmp_path_factory.mktemp("swept")
    said, overheard = overhear(server, folder, *TWELVE, f"tracking.uri={server.uri_with_login}", token=TOKEN)
    done = program.run(
        folder, *ANOTHER, f"tracking.uri={server.uri}", fresh=False, pictures=False, **server.environment
    )
    assert done.returncode == 0, done.stderr
    sweeps = {len(made.trials): made for made in map(sweep_at, (folder / "runs" / "sweeps").glob("*/"))}
    return Swept(folder, sweeps[12], sweeps[1], said, overheard)


def sweep_at(folder: Path) -> Sweep:
    return program.sweep_of(folder.parents[2], folder.name)


def overhear(server: Server, folder: Path, *words: str, token: str) -> tuple[str, set[str]]:
    """A command's output, and the ids of the processes from which other users of the machine could learn a secret."""
    command = [*program.MODULE, *words]
    environment = os.environ | {"MLFLOW_TRACKING_TOKEN": token}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        # The first thing the command does is to replace its own arguments.
        program.wait_until(
            lambda: str(process.pid) in holding(f"tracking.uri={server.uri}"), "the command to hide its password"
        )
        overheard: set[str] = set()
        while process.poll() is None:
            overheard |= holding(server.password) | holding(token)
            time.sleep(0.1)
        assert process.stdout
        said = process.stdout.read()
    assert process.returncode == 0, said
    return said, overheard


def holding(secret: str) -> set[str]:
    """The ids of the processes with a text in their arguments."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if secret.encode() in (path / "cmdline").read_bytes():
                found.add(path.name)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    """A browser page that knows the login and the server's public name."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Chromium has no sandbox for root, as in a container.
        names = f"--host-resolver-rules=MAP {PUBLIC_NAME} 127.0.0.1"
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", names])
        login = {"username": "admin", "password": server.password}
        context = browser.new_context(viewport={"width": 1400, "height": 950}, http_credentials=login)
        yield context.new_page()
        browser.close()


@pytest.fixture
def complaints(page: Any) -> list[str]:
    """The errors of the page, and its requests to other hosts.

    Chromium also reports it as an error when it needs more than one frame for the layout of MLflow's charts.
    """
    said: list[str] = []

    def complain(text: str) -> None:
        if "ResizeObserver loop" not in text:
            said.append(text)

    page.on("console", lambda message: message.type == "error" and complain(message.text))
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("response", lambda answer: answer.status >= 400 and said.append(f"{answer.status} {answer.url}"))
    page.on(
        "request",
        lambda asked: asked.url.startswith("http") and PUBLIC_NAME not in asked.url and said.append(asked.url),
    )
    return said


def public(server: Server, link: str) -> str:
    """A link with the public name, as a browser on another machine would open it."""
    return link.replace(f"127.0.0.1:{server.port}", f"{PUBLIC_NAME}:{server.port}")


def test_the_printed_link_overlays_the_learning_rates_of_this_sweeps_runs_only(
    server: Server, swept: Swept, page: Any, complaints: list[str]
):
    (link,) = re.findall(r"MLflow: (\S+)", swept.said)
    assert link == tracking.overlay_link(swept.whole)
    page.goto(public(server, link))
    card = page.locator(CARD, has_text="schedule/lr")
    card.wait_for(timeout=SECONDS)
    legend = card.get_by_text("(schedule/lr)")
    legend.nth(5).wait_for(timeout=SECONDS)
    # One line stands for both seeds.
    lines = sorted(text.removesuffix(" (schedule/lr)") for text in legend.all_inner_texts())
    assert lines == [f"policy: {one}, max_lr: {rate}" for one in ("constant", "onecycle") for rate in (0.1, 0.2, 0.4)]
    sections = page.locator("[data-testid=experiment-view-compare-runs-section-header]").all_inner_texts()
    assert [text.split()[0] for text in sections][:3] == ["schedule", "val", "train"]
    # It is visible without scrolling.
    box = card.bounding_box()
    assert box["y"] + box["height"] <= 950
    if pictures := os.environ.get("PICTURES"):
        page.screenshot(path=Path(pictures) / "mlflow.png")
    assert complaints == []


def test_the_page_of_a_sweep_has_its_table_figures_and_report(
    server: Server, swept: Swept, page: Any, complaints: list[str]
):
    known = ledger.load(swept.whole)
    base = public(server, f"{server.uri}/#/experiments/{known.experiment}/runs/{known.parent}")
    page.goto(base)
    page.get_by_text("Mean ± standard deviation").wait_for(timeout=SECONDS)
    page.wait_for_function("() => document.images.length && [...document.images].every(image => image.complete)")
    images = page.evaluate("[...document.images].map(i => [i.src, i.width, i.getBoundingClientRect().right])")
    shown = [re.findall("path=report/([^&]*)", address)[0] for address, _, _ in images]
    assert {"trajectories.svg", "val_accuracy.svg"} <= set(shown)
    assert min(width for _, width, _ in images) > 400
    assert max(right for _, _, right in images) < page.viewport_size["width"]
    page.goto(f"{base}/artifacts")
    page.get_by_text("report", exact=True).first.click(timeout=SECONDS)
    page.get_by_text("report.html", exact=True).first.click(timeout=SECONDS)
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Learning-rate policies: constant, onecycle").wait_for(timeout=SECONDS)
    assert report.locator("svg.drawn").count() > 0
    assert complaints == []


def test_no_file_database_row_output_or_argument_contains_a_secret(server: Server, swept: Swept):
    kept = [
        path for place in (swept.folder, server.folder / "artifacts", server.folder / "log") for path in files(place)
    ]
    assert {"sweep.json", "config.yaml", "multirun.yaml", "shipper.log", "mlflow.log", "report.html"} <= {
        path.name for path in kept
    }
    for secret in (server.password, TOKEN):
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []
        assert secret not in server.dump()
        assert secret not in swept.said
    assert swept.overheard == set()
    assert f"tracking.uri={server.uri}" in swept.whole.command


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_wrong_password_is_reported_in_one_line_without_it(server: Server, swept: Swept):
    wrong = "another-password"
    done = program.run(swept.folder, "sync", f"tracking.uri=http://admin:{wrong}@127.0.0.1:{server.port}")
    assert done.returncode == 2
    assert "401" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert wrong not in done.stdout + done.stderr


def test_later_verbs_read_the_login_from_the_environment_or_mlflows_own_file(
    server: Server, swept: Swept, tmp_path: Path
):
    assert program.run(swept.folder, "sync", swept.whole.id, MLFLOW_TRACKING_URI=server.uri_with_login).returncode == 0
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {server.password}\n")
    done = program.run(swept.folder, "sync", swept.whole.id, HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_database_is_opened_with_the_password_in_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(credentials.VARIABLE, "")
    settings = server.settings()
    password = (server.folder / "secrets" / "postgres_password").read_text()
    uri = credentials.move_to_environment(f"postgresql://mlflow:{password}@127.0.0.1:{settings['PGPORT']}/mlflow")
    assert password not in uri
    with connected(uri) as client:
        assert client.search_experiments()


def health(server: Server, public_host: str) -> subprocess.CompletedProcess[str]:
    environment = {"PUBLIC_HOST": public_host, "MLFLOW_PORT": str(server.port)}
    script = str(ROOT / "docker" / "healthy.py")
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)


def test_the_health_check_notices_a_host_check_that_refuses_the_public_name(server: Server):
    assert health(server, f"{PUBLIC_NAME}:{server.port}").returncode == 0
    refused = health(server, "node17:5000")
    assert (refused.returncode, "403" in refused.stderr) == (1, True)


def test_the_health_check_notices_that_the_database_is_down_or_back(server: Server):
    server.kill("postgres")
    try:
        assert health(server, f"{PUBLIC_NAME}:{server.port}").returncode == 1
    finally:
        server.start("postgres")
    assert health(server, f"{PUBLIC_NAME}:{server.port}").returncode == 0
