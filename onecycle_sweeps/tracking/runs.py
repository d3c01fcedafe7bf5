"""The runs of one sweep in MLflow: made once, found again, and brought to what their accounts say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import parent, view
from onecycle_sweeps.tracking.account import MLFLOW_STATUS, Account
from onecycle_sweeps.tracking.ledger import Ledger, Page, Shipped
from onecycle_sweeps.tracking.store import StoreUnreachable, address, database_file
from onecycle_sweeps.tracking.values import BATCH, Point, milliseconds
from onecycle_sweeps.trial_folder import ENDED, LOST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Param, Run, RunTag

# Tags that a later attempt may have no reason for.
PASSING_TAGS = {"cause", "warnings"}


class OutOfTime(Exception):
    """The time for shipping has ended before the work."""


@dataclass(frozen=True)
class Runs:
    """Writes to MLflow and notes in the ledger what it wrote."""

    client: "MlflowClient"
    sweep: Sweep
    ledger: Ledger
    expired: Callable[[], bool]

    @property
    def are_open(self) -> bool:
        """Whether the ledger has all that is made once for the sweep."""
        parent = self.ledger.parent is not None or self.sweep.single
        return self.ledger.named and self.ledger.experiment is not None and self.ledger.view and parent

    def open(self) -> None:
        """Make the experiment, the sweep's view and, for a sweep with -m, the parent run, where they are not there."""
        if self.are_open:
            return
        begun = self.ledger.experiment is not None
        if self.ledger.experiment is None:
            self.ledger.experiment = self._experiment()
            # Before anything is made that bears its token, that it can be found by that.
            self.ledger.save()
        if not self.ledger.view:
            self.client.set_experiment_tag(self.ledger.experiment, *view.tag(self.sweep, self.ledger.token))
            self.ledger.view = True
            self.ledger.save()
        if self.ledger.parent is None and not self.sweep.single:
            tags = {"kind": "sweep", "mlflow.note.content": parent.description(self.sweep)}
            made = self._run(f"sweep {self.sweep.id}", milliseconds(self.sweep.created), tags, begun)
            self.ledger.parent, self.ledger.parent_status = made.info.run_id, made.info.status
            self.ledger.save()

    def bring(self, account: Account, page: Page) -> None:
        """Bring a trial's run to what its account says, noted on its page; raises OutOfTime between two batches."""
        run = self._brought_before(account, page) or self._made(account, page)
        shipped = page.shipped = page.shipped or Shipped(run.info.run_id, account.first)
        page.save()
        params, tags = self._news(run, account)
        for batch in account.batches(shipped.next, BATCH - len(params) - len(tags)):
            if self.expired():
                raise OutOfTime
            self._log(shipped.run_id, batch, params, tags)
            params, tags = [], []
            shipped.next = max(shipped.next, 1 + max(point.step for point in batch))
            page.save()
        self._log(shipped.run_id, [], params, tags)
        if account.standing.status in ENDED:
            self._attach(run, account)
        status = MLFLOW_STATUS[account.standing.status]
        if account.standing.status in ENDED or run.info.status != status:
            self._set_status(shipped.run_id, status, account.ended)
        shipped.finished = account.finished
        shipped.standing = list(account.standing)
        page.save()

    def end_parent(self, status: str, end_time: int) -> None:
        """Give the parent run its status."""
        if self.ledger.parent and self.ledger.parent_status != status:
            self._set_status(self.ledger.parent, status, end_time)
            self.ledger.parent_status = status
            self.ledger.save()

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.sweep.experiment
        if found := self.client.get_experiment_by_name(name):
            return self._active(found)
        file = database_file(self.sweep.tracking_uri)
        try:
            return self.client.create_experiment(name, str(file.with_name("mlruns")) if file else None)
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):
                return self._active(found)
            raise

    def _active(self, experiment: "Experiment") -> str:
        if experiment.lifecycle_stage != "active":
            store = address(self.sweep.tracking_uri)
            raise StoreUnreachable(f"the experiment {experiment.name} is deleted in {store}: restore or rename it")
        return experiment.experiment_id

    def _brought_before(self, account: Account, page: Page) -> "Run | None":
        """The run on the trial's page; a trial that has been begun anew is to get another in place of it."""
        if page.shipped is None:
            return None
        # Of a trial that is lost there is nothing that could take the place of its run.
        known = page.shipped.first == account.first and page.shipped.finished in (None, account.finished)
        if known or account.standing.status == LOST:
            return self.client.get_run(page.shipped.run_id)
        self.client.delete_run(page.shipped.run_id)
        page.shipped = None
        return None

    def _made(self, account: Account, page: Page) -> "Run":
        nesting = {"mlflow.parentRunId": self.ledger.parent} if self.ledger.parent else {}
        page.save()
        return self._run(account.name, account.began, account.tags() | nesting, page.begun)

    def _run(self, name: str, start_time: int, tags: Mapping[str, str], begun: bool) -> "Run":
        """The run with these tags that may have been `begun` for this ledger before, or one made just now."""
        experiment = self.ledger.experiment or ""
        if begun:
            identity = {"ledger": self.ledger.token, "kind": tags["kind"], "signature": tags.get("signature")}
            query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items() if value)
            for run in self.client.search_runs([experiment], query, max_results=1):
                return run
        shared = parent.tags(self.sweep) | {"ledger": self.ledger.token}
        return self.client.create_run(experiment, start_time, {**shared, **tags}, name)

    def _news(self, run: "Run", account: Account) -> tuple[list["Param"], list["RunTag"]]:
        """The params and tags that a run lacks; a param is logged once. A name and a tag that are past are replaced."""
        from mlflow.entities import Param, RunTag

        if run.info.run_name != account.name:
            self.client.update_run(run.info.run_id, name=account.name)
        params = account.params() if account.resolved else {}
        tags = account.tags()
        for key in PASSING_TAGS & run.data.tags.keys() - tags.keys():
            self.client.delete_tag(run.info.run_id, key)
        return (
            [Param(key, value) for key, value in params.items() if key not in run.data.params],
            [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value],
        )

    def _attach(self, run: "Run", account: Account) -> None:
        """The files that an ended trial leaves, in one go; the client's own call asks for the run once more."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with TemporaryDirectory() as folder:
            (Path(folder) / "config.yaml").write_text(account.config(), encoding="utf-8")
            for path in account.artifacts():
                (Path(folder) / path.name).symlink_to(path)
            get_artifact_repository(str(run.info.artifact_uri), tracking_uri=self.client.tracking_uri).log_artifacts(
                folder
            )

    def _set_status(self, run_id: str, status: str, end_time: int) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time)

    def _log(self, run_id: str, points: Sequence[Point], params: Sequence["Param"], tags: Sequence["RunTag"]) -> None:
        """One request, none where there is nothing to log."""
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
        self.client.log_batch(run_id, metrics, params, tags)
