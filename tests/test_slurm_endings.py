"""Why a job left its trial without a result: SLURM's words, its output and the trial's journal, read together."""

from pathlib import Path

import pytest

from onecycle_sweeps import journal
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching.slurm import jobs, options
from onecycle_sweeps.launching.slurm.client import Job
from onecycle_sweeps.launching.slurm.jobs import MAX_FUTILE_ATTEMPTS, Ending, ending, is_futile
from onecycle_sweeps.trial_folder import TrialFolder

PLACE = {"slurm_job_id": "7_0", "slurm_restarts": "0", "node": "n1"}


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    folder = TrialFolder(tmp_path / "5161")
    folder.journal.mkdir(parents=True)
    return folder


def attempt(trial: TrialFolder, start: int, saved: int | None, end: str | None = None) -> None:
    book = Journal(trial.journal, trial.attempts() + 1, start, PLACE)
    if saved is not None:
        book.saved(saved)
    if end:
        book.end(end)


def job(state: str, **rest) -> Job:
    return Job("7", 0, state, "n1", **rest)


@pytest.mark.parametrize(
    ("ended", "output", "expected"),
    [
        (job("TIMEOUT"), "", Ending("time limit reached on n1; resumes at step 40", again=True)),
        (job("NODE_FAIL"), "", Ending("node failure on n1; resumes at step 40", again=True)),
        (job("PREEMPTED"), "", Ending("preempted on n1; resumes at step 40", again=True)),
        (job("OUT_OF_MEMORY"), "", Ending("out of memory on n1: raise hydra.launcher.mem_gb")),
        (
            job("FAILED", code=137),
            "slurmstepd: error: Step 7.0 exceeded memory limit",
            Ending("out of memory on n1: raise hydra.launcher.mem_gb"),
        ),
        (job("FAILED", signal=9), "", Ending("killed by signal 9 on n1")),
        (job("FAILED", code=139), "srun: error: Segmentation fault", Ending("killed by signal 11 on n1")),
        (job("CANCELLED"), "", Ending("job 7_0 was cancelled", cancelled=True)),
        (job("COMPLETED"), "", Ending("job 7_0 ended as COMPLETED with status 0 and no result")),
        (
            job("FAILED", code=1),
            "Traceback\nImportError: no torch\nsrun: error: n1: task 0: Exited",
            Ending("job 7_0 ended as FAILED with status 1 and no result: ImportError: no torch"),
        ),
    ],
)
def test_the_cause_of_an_attempt_that_was_cut_short(trial: TrialFolder, ended: Job, output: str, expected: Ending):
    attempt(trial, 0, 40)
    assert ending(ended, trial, output) == expected


def test_an_attempt_that_saved_and_left_may_go_on_whatever_slurm_calls_it(trial: TrialFolder):
    attempt(trial, 0, 40, end="stopped")
    assert ending(job("FAILED", code=75), trial, "").again
    assert ending(job("COMPLETED"), trial, "").again


@pytest.mark.parametrize(
    ("ended", "output", "cause", "again"),
    [
        (job("FAILED", signal=12), "", "stopped by SLURM's signal on n1 before it could begin", True),
        (
            job("FAILED", code=140),
            "User defined signal 2",
            "stopped by SLURM's signal on n1 before it could begin",
            True,
        ),
        (
            job("FAILED", code=1, reason="NonZeroExitCode"),
            "sh: no",
            "it could not be started on n1 (NonZeroExitCode): sh: no",
            False,
        ),
        (
            job("FAILED", signal=9, reason="JobLaunchFailure"),
            "",
            "it could not be started on n1 (JobLaunchFailure)",
            False,
        ),
    ],
)
def test_the_cause_of_a_job_that_never_reached_its_trial(
    trial: TrialFolder, ended: Job, output: str, cause: str, again: bool
):
    assert ending(ended, trial, output) == Ending(cause, again)


def test_attempts_are_futile_when_so_many_in_a_row_saved_no_later_step(trial: TrialFolder):
    def futile(since: float = 0.0) -> bool:
        return is_futile(journal.read(trial.journal).attempts, since)

    for _ in range(MAX_FUTILE_ATTEMPTS - 1):
        attempt(trial, 0, None)
    assert not futile()
    attempt(trial, 0, 0)
    assert futile()
    assert not futile(since=journal.read(trial.journal).attempts[1].time + 1e-6)
    attempt(trial, 0, 10)
    assert not futile()


def test_a_jobs_output_is_read_from_its_end(tmp_path: Path):
    (tmp_path / "err").write_text("x" * 100_000 + "the end")
    assert jobs.tail(tmp_path / "err").endswith("the end")
    assert len(jobs.tail(tmp_path / "err")) == jobs.TAIL_BYTES
    assert jobs.tail(tmp_path / "none") == ""


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 10), (5, 30), (10, 60), (20, 120), (1440, 120)])
def test_the_notice_before_a_time_limit_is_a_tenth_of_it_and_two_minutes_at_most(minutes: int, seconds: int):
    assert options.notice(minutes) == seconds
