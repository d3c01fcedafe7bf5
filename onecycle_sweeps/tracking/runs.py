"""The runs of one sweep in MLflow: made once, found again, and brought to what their accounts say."""

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from onecycle_sweeps.state import ENDED
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking import parent, view
from onecycle_sweeps.tracking.account import MLFLOW_STATUS, Account
from onecycle_sweeps.tracking.ledger import Ledger, Shipped
from onecycle_sweeps.tracking.store import StoreUnreachable, address, database_file
from onecycle_sweeps.tracking.values import Point, milliseconds

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Tags that a later attempt may have no reason for.
PASSING_TAGS = {"cause", "warnings"}


class OutOfTime(Exception):
    """The time for shipping has ended before the work."""


@dataclass(frozen=True)
class Runs:
    """Writes to MLflow and, after each thing that it wrote, to the ledger."""

    client: "MlflowClient"
    sweep: Sweep
    ledger: Ledger
    expired: Callable[[], bool]

    def open(self) -> None:
        """Make the experiment, the sweep's view and, for a sweep with -m, the parent run, where they are not there."""
        if self.ledger.experiment is None:
            self.ledger.experiment = self._experiment()
            self.ledger.save()
        if not self.ledger.view:
            self.client.set_experiment_tag(self.ledger.experiment, *view.tag(self.sweep, self.ledger.token))
            self.ledger.view = True
            self.ledger.save()
        if self.ledger.parent is None and not self.sweep.single:
            tags = {"kind": "sweep", "mlflow.note.content": parent.description(self.sweep)}
            self.ledger.parent = self._run(f"sweep {self.sweep.id}", milliseconds(self.sweep.created), tags)
            self.ledger.save()

    def bring(self, account: Account) -> None:
        """Bring a trial's run to what its account says; raises OutOfTime between two batches."""
        run = self.client.get_run(self._shipped(account).run_id)
        shipped = self.ledger.runs[account.entry.signature]
        self._describe(run, account)
        for batch in account.batches(shipped.next):
            if self.expired():
                raise OutOfTime
            self._log(shipped.run_id, batch)
            shipped.next = batch[-1].step + 1
            self.ledger.save()
        self._conclude(run, account)
        shipped.finished = account.finished
        shipped.standing = list(astuple(account.standing))
        self.ledger.save()

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

    def _shipped(self, account: Account) -> Shipped:
        """The trial's run in the ledger; a trial that has been begun anew gets another in place of the old."""
        signature = account.entry.signature
        shipped = self.ledger.runs.get(signature)
        if shipped and (shipped.first != account.first or shipped.finished not in (None, account.finished)):
            self.client.delete_run(shipped.run_id)
            shipped = None
        if shipped is None:
            nesting = {"mlflow.parentRunId": self.ledger.parent} if self.ledger.parent else {}
            tags = {"kind": account.entry.kind, "signature": signature} | nesting
            shipped = Shipped(self._run(account.name, account.began, tags), account.first)
            self.ledger.runs[signature] = shipped
            self.ledger.save()
        return shipped

    def _run(self, name: str, start_time: int, tags: dict[str, str]) -> str:
        """The id of the run with these tags that this ledger has asked for before, or of one made just now."""
        identity = {"ledger": self.ledger.token, "kind": tags["kind"], "signature": tags.get("signature")}
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items() if value)
        experiment = self.ledger.experiment or ""
        for run in self.client.search_runs([experiment], query, max_results=1):
            return run.info.run_id
        shared = parent.tags(self.sweep) | {"ledger": self.ledger.token}
        return self.client.create_run(experiment, start_time, shared | tags, name).info.run_id

    def _describe(self, run: "Run", account: Account) -> None:
        """Name, params and tags; a param is logged once."""
        from mlflow.entities import Param, RunTag

        if run.info.run_name != account.name:
            self.client.update_run(run.info.run_id, name=account.name)
        params = account.params() if account.resolved else {}
        fresh = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        tags = account.tags()
        self.client.log_batch(run.info.run_id, params=fresh, tags=[RunTag(key, value) for key, value in tags.items()])
        for key in PASSING_TAGS & run.data.tags.keys() - tags.keys():
            self.client.delete_tag(run.info.run_id, key)

    def _conclude(self, run: "Run", account: Account) -> None:
        """Figures, artifacts and status."""
        run_id = run.info.run_id
        if account.standing.status in ENDED:
            self._log(run_id, account.figures())
            self.client.log_text(run_id, account.config(), "config.yaml")
            for path in account.artifacts():
                self.client.log_artifact(run_id, str(path))
        self._set_status(run_id, MLFLOW_STATUS[account.standing.status], account.ended)

    def _set_status(self, run_id: str, status: str, end_time: int) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time)

    def _log(self, run_id: str, points: Iterable[Point]) -> None:
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(p.name, p.value, p.time, p.step) for p in points])
