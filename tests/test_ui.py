"""The link that overlays a sweep's curves in MLflow's UI, and the command that serves a local store's UI."""

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.sweep import TRAIN, Entry
from onecycle_sweeps.tracking import ledger, ui
from recorded import ask, range_test, sweep, training


@pytest.mark.parametrize(("entry", "kind"), [(training("a"), "train"), (range_test("a"), "range_test")])
def test_the_overlay_link_opens_a_view_of_this_sweep_only(tmp_path: Path, entry: Entry, kind: str):
    made = sweep(tmp_path, entry)
    assert tracking.overlay_link(made) == "http://127.0.0.1:5000/#/experiments"
    tracking.ship(made)
    page, _, query = urlsplit(tracking.overlay_link(made)).fragment.partition("?")
    token = ledger.load(made).token
    ((experiment,),) = ask(made, "SELECT experiment_id FROM experiments WHERE name = ?", made.experiment)
    assert page == f"/experiments/{experiment}/runs"
    assert parse_qs(query)["compareRunsMode"] == ["CHART"]
    assert parse_qs(query)["viewStateShareKey"] == [token]
    key = f"mlflow.sharedViewState.{token}"
    ((shared,),) = ask(made, "SELECT value FROM experiment_tags WHERE experiment_id = ? AND key = ?", experiment, key)
    state = json.loads(zlib.decompress(base64.b64decode(shared.removeprefix("deflate;"))))
    assert state["searchFilter"] == f"tags.ledger = '{token}' and tags.kind = '{kind}'"
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert state["compareRunCharts"][0]["metricKey"] == "schedule/lr"
    sections = [section["uuid"] for section in state["compareRunSections"]]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == set(sections)


def test_the_ui_is_served_on_loopback_and_its_uri_is_not_an_argument():
    uri = "postgresql://me:secret@host/db"
    command, environment = tracking.ui_command(uri, 5001), tracking.ui_environment(uri)
    assert "--host 127.0.0.1 --port 5001" in " ".join(command)
    assert "secret" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(ValueError, match="http://host is an MLflow server"):
        tracking.ui_command("http://me:secret@host")


@pytest.mark.parametrize("single", [False, True])
def test_where_mlflows_version_is_not_known_to_read_the_view_the_link_opens_the_sweeps_own_page_or_its_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: bool
):
    made = sweep(tmp_path, training("a"), single=single)
    tracking.ship(made)
    monkeypatch.setattr(ui, "version", lambda name: "3.99.0")
    page, _, query = urlsplit(tracking.overlay_link(made)).fragment.partition("?")
    known = ledger.load(made)
    assert "viewStateShareKey" not in query
    if single:
        assert parse_qs(query)["searchFilter"] == [f"tags.ledger = '{known.token}' and tags.kind = 'train'"]
    else:
        assert page == f"/experiments/{known.experiment}/runs/{known.parent}"


def test_the_view_has_a_chart_of_each_measure(tmp_path: Path):
    view = ui.view(sweep(tmp_path, training("a")), "token", [Measure("rmse", "min"), Measure("r2", "max")])
    charts = json.loads(zlib.decompress(base64.b64decode(view.removeprefix("deflate;"))))["compareRunCharts"]
    keys = [chart["metricKey"] for chart in charts]
    assert {"val/rmse", "train/rmse", "final/val_rmse", "val/r2", "val/loss"} < {*keys} and len({*keys}) == len(keys)


def grouped(folder: Path, *varies: dict[str, str]) -> list[tuple[str, str]]:
    """The tags and params by which the trainings are grouped that differ in these keys."""
    entries = [Entry(f"t{i}", TRAIN, one) for i, one in enumerate(varies)]
    view = ui.view(sweep(folder, *entries), "token", [])
    found = json.loads(zlib.decompress(base64.b64decode(view.removeprefix("deflate;"))))["groupBy"]
    return [(key["mode"], key["groupByData"]) for key in found["groupByKeys"]] if found else []


def test_trainings_are_grouped_by_all_that_varies_but_their_seed(tmp_path: Path):
    seeds = [{"policy": policy, "seed": seed} for policy in ("clr", "step") for seed in ("0", "1")]
    assert grouped(tmp_path, *seeds) == [("tag", "policy")]
    more = [one | {"model": "lenet", "optimizer.momentum": str(i % 2)} for i, one in enumerate(seeds * 2)]
    assert grouped(tmp_path, *more) == [("tag", "policy"), ("tag", "model"), ("param", "optimizer.momentum")]
    assert grouped(tmp_path, *seeds[::2]) == []


def test_the_link_has_the_address_that_browsers_know_the_server_by(tmp_path: Path):
    made = sweep(tmp_path, training("a"), uri="http://me:pw@mlflow:5000")
    assert tracking.overlay_link(made).startswith("http://mlflow:5000/#/")
    made = replace(made, ui_uri="https://mlflow.example.org/team/")
    assert tracking.overlay_link(made).startswith("https://mlflow.example.org/team/#/")
    local = replace(made, tracking_uri="sqlite:///mlflow.db")
    assert tracking.overlay_link(local).startswith("http://127.0.0.1:5000/#/")
