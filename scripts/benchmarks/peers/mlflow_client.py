"""MlflowClient.log_batch with as many points in a call as MLflow takes."""

import time
from collections.abc import Iterable, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric

BATCH = 1000
Point = tuple[str, float, int, int]


def send(uri: str, experiment: str, runs: Iterable[Sequence[Point]]) -> None:
    """Create a run for each sequence of points (name, value, milliseconds, step), and send them."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    for points in runs:
        run = client.create_run(experiment_id).info.run_id
        metrics = [Metric(*point) for point in points]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics[first : first + BATCH])
        client.set_terminated(run)


def speed(uri: str, size: int) -> float:
    """The points/s of a client that does nothing else, after a first run that is not counted."""
    points = [(name, step / 7, 1, step) for step in range(size // 4) for name in "abcd"]
    send(uri, "alone", [points[:1]])
    began = time.monotonic()
    send(uri, "alone", [points])
    return size / (time.monotonic() - began)
