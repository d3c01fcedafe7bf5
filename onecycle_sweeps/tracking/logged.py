"""The runs of any MLflow experiment, whoever logged them."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from onecycle_sweeps.tracking.store import connected

DEFAULT_STORE = "sqlite:///mlflow.db"
# Of this program's runs, these are no trainings.
OTHER_KINDS = ("sweep", "range_test", "probe")
# The key of MLflow's own status: FINISHED, RUNNING, FAILED or KILLED.
RUN_STATUS = "run_status"
# The key of a run's id.
RUN_ID = "mlflow_run_id"
# The key of the names of a run's params.
RUN_PARAMS = "mlflow_params"


def logged_runs(experiment: str) -> Iterator[dict[str, Any]]:
    """Each run as a row, the earliest first: its name, params, tags and last metrics.

    MLFLOW_TRACKING_URI names the store.

    `group` is the tag or param of that name or `policy`, None if there is neither.
    Raises ValueError if there is no such experiment, StoreUnreachable if the store cannot be used.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)
    with connected(uri) as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = ", ".join(one.name for one in client.search_experiments())
            raise ValueError(f"there is no MLflow experiment {experiment} in {uri}; it has {known}")
        token = None
        while True:
            # By default MLflow's latest run comes first.
            page = client.search_runs(
                [found.experiment_id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                row = {**run.data.params, **_own(run.data.tags), **run.data.metrics}
                if row.get("kind") not in OTHER_KINDS:
                    name = run.info.run_name or run.info.run_id
                    group = row.get("group") or row.get("policy")
                    params = list(run.data.params)
                    yield {**row, "run": name, "group": group, **_facts(run.info), RUN_PARAMS: params}
            token = page.token
            if not token:
                return


def histories(runs: Sequence[str], metric: str) -> Iterator[list[tuple[float, float]]]:
    """All (step, value) of a metric of each run, in order of steps; of several values of a step the last logged."""
    with connected(os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)) as client:
        for run in runs:
            points = sorted(client.get_metric_history(run, metric), key=lambda one: (one.step, one.timestamp))
            yield list({one.step: (float(one.step), one.value) for one in points}.values())


def _facts(info: Any) -> dict[str, str]:
    return {RUN_STATUS: info.status, RUN_ID: info.run_id}


def _own(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
