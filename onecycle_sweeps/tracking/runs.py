"""A sweep's runs in MLflow: created once, found again after a crash, and updated to what the trials' records say."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onecycle_sweeps.credentials import address
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.outcome import Outcome, glance, with_history
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.terminal import typed
from onecycle_sweeps.tracking import ledger, run_data, ui
from onecycle_sweeps.tracking.ledger import Ledger, RunFile, RunRecord
from onecycle_sweeps.tracking.run_data import BATCH, MLFLOW_STATUS, TAG_LENGTH, Point
from onecycle_sweeps.tracking.store import StoreUnreachable, connected, database_file, locked, never, stamp
from onecycle_sweeps.trial_folder import ENDED, LOST

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Param, Run, RunTag

# The most characters of the links to trials in a description.
LINKS_LENGTH = 3000
# What a sweep shows, by name: texts and numbers.
Findings = Mapping[str, str | float]
# How many sweeps of an experiment have a view of their own, and the experiment's tag that lists them, latest last.
KEPT_VIEWS, VIEWS_TAG = 50, "onecycle_sweeps.views"
# Tags that a run keeps only while its trial has a reason for them.
TRANSIENT_TAGS = {"cause", "warnings"}


class OutOfTime(Exception):
    """The time for shipping ended before all was shipped."""


@dataclass(frozen=True)
class Runs:
    """Writes to MLflow and records in the ledger what it has written."""

    client: "MlflowClient"
    sweep: Sweep
    ledger: Ledger
    expired: Callable[[], bool]

    @property
    def are_open(self) -> bool:
        """Whether the ledger has everything that exists once for the sweep."""
        known = self.ledger
        parent = known.parent is not None or self.sweep.single
        return known.named and known.experiment is not None and known.view and known.measured and parent

    def open(self, only: Collection[str] | None = None) -> None:
        """Create the experiment, the sweep's view and, for a sweep with -m, the parent run, unless they exist.

        The view is made again after the first trial has begun, which records what is measured; `only` has the
        signatures of the trials to look at for it.
        """
        if self.are_open:
            return
        may_have_parent = self.ledger.experiment is not None
        if self.ledger.experiment is None:
            self.ledger.experiment = self._experiment()
            # The token has to be on disk before anything in the store bears it.
            self.ledger.save()
        measured = () if self.ledger.measured else self._measures(only)
        if measured or not self.ledger.view:
            tag, token = ui.view_tag(self.ledger.token), self.ledger.token
            self.client.set_experiment_tag(self.ledger.experiment, tag, ui.view(self.sweep, token, measured))
            self._remove_old_views(self.ledger.experiment, token)
            self.ledger.view, self.ledger.measured = True, bool(measured)
            self.ledger.save()
        if self.ledger.parent is None and not self.sweep.single:
            tags = {"kind": "sweep", "mlflow.note.content": run_data.sweep_description(self.sweep)}
            created = run_data.milliseconds(self.sweep.created)
            parent = self._run(run_data.sweep_name(self.sweep), created, tags, may_have_parent)
            self.ledger.parent, self.ledger.parent_status = parent.info.run_id, parent.info.status
            self.ledger.save()

    def _remove_old_views(self, experiment: str, latest: str) -> None:
        """Keep the views of the KEPT_VIEWS latest sweeps of an experiment, whose tags would grow without an end."""
        tags = self.client.get_experiment(experiment).tags
        views = [*(token for token in tags.get(VIEWS_TAG, "").split() if token != latest), latest]
        for token in views[:-KEPT_VIEWS]:
            if ui.view_tag(token) in tags:
                self.client.delete_experiment_tag(experiment, ui.view_tag(token))
        self.client.set_experiment_tag(experiment, VIEWS_TAG, " ".join(views[-KEPT_VIEWS:]))

    def update(self, outcome: Outcome, standing: list[Any], file: RunFile) -> None:
        """Bring a trial's run up to date and record that in its file; raises OutOfTime between two batches."""
        run = self._known_run(outcome, file) or self._new_run(outcome, file)
        record = file.run = file.run or RunRecord(run.info.run_id, run_data.first_attempt(outcome))
        file.save()
        if outcome.resolved and not (run.inputs and run.inputs.dataset_inputs):
            self._log_dataset(record.run_id, outcome)
        params, tags = self._missing(run, outcome)
        for batch in run_data.batches(outcome, self.sweep, record.next, BATCH - len(params) - len(tags)):
            if self.expired():
                raise OutOfTime
            self._log(record.run_id, batch, params, tags)
            params, tags = [], []
            record.next = max(record.next, 1 + max(point.step for point in batch))
            file.save()
        self._log(record.run_id, [], params, tags)
        if outcome.status in ENDED:
            self._log_files(run, outcome)
        status = MLFLOW_STATUS[outcome.status]
        if outcome.status in ENDED or run.info.status != status:
            self._set_status(record.run_id, status, run_data.end_time(outcome, self.sweep))
        record.finished = outcome.result.get("finished")
        record.standing = standing
        file.save()

    def update_parent(self) -> None:
        """Give the parent run the status that follows from those of all trials."""
        with locked(_lock_path(self.sweep), self.expired):
            known, found = ledger.load(self.sweep), list(outcomes(self.sweep))
            status = run_data.sweep_status(found)
            if known.parent and known.parent_status != status:
                self._set_status(known.parent, status, run_data.sweep_end(found))
                known.parent_status = status
                known.save()

    def publish(self, files: Sequence[Path], description: str, findings: Findings) -> None:
        """Put a report's files and its Markdown description on the parent's page; without a parent, on the trial's.

        The description ends with the SVG figures: MLflow shows a PNG half as large again, and ignores a width. The
        parent's findings are metrics where they are numbers, else tags.
        """
        from mlflow.entities import Metric, RunTag

        parent, now = self.ledger.parent, run_data.milliseconds(time.time())
        if parent and self.sweep.sequential:
            # The sweep has grown since its run was created.
            self.client.update_run(parent, name=run_data.sweep_name(self.sweep))
        numbers = {name: value for name, value in findings.items() if isinstance(value, float)}
        for run_id in [parent] if parent else [run.run_id for run in self.ledger.runs.values()]:
            for file in files:
                self.client.log_artifact(run_id, str(file), "report")
            figures = "".join(ui.figure(run_id, file.name) for file in files if file.suffix == ".svg")
            texts = {name: value for name, value in findings.items() if isinstance(value, str)} if parent else {}
            tags = run_data.as_tags(texts)
            tags["mlflow.note.content"] = self._with_links(description, TAG_LENGTH - len(figures)) + figures
            metrics = [Metric(name, value, now, 0) for name, value in numbers.items()] if parent else []
            self.client.log_batch(run_id, metrics, (), [RunTag(key, value) for key, value in tags.items()])

    def _with_links(self, description: str, limit: int) -> str:
        """A description of at most `limit` characters, with links to the sweep's runs below its first paragraph."""
        if not self.ledger.parent:
            return run_data.shortened(description, limit)
        # Links have no credentials, so they need not be removed from them.
        links, room, left = [f"[all curves together]({ui.overlay_page(self.sweep)})"], LINKS_LENGTH, 0
        for name, run_id in self._named_runs():
            link = f"[{name}]({ui.run_page(self.sweep, run_id)})"
            room -= len(link)
            links += [link] if room > 0 else []
            left += room <= 0
        line = f"In MLflow: {', '.join([*links, *([f'and {left} more'] if left else [])])}"
        answer, _, rest = run_data.shortened(description, limit - len(line) - 2).partition("\n\n")
        return "\n\n".join([answer, line, *([rest] if rest else [])])

    def _named_runs(self) -> Iterator[tuple[str, str]]:
        """The name and the id of the run of each trial that has one."""
        for entry in self.sweep.trials:
            if run := self.ledger.run(entry.signature):
                yield entry.name(self.sweep.trial(entry.signature).max_lr()), run.run_id

    def _log_dataset(self, run_id: str, outcome: Outcome) -> None:
        """Record the trial's data as the run's input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if found := run_data.dataset(outcome, self.sweep):
            context = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run_id, [DatasetInput(Dataset(**found), context)])

    def mark_complete(self, appearance: str) -> None:
        """Record how the sweep and the store look with everything in it, unless users have deleted the runs."""
        with locked(_lock_path(self.sweep), self.expired):
            known = ledger.load(self.sweep)
            # Taken before the store is queried, so that a later change of it is noticed.
            known.stamp = stamp(self.sweep.tracking_uri)
            known.complete = None if _is_deleted(self.client, known) else appearance
            known.save()

    def _measures(self, only: Collection[str] | None) -> tuple[Measure, ...]:
        """What the first trial that has begun is measured by, as are all of the sweep; empty before that."""
        begun = (outcome for outcome in map(with_history, outcomes(self.sweep, only)) if outcome.resolved)
        return next((outcome.measures for outcome in begun), ())

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

    def _known_run(self, outcome: Outcome, file: RunFile) -> "Run | None":
        """The run in the trial's file; it is deleted, for another to be created, if the trial has begun anew since."""
        if file.run is None:
            return None
        same_attempts = file.run.first == run_data.first_attempt(outcome)
        same_result = file.run.finished in (None, outcome.result.get("finished"))
        # A lost trial has nothing that could replace its run.
        if (same_attempts and same_result) or outcome.status == LOST:
            return self.client.get_run(file.run.run_id)
        self.client.delete_run(file.run.run_id)
        file.run = None
        return None

    def _new_run(self, outcome: Outcome, file: RunFile) -> "Run":
        nesting = {"mlflow.parentRunId": self.ledger.parent} if self.ledger.parent else {}
        file.save()
        start_time = run_data.start_time(outcome, self.sweep)
        return self._run(outcome.name, start_time, run_data.tags(outcome, self.sweep) | nesting, file.may_have_run)

    def _run(self, name: str, start_time: int, tags: Mapping[str, str], may_exist: bool) -> "Run":
        """Create a run with these tags, unless one may exist for this ledger and is found."""
        experiment = self.ledger.experiment or ""
        if may_exist:
            identity = {"ledger": self.ledger.token, "kind": tags["kind"], "signature": tags.get("signature")}
            query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items() if value)
            for run in self.client.search_runs([experiment], query, max_results=1):
                return run
        shared = run_data.sweep_tags(self.sweep) | {"ledger": self.ledger.token}
        return self.client.create_run(experiment, start_time, {**shared, **tags}, name)

    def _missing(self, run: "Run", outcome: Outcome) -> tuple[list["Param"], list["RunTag"]]:
        """The params and tags that a run lacks; its name and outdated tags are replaced, params never change."""
        from mlflow.entities import Param, RunTag

        if run.info.run_name != outcome.name:
            self.client.update_run(run.info.run_id, name=outcome.name)
        tags = run_data.tags(outcome, self.sweep)
        for key in TRANSIENT_TAGS & run.data.tags.keys() - tags.keys():
            self.client.delete_tag(run.info.run_id, key)
        return (
            [Param(key, value) for key, value in run_data.params(outcome).items() if key not in run.data.params],
            [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value],
        )

    def _log_files(self, run: "Run", outcome: Outcome) -> None:
        """Log the files of an ended trial, all in one call.

        The client's own `log_artifacts` would query the run for its artifact URI, a request more for each trial.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with TemporaryDirectory() as folder:
            (Path(folder) / "config.yaml").write_text(run_data.config_file(outcome), encoding="utf-8")
            for path in run_data.artifacts(outcome):
                (Path(folder) / path.name).symlink_to(path)
            get_artifact_repository(run.info.artifact_uri or "", self.client.tracking_uri).log_artifacts(folder)

    def _set_status(self, run_id: str, status: str, end_time: int) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_time)

    def _log(self, run_id: str, points: Sequence[Point], params: Sequence["Param"], tags: Sequence["RunTag"]) -> None:
        """Send one request, or none if there is nothing to log."""
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
        self.client.log_batch(run_id, metrics, params, tags)


@contextmanager
def open_runs(sweep: Sweep, expired: Callable[[], bool], only: Collection[str] | None = None) -> Iterator[Runs]:
    """The sweep's runs in its store, with what exists once for the sweep; one process at a time has an sqlite file.

    A process that ships `only` some trials trusts the ledger for what exists once: it does not query the store about
    it and waits for no lock.
    """
    with connected(sweep.tracking_uri, expired) as client:
        runs = Runs(client, sweep, ledger.load(sweep), expired)
        if only is None or not runs.are_open:
            with locked(_lock_path(sweep), expired):
                runs = Runs(client, sweep, _current_ledger(client, sweep), expired)
                runs.open(only)
        yield runs


def make_view_again(sweep: Sweep) -> None:
    """Make a sweep's view again, on which its link relies, where later sweeps have taken its place.

    Raises StoreUnreachable.
    """
    if not ledger.load(sweep).view:
        return
    with connected(sweep.tracking_uri) as client, locked(_lock_path(sweep), never):
        known = _current_ledger(client, sweep)
        if known.experiment and not known.view:
            Runs(client, sweep, known, never).open()


def outcomes(sweep: Sweep, only: Collection[str] | None = None) -> Iterator[Outcome]:
    """A glance at the sweep's trials; `only` has the signatures of those to look at."""
    for entry in sweep.trials:
        if only is None or entry.signature in only:
            yield glance(entry, sweep.trial(entry.signature))


def check_store(sweep: Sweep) -> None:
    """Raise StoreUnreachable where the database that a sweep has filled is gone: it was moved, or the sweep was."""
    file = database_file(sweep.tracking_uri)
    if file is None or file.exists() or (ledger.load(sweep).experiment is None and file.parent.exists()):
        return
    nearby = [folder / file.name for folder in (sweep.runs_dir.parent, sweep.runs_dir, Path.cwd())]
    uri = next((f"sqlite:///{found}" for found in nearby if found.is_file()), "sqlite:///...")
    how = typed("tracking.uri", uri)
    raise StoreUnreachable(
        f"{file}, the database of sweep {sweep.id}, is missing: type where it is, or where to make another, as {how}"
    )


def _current_ledger(client: "MlflowClient", sweep: Sweep) -> Ledger:
    """The sweep's ledger as far as the store still has what it says; the caller holds the sweep's lock."""
    known = _known_ledger(client, sweep)
    if database_file(sweep.tracking_uri):
        _check_artifact_folder(client, sweep)
    if _is_deleted(client, known):
        return Ledger(known.folder, known.address, known.name)
    if known.experiment and ui.view_tag(known.token) not in client.get_experiment(known.experiment).tags:
        # Later sweeps have taken its place: the view is made again.
        known.view = known.measured = False
    return known


def _known_ledger(client: "MlflowClient", sweep: Sweep) -> Ledger:
    """The sweep's ledger; one that was saved for another store or name is used if it is of the same experiment."""
    known = ledger.load(sweep)
    if known.named and known.experiment:
        return known
    if experiment := client.get_experiment_by_name(sweep.experiment):
        for other in ledger.others(sweep):
            if _belongs_to(client, other, experiment, known.address):
                same = replace(other, address=known.address, name=known.name)
                same.save()
                return same
    return known if known.named else Ledger(known.folder, known.address, known.name)


def _belongs_to(client: "MlflowClient", other: Ledger, experiment: "Experiment", store: str) -> bool:
    """Whether a ledger is of this experiment: by its id in the same store, by its runs in a file that was moved."""
    if other.address == store:
        return other.experiment == experiment.experiment_id
    before, after = database_file(other.address), database_file(store)
    moved = before is not None and after is not None and (not before.exists() or before.samefile(after))
    query = f"tags.ledger = '{other.token}'"
    return moved and bool(client.search_runs([experiment.experiment_id], query, max_results=1))


def _check_artifact_folder(client: "MlflowClient", sweep: Sweep) -> None:
    """Raise StoreUnreachable where MLflow would put the experiment's files in a folder that is gone."""
    experiment = client.get_experiment_by_name(sweep.experiment)
    location = experiment.artifact_location.removeprefix("file://") if experiment else ""
    if location.startswith("/") and not (folder := Path(location).parent).exists():
        raise StoreUnreachable(
            f"the experiment {sweep.experiment} in {address(sweep.tracking_uri)} keeps its files in {location}, and "
            f"{folder} is gone: link it to where it is now, or choose another experiment by tracking.experiment=..."
        )


def _is_deleted(client: "MlflowClient", known: Ledger) -> bool:
    """Whether the store has lost, or its users have deleted, what the ledger says it has."""
    from mlflow.exceptions import MlflowException

    run_ids = [known.parent] if known.parent else [run.run_id for run in known.runs.values()]
    try:
        return any(client.get_run(run_id).info.lifecycle_stage != "active" for run_id in run_ids[:1])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return True
        raise


def _lock_path(sweep: Sweep) -> Path:
    """The lock of what exists once for the whole sweep."""
    return sweep.folder / "tracking.lock"
