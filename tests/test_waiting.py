"""Trials for which a limit of jobs leaves no room: submitted as jobs end, each once, and the report after them."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps.launching import session
from onecycle_sweeps.launching.slurm import client, jobs, submissions, waiting, watch
from onecycle_sweeps.launching.slurm.client import SlurmError
from onecycle_sweeps.launching.slurm.options import Settings
from onecycle_sweeps.launching.slurm.sbatch import Sbatch
from onecycle_sweeps.launching.slurm.submissions import JobArray
from onecycle_sweeps.sweep import TRAIN, Entry, Sweep
from onecycle_sweeps.trial_folder import QUEUED, WAITING, TrialFolder

FULL = "sbatch: error: Batch job submission failed: QOSMaxSubmitJobPerUserLimit"
SETTINGS = {
    **dict.fromkeys(("gpus_per_node", "partition", "account", "qos", "constraint", "additional_parameters", "mem_gb")),
    **{"timeout_min": 60, "cpus_per_task": 1, "array_parallelism": 10, "array_size": None},
    **{"setup": [], "srun_args": [], "wait": True},
}


@dataclass
class Cluster:
    """What sbatch does where a user may have `limit` jobs at once; `arrays` has the trials of each that it accepted."""

    sweep: Sweep
    limit: int
    alive: set[str] = field(default_factory=set)
    arrays: list[tuple[str, ...]] = field(default_factory=list)
    asked: int = 0
    said: list[str] = field(default_factory=list)

    def sbatch(self, command: str) -> str:
        self.asked += 1
        path = Path(shlex.split(command)[-1])
        made = submissions.load(path)
        assert made
        names = made.trials or ("report",)
        if len(self.alive) + len(names) > self.limit:
            raise SlurmError(FULL)
        assert not self.alive & {*names}
        self.alive |= {*names}
        self.arrays.append(made.trials)
        return str(100 + len(self.arrays))

    def end(self, signature: str) -> None:
        """End a trial; its job is still there while it submits others."""
        end(self.sweep.trial(signature))
        with submissions.exclusive(self.sweep):
            list(waiting.submit(self.sweep, give_up=lambda: True))
        self.alive.remove(signature)


def end(trial: TrialFolder) -> None:
    trial.write("failure", {"cause": "a test", "time": 1.0})
    trial.remove("job.json")


def made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *entries: Entry, limit: int, settings: Settings = SETTINGS
) -> Cluster:
    """A sweep that was submitted to such a cluster by a command that has left."""
    whole = hand_made.sweep(folder, *entries)
    for entry in entries:
        whole.trial(entry.signature).create({"task": TRAIN})
    cluster = Cluster(whole, limit)
    monkeypatch.setattr(Sbatch, "submit_command", lambda _, command: cluster.sbatch(command))
    monkeypatch.setattr(client, "largest_array", lambda: 4)
    monkeypatch.setattr(client, "query", lambda *_: client.Snapshot(complete=False))
    monkeypatch.setattr(waiting, "PAUSE_SECONDS", 0.0)
    cluster.said = list(watch.submit_all(whole, entries, settings, report=True))
    return cluster


def trainings(count: int, needs: str | None = None) -> list[Entry]:
    return [Entry(f"{needs or 'a'}{i}", TRAIN, {"policy": "clr", "seed": str(i)}, needs) for i in range(count)]


def test_as_jobs_end_all_that_waits_is_submitted_once_and_the_report_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entries = trainings(11)
    cluster = made(tmp_path, monkeypatch, *entries, limit=3)
    assert sum(map(len, cluster.arrays)) == 3
    while cluster.alive - {"report"}:
        cluster.end(min(cluster.alive - {"report"}))
    *before, report = cluster.arrays
    assert report == ()
    assert sorted(signature for array in before for signature in array) == sorted(e.signature for e in entries)
    assert not submissions.postponed(cluster.sweep)


@pytest.mark.parametrize(("limit", "waits"), [(0, True), (1, True), (0, False), (1, False)])
def test_where_jobs_cannot_submit_others_one_line_says_so_and_who_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, waits: bool, capsys: pytest.CaptureFixture[str]
):
    cluster = made(tmp_path, monkeypatch, *trainings(3), limit=limit, settings=SETTINGS | {"wait": waits})
    told = cluster.said[-1]
    assert f"{3 - limit} trials" in told and "MaxSubmitJob" in told and "status --watch" in told
    assert ("this command" in told) == waits
    assert not jobs.goes_on_alone(cluster.sweep)
    session.say_how_to_watch(cluster.sweep, tmp_path)
    assert "without this command" not in capsys.readouterr().out
    assert made(tmp_path / "roomy", monkeypatch, *trainings(3), limit=2).said[-1].count("status --watch") == 0


def test_one_job_at_a_time_is_enough_for_a_command_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = made(tmp_path, monkeypatch, *trainings(3), limit=1)
    monkeypatch.setattr(watch, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(watch, "QUERY_SECONDS", 0.0)
    monkeypatch.setattr(watch, "MAX_QUERY_SECONDS", 0.0)
    for _ in watch.watch(cluster.sweep, cluster.sweep.trials):
        for signature in list(cluster.alive):
            end(cluster.sweep.trial(signature))
            cluster.alive.remove(signature)
    assert cluster.arrays == [("a0",), ("a1",), ("a2",)]
    assert list(watch.submit_report(cluster.sweep))
    assert cluster.arrays[-1] == () and not submissions.postponed(cluster.sweep)


def test_a_job_that_ends_in_a_full_queue_asks_for_one_job_only_and_leaves_the_records_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cluster = made(tmp_path, monkeypatch, *trainings(11), limit=3)
    cluster.asked = 0
    before = [cluster.sweep.trial(f"a{i}").state() for i in range(11)]
    assert [one.status for one in before] == [QUEUED] * 3 + [WAITING] * 8
    assert list(waiting.submit(cluster.sweep, give_up=lambda: True)) == []
    assert cluster.asked == 1
    assert [cluster.sweep.trial(f"a{i}").state() for i in range(11)] == before


def test_a_job_that_ends_waits_for_the_place_of_another_one_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = made(tmp_path, monkeypatch, *trainings(4), limit=2)

    def give_up() -> bool:
        cluster.alive.clear()
        return False

    assert len(list(waiting.submit(cluster.sweep, give_up=give_up))) == 2
    assert cluster.alive == {"a2", "a3"}


def test_a_training_is_submitted_only_after_the_trial_that_finds_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    test = Entry("r", "range_test", {})
    cluster = made(tmp_path, monkeypatch, test, *trainings(2), *trainings(3, needs="r"), limit=3)
    assert cluster.alive == {"r", "r0", "r1"}
    end(cluster.sweep.trial("r0"))
    cluster.alive -= {"r0"}
    list(waiting.submit(cluster.sweep, give_up=lambda: True))
    assert cluster.alive == {"r", "r1", "a0"}
    cluster.alive -= {"r1"}
    cluster.end("r")
    cluster.end("a0")
    list(waiting.submit(cluster.sweep, give_up=lambda: True))
    assert cluster.alive >= {"r2", "a1"}


def test_what_was_cancelled_or_submitted_meanwhile_is_not_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = made(tmp_path, monkeypatch, *trainings(6), limit=2)
    cluster.sweep.trial("a2").write("cancel", {"time": 1.0})
    cluster.alive.clear()
    watch_once = watch.watch(cluster.sweep, cluster.sweep.trials)
    next(watch_once)
    assert cluster.alive == {"a3", "a4"}
    cluster.alive.clear()
    list(waiting.submit(cluster.sweep, give_up=lambda: True))
    assert cluster.alive == {"a5", "report"}


def test_a_refusal_for_another_reason_keeps_the_trials_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = made(tmp_path, monkeypatch, *trainings(4), limit=2)

    def refuse(*_: object) -> str:
        raise SlurmError("sbatch: error: invalid partition specified: gone")

    monkeypatch.setattr(Sbatch, "submit_command", refuse)
    with pytest.raises(SlurmError, match="gone"):
        list(waiting.submit(cluster.sweep, give_up=lambda: True))
    cluster.alive.clear()
    monkeypatch.setattr(Sbatch, "submit_command", lambda _, command: cluster.sbatch(command))
    list(waiting.submit(cluster.sweep, give_up=lambda: True))
    assert cluster.alive == {"a2", "a3"}


def test_after_the_same_command_and_after_a_cancellation_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = made(tmp_path, monkeypatch, *trainings(6), limit=2)
    assert submissions.postponed(cluster.sweep)
    cluster.limit = 100
    list(watch.submit_all(cluster.sweep, cluster.sweep.trials, SETTINGS, report=True))
    assert not submissions.postponed(cluster.sweep)
    assert sorted(s for array in cluster.arrays for s in array) == [f"a{i}" for i in range(6)]
    waiting.postpone(cluster.sweep, [JobArray((), SETTINGS)], (), 1.0)
    monkeypatch.setattr(client, "cancel", lambda _: None)
    watch.cancel(cluster.sweep)
    assert not submissions.postponed(cluster.sweep)
