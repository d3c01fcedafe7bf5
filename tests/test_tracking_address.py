import base64
import json
import zlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from onecycle_sweeps import tracking
from onecycle_sweeps.config import paths
from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.sweep import Entry
from onecycle_sweeps.tracking import ledger
from onecycle_sweeps.tracking.store import address
from onecycle_sweeps.tracking.values import as_params, as_tags
from recorded import ask, range_test, sweep, training


@pytest.mark.parametrize(("entry", "kind"), [(training("a"), "train"), (range_test("a"), "range_test")])
def test_the_overlay_link_opens_a_view_of_this_sweep_alone(tmp_path: Path, entry: Entry, kind: str):
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


def test_long_values_are_cut_with_a_mark_and_credentials_with_stars():
    params, tags = as_params({"list": ["x" * 7000]}), as_tags({"cause": "y" * 9000, "none": None, "empty": ""})
    assert len(params["list"]) == 6000
    assert params["list"].endswith("[... shortened from 7004 characters]")
    assert {key: len(value) for key, value in tags.items()} == {"cause": 8000}
    assert as_params({"url": "x http://me:s/ec@ret@host/p y"}) == {"url": "x http://***@host/p y"}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/p", "http://host:5000/p"),
        ("postgresql://me:se@cret@host/db?password=secret", "postgresql://host/db"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_has_no_credentials(uri: str, shown: str):
    assert address(uri) == shown
    assert "secret" not in redacted(shown)


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:////there/mlflow.db"),
        ("sqlite:///../a/b.db?timeout=5", "sqlite:////a/b.db?timeout=5"),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql:///db", "postgresql:///db"),
    ],
)
def test_a_relative_sqlite_path_is_made_absolute(uri: str, absolute: str):
    assert paths.absolute_uri(uri, Path("/there")) == absolute


def test_the_ui_is_served_on_loopback_and_its_uri_is_no_argument():
    uri = "postgresql://me:secret@host/db"
    command, environment = tracking.ui_command(uri, 5001), tracking.ui_environment(uri)
    assert "--host 127.0.0.1 --port 5001" in " ".join(command)
    assert "secret" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(ValueError, match="http://host is an MLflow server"):
        tracking.ui_command("http://me:secret@host")
