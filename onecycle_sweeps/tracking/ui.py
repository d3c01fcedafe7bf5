"""Where MLflow's UI shows a sweep: the link that overlays its curves, and the command that serves a local store's UI.

This is the one file that relies on what MLflow does not document: how its page keeps a shared view of the charts (what
its button `Share` makes: the page's state, deflated, as a tag of the experiment), and where it fetches artifacts.
The format was tested in a browser with MLflow 3.12 and 3.17. With a version before or after these the link opens the
page of the sweep's own run, or for a single trial its run among MLflow's own choice of charts.
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from onecycle_sweeps.credentials import address, with_secrets
from onecycle_sweeps.journal import LR, MOMENTUM, SMOOTHED_LOSS, TRAIN_LOSS
from onecycle_sweeps.measures import Measure, recorded
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.store import database_file, is_server

PORT = 5000
# The first and the last version of MLflow whose page is known to read the view.
TESTED = (3, 12), (3, 17)
VIEW_TAG = "mlflow.sharedViewState"
# What varies in a sweep is a param of its runs, but for the choices of groups, which are tags.
TAGGED = ("policy", "data", "model")
# What MLflow 3.12 does not fill in where a shared view lacks it.
EMPTY_STATE: Mapping[str, Any] = {
    **{"runsExpanded": {}, "runsPinned": [], "runsHidden": [], "runsVisibilityMap": {}, "groupsExpanded": {}},
    **{"viewMaximized": False, "runListHidden": False, "hideEmptyCharts": True, "autoRefreshEnabled": True},
    "useGroupedValuesInCharts": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}
COLUMNS, CARD_HEIGHT = 2, 400


def overlay_link(sweep: Sweep, port: int = PORT) -> str:
    """The page that overlays the curves of the sweep's trainings, or of its range tests where it has no training.

    Before anything has arrived it is the page of all experiments.
    """
    server = address(sweep.ui_uri or sweep.tracking_uri).rstrip("/")
    host = server if is_server(sweep.tracking_uri) else f"http://127.0.0.1:{port}"
    known = ledger.load(sweep)
    if known.experiment is None:
        return f"{host}/#/experiments"
    return f"{host}/{overlay_page(sweep)}"


def overlay_page(sweep: Sweep) -> str:
    """The same page by its address relative to any page of MLflow."""
    known = ledger.load(sweep)
    page = f"#/experiments/{known.experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    if known.view and _reads_shared_views():
        return f"{page}&viewStateShareKey={known.token}"
    if known.parent:
        # A search shows a sweep's runs folded up below their parent, and no curve.
        return run_page(sweep, known.parent)
    return f"{page}&searchFilter={quote(_search(sweep, known.token))}"


def ui_command(uri: str, port: int = PORT) -> list[str]:
    """The command that serves MLflow's UI to this machine only, to be run with `ui_environment`.

    Raises ValueError where the store is a server, which has a UI.
    """
    if is_server(uri):
        raise ValueError(f"{address(uri)} is an MLflow server and has its own UI: open that address")
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *place, "--uvicorn-opts", "--log-level warning"]


def ui_environment(uri: str) -> dict[str, str]:
    """This process's environment with what `ui_command` needs: a URI may have a password, so it is no argument."""
    needed = {
        "MLFLOW_BACKEND_STORE_URI": with_secrets(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Warnings of its libraries about their own code would hide the link.
        "PYTHONWARNINGS": "ignore",
    }
    file = database_file(uri)
    artifacts = {"MLFLOW_ARTIFACTS_DESTINATION": str(file.with_name("mlruns"))} if file else {}
    return {**os.environ, **needed, **artifacts}


def figure(run_id: str, name: str) -> str:
    """Markdown for a figure among the report's artifacts, by the address from which MLflow's pages fetch artifacts."""
    return f"\n![{name.partition('.')[0]}](get-artifact?path=report/{name}&run_uuid={run_id})\n"


def view_tag(token: str) -> str:
    """The name of the experiment's tag that holds a sweep's view."""
    return f"{VIEW_TAG}.{token}"


def view(sweep: Sweep, token: str, measured: Sequence[Measure]) -> str:
    """The value of that tag: the page's state, with all trainings of this sweep visible, or all its range tests.

    `measured` is what its trials are measured by, headline first; empty before one has begun.
    """
    if _kind_shown(sweep) == TRAIN:
        names = [*(measure.val for measure in recorded(measured)), TRAIN_LOSS, *(one.train for one in measured[:1])]
        curves, bars = (LR, MOMENTUM, *dict.fromkeys(names)), [headline.final_val for headline in measured[:1]]
    else:
        curves, bars = (LR, TRAIN_LOSS, SMOOTHED_LOSS), ()
    charts = [_chart(key, "LINE") for key in curves] + [_chart(key, "BAR") for key in bars]
    keys = _grouping(sweep)
    state = {
        "searchFilter": _search(sweep, token),
        **EMPTY_STATE,
        "selectedColumns": ["tags.`status`", "params.`max_lr`", *(f"metrics.`{key}`" for key in bars)],
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "orderByKey": "params.`max_lr`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [_section(name) for name in dict.fromkeys(chart["metricSectionId"] for chart in charts)],
        "isAccordionReordered": True,
    }
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()}"


def _reads_shared_views() -> bool:
    """Whether the installed MLflow is one whose page is known to read the view."""
    first, last = TESTED
    return first <= tuple(int(part) for part in version("mlflow").split(".")[:2]) <= last


def _grouping(sweep: Sweep) -> list[dict[str, str]]:
    """By which tags and params the trainings are grouped, so that a line stands for all seeds; empty for one seed."""
    trained = [entry for entry in sweep.trials if entry.kind == TRAIN]
    if len({entry.group for entry in trained}) == len(trained):
        return []
    keys = ["policy", *(key for entry in trained for key, _ in entry.group)]
    return [{"mode": "tag" if key in TAGGED else "param", "groupByData": key} for key in dict.fromkeys(keys)]


def run_page(sweep: Sweep, run_id: str) -> str:
    """The address of a run's page, relative to any page of MLflow, in the mode for trainings."""
    return f"#/experiments/{ledger.load(sweep).experiment}/runs/{run_id}?workflowType=machine_learning"


def _kind_shown(sweep: Sweep) -> str:
    return TRAIN if any(entry.kind == TRAIN for entry in sweep.trials) else RANGE_TEST


def _search(sweep: Sweep, token: str) -> str:
    """MLflow's search for the runs that are shown."""
    return f"tags.ledger = '{token}' and tags.kind = '{_kind_shown(sweep)}'"


def _chart(key: str, kind: str) -> dict[str, Any]:
    section, _, name = key.partition("/")
    shared = {"uuid": key, "type": kind, "metricSectionId": section, "metricKey": key, "displayName": name}
    axes = {"xAxisKey": "step", "yAxisKey": "metric", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    line = {**axes, "lineSmoothness": 0, "selectedXAxisMetricKey": "", "yAxisExpressions": [], "ignoreOutliers": False}
    return {**shared, "deleted": False, "isGenerated": True, **(line if kind == "LINE" else {})}


def _section(name: str) -> dict[str, Any]:
    layout = {"display": True, "columns": COLUMNS, "cardHeight": CARD_HEIGHT}
    return {"uuid": name, "name": name, **layout, "isReordered": True, "deleted": False, "isGenerated": True}
