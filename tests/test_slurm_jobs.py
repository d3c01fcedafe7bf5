"""How the jobs of a sweep end, and what is recorded about them: by SLURM's answers alone, and on a real cluster."""

import os
import signal
from pathlib import Path

import pytest

import program
import warm
from cluster_sweeps import (
    at_step,
    check_mlflow,
    check_undisturbed,
    ends,
    in_its_place,
    job_process,
    overrides,
    run,
    said,
    start,
    states,
    trainings,
)
from onecycle_sweeps import journal
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching.slurm import jobs, options
from onecycle_sweeps.launching.slurm.client import Job
from onecycle_sweeps.launching.slurm.jobs import MAX_FUTILE_ATTEMPTS, ending, is_futile
from onecycle_sweeps.trial_folder import TrialFolder
from slurm_cluster import Cluster

IN_BOTH_MODES = pytest.mark.parametrize("cluster", ["no accounting", "accounting"], indirect=True)
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
    ("ended", "output", "words", "again"),
    [
        (job("TIMEOUT"), "", "time limit on n1 step 40", True),
        (job("NODE_FAIL"), "", "node failure on n1 step 40", True),
        (job("PREEMPTED"), "", "preempted on n1 step 40", True),
        (job("OUT_OF_MEMORY"), "", "out of memory on n1 hydra.launcher.mem_gb", False),
        (job("FAILED", code=137), "slurmstepd: error: Step 7.0 exceeded memory limit", "memory hydra.launcher", False),
        (job("FAILED", signal=9), "", "killed by signal 9 on n1", False),
        (job("FAILED", code=139), "srun: error: Segmentation fault", "killed by signal 11 on n1", False),
        (job("CANCELLED"), "", "7_0 cancelled", False),
        (job("COMPLETED"), "", "7_0 COMPLETED status 0 no result", False),
        (
            job("FAILED", code=1),
            "Traceback\nImportError: no torch\nsrun: error: n1: task 0: Exited",
            "7_0 FAILED status 1 no result ImportError: no torch",
            False,
        ),
    ],
)
def test_the_cause_of_an_attempt_that_was_cut_short(
    trial: TrialFolder, ended: Job, output: str, words: str, again: bool
):
    attempt(trial, 0, 40)
    found = ending(ended, trial, output)
    assert {word for word in words.split() if word not in found.cause} == set()
    assert (found.again, found.cancelled) == (again, ended.state == "CANCELLED")


def test_an_attempt_that_saved_and_left_may_continue_whatever_state_slurm_reports(trial: TrialFolder):
    attempt(trial, 0, 40, end="stopped")
    assert ending(job("FAILED", code=75), trial, "").again
    assert ending(job("COMPLETED"), trial, "").again


@pytest.mark.parametrize(
    ("ended", "output", "words", "again"),
    [
        (job("FAILED", signal=12), "", "signal on n1 before", True),
        (job("FAILED", code=140), "User defined signal 2", "signal on n1 before", True),
        (job("FAILED", code=1, reason="NonZeroExitCode"), "sh: no", "not started n1 NonZeroExitCode sh: no", False),
        (job("FAILED", signal=9, reason="JobLaunchFailure"), "", "not started n1 JobLaunchFailure", False),
    ],
)
def test_the_cause_of_a_job_that_never_reached_its_trial(
    trial: TrialFolder, ended: Job, output: str, words: str, again: bool
):
    found = ending(ended, trial, output)
    assert {word for word in words.split() if word not in found.cause} == set()
    assert found.again is again


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


@IN_BOTH_MODES
def test_jobs_that_are_killed_or_cancelled_by_scancel_end_their_trials_and_resume_continues_them(
    cluster: Cluster, tmp_path: Path, beside: Path
):
    words = overrides("Slow", "seed=0,1,2,3", "hydra.launcher.array_parallelism=2")
    process = start(cluster, tmp_path, *words)
    at_step(tmp_path, 30, seed="1")
    cluster.run("scancel", "1_1", "1_3")
    at_step(tmp_path, 40)
    os.kill(job_process(cluster, "SLURM_ARRAY_TASK_ID=0\0"), signal.SIGKILL)
    assert ends(process, tmp_path) == 1
    assert states(tmp_path)["0"].status == "failed"
    assert "killed by signal 9 on n" in (states(tmp_path)["0"].cause or "")
    assert "failed, killed by signal 9" in said(tmp_path)
    assert states(tmp_path)["1"].status == "cancelled"
    assert states(tmp_path)["2"].status == "finished"
    # SLURM keeps no record of an array's element that had not begun.
    assert states(tmp_path)["3"].status in ("lost", "cancelled")
    check_mlflow(tmp_path)
    done = run(cluster, tmp_path, "resume", pause=0.0)
    assert done.returncode == 0, done.stderr
    assert {one.status for one in states(tmp_path).values()} == {"finished"}
    assert trainings(tmp_path)["0"].attempts() == 2
    check_undisturbed(trainings(tmp_path)["0"], beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


@IN_BOTH_MODES
def test_a_job_without_a_result_has_failed_whatever_slurm_reports_and_is_not_run_again(
    cluster: Cluster, tmp_path: Path
):
    causes = {
        "Greedy": "out of memory on n",
        "Vanishing": "ended as COMPLETED with status 0 and no result",
        "Failing": "ArithmeticError: not today (nodes_code.py:",
    }
    (tmp_path / "happens").touch()
    nets = "model._target_=" + ",".join(f"nodes_code.{net}" for net in causes)
    # SLURM counts the memory of processes that the job itself has started, so the greedy one must load its libraries.
    setup = f"hydra.launcher.setup=['[ $SLURM_ARRAY_TASK_ID != 0 ] || unset {warm.ADDRESS}']"
    process = start(cluster, tmp_path, *overrides("Slow", nets, "seed=0", setup), pause=0.02)
    assert ends(process, tmp_path) == 1
    trials = {one.config()["model"]["_target_"].rpartition(".")[2]: one for one in program.trials(tmp_path).values()}
    assert set(trials) == set(causes)
    for net, one in trials.items():
        assert one.state().status == "failed"
        assert causes[net] in (one.state().cause or "")
        assert causes[net] in said(tmp_path)
        assert one.attempts() == 1


def test_a_range_test_that_raises_an_error_is_not_run_again_by_the_trainings_that_need_it(
    cluster: Cluster, tmp_path: Path
):
    (tmp_path / "happens").touch()
    words = [word for word in overrides("Failing", "seed=0,1") if not word.startswith("max_lr")]
    assert ends(start(cluster, tmp_path, *words, pause=0.0), tmp_path) == 1
    whole = program.sweep_of(tmp_path)
    assert [whole.trial(entry.signature).attempts() for entry in whole.trials] == [1, 0, 0]
    for one in states(tmp_path).values():
        assert one.status == "failed"
        assert "range test" in (one.cause or "")
        assert "ArithmeticError: not today" in (one.cause or "")


def test_if_the_reports_job_is_refused_the_user_is_pointed_to_the_verb(cluster: Cluster, tmp_path: Path):
    choosy = in_its_place(
        cluster, tmp_path, "sbatch", 'grep -q time=10 "$1" && echo no >&2 && exit 1; exec {real} "$@"'
    )
    words = ("policy=constant", "epochs=1", "max_lr=0.1", "seed=0")
    assert ends(start(choosy, tmp_path, *words, pause=0.0), tmp_path) == 0
    assert "use the verb report" in said(tmp_path)


def test_a_broken_environment_on_the_node_is_reported(cluster: Cluster, tmp_path: Path):
    # The first job's shell ends, and the second one's Python does not start.
    setup = "'if [ \"$SLURM_ARRAY_TASK_ID\" = 0 ]; then false; else export PYTHONHOME=/nowhere; fi'"
    broken = overrides("Slow", "seed=0,1", f"hydra.launcher.setup=[{setup}]")
    assert ends(start(cluster, tmp_path, *broken), tmp_path) == 1
    check_mlflow(tmp_path)
    for one in states(tmp_path).values():
        assert one.status == "failed"
        assert "could not be started" in (one.cause or "")


def test_a_request_that_the_cluster_refuses_is_one_line_and_leaves_no_job(cluster: Cluster, tmp_path: Path):
    refusals = {
        "hydra.launcher.partition=nowhere": "invalid partition specified: nowhere",
        "hydra.launcher.gpus_per_node=5": "Requested node configuration is not available",
        "hydra.launcher.timeout_min=0": "hydra.launcher.timeout_min must be a whole number of minutes from 1 on",
        "hydra.launcher.additional_parameters={output: mine}": "additional_parameters.output is set by",
    }
    for bad, said_of_it in refusals.items():
        (tmp_path / "said").unlink(missing_ok=True)
        process = start(cluster, tmp_path, *overrides("Slow", "seed=0,1", bad))
        assert ends(process, tmp_path) in (1, 2)
        assert said_of_it in said(tmp_path)
        assert "Traceback" not in said(tmp_path)
        assert cluster.run("squeue", "-h") == ""
        assert {one.job() is None for one in program.trials(tmp_path).values()} <= {True}


@pytest.mark.parametrize("cluster", ["accounting"], indirect=True)
def test_cancel_ends_running_and_waiting_trials_and_resume_continues_them(
    cluster: Cluster, tmp_path: Path, beside: Path
):
    words = overrides("Slow", "seed=0,1", "hydra.launcher.array_parallelism=1", "hydra.launcher.wait=false")
    assert ends(start(cluster, tmp_path, *words), tmp_path) == 0
    at_step(tmp_path, 30)
    assert {seed: one.status for seed, one in states(tmp_path).items()} == {"0": "running", "1": "queued"}
    done = run(cluster, tmp_path, "cancel")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 trials are cancelled" in done.stdout
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the jobs' end")
    assert {one.status for one in states(tmp_path).values()} == {"cancelled"}
    assert trainings(tmp_path)["1"].attempts() == 0
    assert run(cluster, tmp_path, "resume", pause=1.0).returncode == 0
    at_step(tmp_path, 40, attempt=2)
    assert run(cluster, tmp_path, "cancel").returncode == 0
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the jobs' end")
    assert run(cluster, tmp_path, "sync").returncode == 0
    for one in trainings(tmp_path).values():
        ((_, status, _),) = program.runs_of(tmp_path, one.signature)
        assert status == "KILLED"
    assert run(cluster, tmp_path, "resume", pause=0.0).returncode == 0
    assert run(cluster, tmp_path, "status", "--watch").stdout.rstrip().endswith("2 finished")
    check_undisturbed(trainings(tmp_path)["0"], beside, *overrides("Slow", "seed=0"))


def test_a_trial_whose_net_was_edited_starts_again_and_says_so(cluster: Cluster, tmp_path: Path):
    net = "from nodes_code import Slow\n\n\nclass Mine(Slow):\n    pass\n"
    (tmp_path / "mine.py").write_text(net)
    words = [word.replace("nodes_code.Slow", "mine.Mine") for word in overrides("Slow", "seed=0")]
    command = start(cluster, tmp_path, *words)
    at_step(tmp_path, 30)
    assert run(cluster, tmp_path, "cancel").returncode == 0
    ends(command, tmp_path)
    (tmp_path / "mine.py").write_text(f"{net}# edited\n")
    assert ends(start(cluster, tmp_path, *words, pause=0.0), tmp_path) == 0
    assert "mine.py changed after step" in said(tmp_path)
    record = journal.read(trainings(tmp_path)["0"].journal)
    assert [attempt.start for attempt in record.attempts] == [0, 0]


def test_a_cancelled_attempt_ends_even_if_slurm_does_not_answer(cluster: Cluster, tmp_path: Path):
    words = overrides("Slow", "seed=0", "hydra.launcher.wait=false")
    assert ends(start(cluster, tmp_path, *words, pause=1.0), tmp_path) == 0
    at_step(tmp_path, 10)
    cluster.kill("slurmctld")
    done = run(cluster, tmp_path, "cancel")
    assert done.returncode == 1
    assert "scancel: " in done.stderr
    cluster.wait_for(lambda: states(tmp_path)["0"].status == "cancelled", "the attempt's end")
    assert trainings(tmp_path)["0"].checkpoint.exists()


def test_a_sweep_can_be_submitted_from_inside_a_job(cluster: Cluster, tmp_path: Path):
    words = [*program.MODULE, "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=1", "hydra.launcher.mem_gb=2"]
    words += ["policy=constant", "epochs=1", "max_lr=0.1", "seed=0", "-m"]
    inside = ["srun", "--mem=2G", "--ntasks=1", "--gpus-per-node=1", f"--chdir={tmp_path}", *words]
    cluster.run(*inside)
    assert states(tmp_path)["0"].status == "finished"
