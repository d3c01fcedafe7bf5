"""What MLflow's UI shows of a sweep at first sight: a view of its charts that an experiment's tag shares by a link.

By itself the UI hides all but ten runs, and begins with bars of the last metrics. A shared view is what its own button
`Share` makes: the state of the page, deflated.
"""

import base64
import json
import zlib
from typing import Any

from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Sweep

TAG = "mlflow.sharedViewState"
CURVES = {
    TRAIN: ("schedule/lr", "schedule/momentum", "val/accuracy", "val/loss", "train/loss", "train/accuracy"),
    RANGE_TEST: ("schedule/lr", "train/loss", "range/loss_smoothed"),
}
BARS = {TRAIN: ("final/val_accuracy",), RANGE_TEST: ()}
COLUMNS, CARD_HEIGHT = 2, 400


def key(token: str) -> str:
    """The name of the experiment's tag that holds a sweep's view."""
    return f"{TAG}.{token}"


def tag(sweep: Sweep, token: str) -> tuple[str, str]:
    """The experiment's tag that the link of a sweep names, with what it holds."""
    packed = zlib.compress(json.dumps(state(sweep, token)).encode(), 9)
    return key(token), f"deflate;{base64.b64encode(packed).decode()}"


def state(sweep: Sweep, token: str) -> dict[str, Any]:
    """The page's state: this sweep's trainings alone, or its range tests where it has no other, all of them."""
    kind = kind_shown(sweep)
    charts = [_chart(key, "LINE") for key in CURVES[kind]] + [_chart(key, "BAR") for key in BARS[kind]]
    return {
        "searchFilter": query(sweep, token),
        "orderByKey": "params.`max_lr`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [_section(name) for name in dict.fromkeys(one["metricSectionId"] for one in charts)],
        "isAccordionReordered": True,
    }


def kind_shown(sweep: Sweep) -> str:
    """The kind of trial that is shown."""
    return TRAIN if any(entry.kind == TRAIN for entry in sweep.trials) else RANGE_TEST


def query(sweep: Sweep, token: str) -> str:
    """MLflow's search for the runs that are shown."""
    return f"tags.ledger = '{token}' and tags.kind = '{kind_shown(sweep)}'"


def _chart(key: str, kind: str) -> dict[str, Any]:
    section, _, name = key.partition("/")
    shared = {"uuid": key, "type": kind, "metricSectionId": section, "metricKey": key, "displayName": name}
    axes = {"xAxisKey": "step", "yAxisKey": "metric", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    line = {**axes, "lineSmoothness": 0, "selectedXAxisMetricKey": "", "yAxisExpressions": [], "ignoreOutliers": False}
    return {**shared, "deleted": False, "isGenerated": True, **(line if kind == "LINE" else {})}


def _section(name: str) -> dict[str, Any]:
    looks = {"display": True, "columns": COLUMNS, "cardHeight": CARD_HEIGHT}
    return {"uuid": name, "name": name, **looks, "isReordered": True, "deleted": False, "isGenerated": True}
