"""Where MLflow's UI shows a sweep, and how to start that UI for a store without a server."""

import os
import sys
from urllib.parse import quote

from onecycle_sweeps.credentials import whole
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import ledger, view
from onecycle_sweeps.tracking.store import address, database_file, is_server

PORT = 5000


def overlay_link(sweep: Sweep, port: int = PORT) -> str:
    """The page that overlays the curves of this sweep's trainings, or of its range tests where it has no other.

    While nothing has arrived it is the page of all experiments.
    """
    store = address(sweep.tracking_uri)
    host = store.rstrip("/") if is_server(sweep.tracking_uri) else f"http://127.0.0.1:{port}"
    book = ledger.load(sweep)
    if book.experiment is None:
        return f"{host}/#/experiments"
    page = f"{host}/#/experiments/{book.experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    if book.view:
        return f"{page}&viewStateShareKey={book.token}"
    return f"{page}&searchFilter={quote(view.query(sweep, book.token))}"


def ui_command(uri: str, port: int = PORT) -> list[str]:
    """The command that serves MLflow's UI on this machine alone, to be run with `ui_environment`.

    Raises ValueError where the store is a server, which has a UI.
    """
    if is_server(uri):
        raise ValueError(f"{address(uri)} is an MLflow server, which shows its UI itself: open that address")
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def ui_environment(uri: str) -> dict[str, str]:
    """This process's environment with what `ui_command` needs: a URI may hold a password, so it is no argument."""
    needed = {
        "MLFLOW_BACKEND_STORE_URI": whole(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    file = database_file(uri)
    root = {"MLFLOW_ARTIFACTS_DESTINATION": str(file.with_name("mlruns"))} if file else {}
    return {**os.environ, **needed, **root}
