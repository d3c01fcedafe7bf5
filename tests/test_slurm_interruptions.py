"""Jobs of a real cluster that are interrupted, and the deaths of its launcher, nodes and controller."""

import signal
import time
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
    overrides,
    run,
    said,
    start,
    states,
    trainings,
)
from onecycle_sweeps import journal
from slurm_cluster import Cluster

# Slow, so that these long tests begin first, above all those that wait for a time limit of a minute.
pytestmark = pytest.mark.slow
FUNCTION = ("loop=function", "loop._target_=own_loops.train", "loop.measure=accuracy", "loop.goal=max", "max_lr=0.1")
# Takes all of every node for a moment.
GREEDY = ("--partition=high", "--nodes=4", "--exclusive", "--ntasks=4", "--time=1")


@pytest.mark.parametrize("cluster", ["no accounting", "accounting"], indirect=True)
def test_a_time_limit_that_comes_without_notice_costs_no_saved_step(cluster: Cluster, tmp_path: Path, beside: Path):
    silent = in_its_place(cluster, tmp_path, "sbatch", 'sed -i /--signal/d "$1"; exec {real} "$@"')
    words = overrides("Slow", "seed=0", "hydra.launcher.timeout_min=1")
    assert ends(start(silent, tmp_path, *words, pause=1.0), tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    attempts = journal.read(one.journal).attempts
    assert len(attempts) >= 2
    assert attempts[1].start == attempts[0].saved > 30
    assert "1 trial again" in said(tmp_path)
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


def test_a_trial_outlives_a_time_limit_of_a_minute(cluster: Cluster, tmp_path: Path, beside: Path):
    words = overrides("Slow", "seed=0", "hydra.launcher.timeout_min=1")
    process = start(cluster, tmp_path, *words, pause=0.9)
    assert ends(process, tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    assert one.attempts() >= 2
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


@pytest.mark.parametrize("cluster", ["no accounting", "silent preemption", "no requeue"], indirect=True)
def test_a_preempted_trial_saves_and_ends_with_the_same_bits(cluster: Cluster, tmp_path: Path, beside: Path):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0", "hydra.launcher.partition=low"))
    at_step(tmp_path, 30)
    cluster.sbatch("sleep 2", *GREEDY)
    assert ends(process, tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    first, *_, last = journal.read(one.journal).attempts
    assert first.end == "stopped"
    assert first.saved >= 30
    assert last.place["slurm_restarts"] == "1"
    assert last.start == first.saved
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


@pytest.mark.parametrize("cluster", ["no accounting"], indirect=True)
def test_a_preempted_training_function_goes_on_where_it_saved(cluster: Cluster, tmp_path: Path, beside: Path):
    words = (*FUNCTION, "epochs=10", "seed=0", "checkpoint_minutes=0.005")
    process = start(cluster, tmp_path, *words, "hydra.launcher.partition=low")
    at_step(tmp_path, 30)
    cluster.sbatch("sleep 2", *GREEDY)
    assert ends(process, tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    first, *_, last = journal.read(one.journal).attempts
    assert first.end == "stopped"
    assert last.start == first.saved >= 30
    check_undisturbed(one, beside, *words)
    check_mlflow(tmp_path)


def test_if_the_cluster_forbids_a_requeue_watching_submits_the_trial_again(
    cluster: Cluster, tmp_path: Path, beside: Path
):
    forbidden = "hydra.launcher.additional_parameters={no-requeue: true}"
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0", forbidden, "hydra.launcher.wait=false"))
    assert ends(process, tmp_path) == 0
    at_step(tmp_path, 30)
    cluster.run("scancel", "--signal=USR2", "1_0")
    cluster.wait_for(lambda: cluster.state("1_0") not in ("RUNNING", "COMPLETING"), "the job's end")
    status = run(cluster, tmp_path, "status")
    assert "waiting" in status.stdout
    assert "resumes at step" in status.stdout
    assert trainings(tmp_path)["0"].attempts() == 1
    watched = run(cluster, tmp_path, "status", "--watch", pause=0.0)
    assert "1 trial again" in watched.stderr
    assert watched.stdout.rstrip().endswith("1 finished")
    check_undisturbed(trainings(tmp_path)["0"], beside, *overrides("Slow", "seed=0"))


def test_a_requeued_job_continues_from_its_last_save_and_does_not_affect_the_others_of_its_array(
    cluster: Cluster, tmp_path: Path, beside: Path
):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0,1,2"))
    at_step(tmp_path, 30, seed="2")
    # The last element of an array bears the array's number.
    cluster.run("scancel", "--signal=USR2", "1_2")
    at_step(tmp_path, 30)
    # SLURM requeues this one without a signal before.
    cluster.run("scontrol", "requeue", "1_0")
    assert ends(process, tmp_path) == 0, said(tmp_path)
    assert {seed: one.attempts() for seed, one in trainings(tmp_path).items()} == {"0": 2, "1": 1, "2": 2}
    one = trainings(tmp_path)["0"]
    assert journal.read(one.journal).attempts[-1].start >= 30
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))


def test_a_signal_while_a_job_starts_costs_nothing(cluster: Cluster, tmp_path: Path):
    # A job that loads its libraries takes long to start.
    setup = f"hydra.launcher.setup=['unset {warm.ADDRESS}']"
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0", setup), pause=0.02)
    cluster.wait_for(lambda: cluster.run("squeue", "-h", "-t", "RUNNING"), "the job's start")
    for _ in range(10):
        cluster.attempt("scancel", "--signal=USR2", "1_0")
    assert ends(process, tmp_path) == 0, said(tmp_path)
    assert states(tmp_path)["0"].status == "finished"


def test_jobs_continue_after_ctrl_c(cluster: Cluster, tmp_path: Path):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0"))
    at_step(tmp_path, 20)
    process.send_signal(signal.SIGINT)
    assert ends(process, tmp_path) == 130
    assert "continues without this command" in said(tmp_path)
    assert "cancel" in said(tmp_path)
    assert run(cluster, tmp_path, "status", "--watch").stdout.rstrip().endswith("1 finished")
    assert trainings(tmp_path)["0"].attempts() == 1


def node_of(folder: Path) -> str:
    head = journal.latest_attempt(trainings(folder)["0"].journal)
    assert head is not None
    return head.place["node"]


def test_the_same_command_takes_over_from_a_launcher_that_was_killed(cluster: Cluster, tmp_path: Path, beside: Path):
    words = overrides("Slow", "seed=0,1")
    process = start(cluster, tmp_path, *words)
    at_step(tmp_path, 20)
    process.kill()
    process.wait()
    assert ends(start(cluster, tmp_path, *words), tmp_path) == 0, said(tmp_path)
    assert said(tmp_path).count("submitted job") == 2
    assert {one.attempts() for one in trainings(tmp_path).values()} == {1}
    check_undisturbed(trainings(tmp_path)["0"], beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


@pytest.mark.parametrize("moment", ["before sbatch", "after sbatch"])
def test_a_launcher_that_is_killed_around_sbatch_leaves_no_trial_twice_and_none_forgotten(
    cluster: Cluster, tmp_path: Path, moment: str
):
    call = '{real} "$@"; sleep 1; ' if moment == "after sbatch" else ""
    broken = in_its_place(cluster, tmp_path, "sbatch", f"{call}kill -9 $PPID")
    words = overrides("Slow", "seed=0,1")
    assert ends(start(broken, tmp_path, *words, pause=0.0), tmp_path) == -signal.SIGKILL
    assert ends(start(cluster, tmp_path, *words, pause=0.0), tmp_path) == 0, said(tmp_path)
    assert {one.status for one in states(tmp_path).values()} == {"finished"}
    assert {one.attempts() for one in trainings(tmp_path).values()} == {1}


def test_the_trial_of_a_node_that_dies_runs_on_another(cluster: Cluster, tmp_path: Path, beside: Path):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0"))
    at_step(tmp_path, 30)
    cluster.crash(node_of(tmp_path))
    assert ends(process, tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    assert one.attempts() == 2
    assert len({attempt.place["node"] for attempt in journal.read(one.journal).attempts}) == 2
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


def test_of_two_live_copies_the_superseded_one_stops_and_says_why(cluster: Cluster, tmp_path: Path, beside: Path):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0"), pause=0.6)
    at_step(tmp_path, 5)
    # The node's daemon dies and the job lives: SLURM takes the node for lost and runs the job elsewhere as well.
    cluster.kill(node_of(tmp_path))
    assert ends(process, tmp_path) == 0, said(tmp_path)
    one = trainings(tmp_path)["0"]
    first, second = journal.read(one.journal).attempts
    cluster.wait_for(lambda: journal.read(one.journal).attempts[0].end, "the end of the first copy")
    assert journal.read(one.journal).attempts[0].end == "superseded"
    assert "attempt 2 has taken over" in (journal.read(one.journal).attempts[0].cause or "")
    assert (one.result() or {})["attempt"] == second.number == 2
    assert first.place["slurm_job_id"] == second.place["slurm_job_id"]
    check_undisturbed(one, beside, *overrides("Slow", "seed=0"))
    check_mlflow(tmp_path)


def test_while_the_controller_is_down_jobs_continue_and_the_sweep_says_so(cluster: Cluster, tmp_path: Path):
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0"))
    at_step(tmp_path, 30)
    cluster.kill("slurmctld")
    assert ends(process, tmp_path) == 0, said(tmp_path)
    assert states(tmp_path)["0"].status == "finished"
    assert "squeue: " in said(tmp_path)
    status = run(cluster, tmp_path, "status")
    assert "1 finished" in status.stdout
    check_mlflow(tmp_path)


def test_a_submission_waits_for_a_controller_that_is_down(cluster: Cluster, tmp_path: Path):
    cluster.kill("slurmctld")
    process = start(cluster, tmp_path, *overrides("Slow", "seed=0"), pause=0.0)
    program.wait_until(lambda: list(tmp_path.glob("runs/sweeps/*/sweep.json")), "the record of the sweep")
    # SLURM's programs wait nine seconds for a controller.
    time.sleep(12)
    cluster.start("slurmctld")
    assert ends(process, tmp_path) == 0, said(tmp_path)
    assert said(tmp_path).count("submitted job") == 2
    assert trainings(tmp_path)["0"].attempts() == 1


def test_without_slurm_the_verbs_show_what_the_folders_record(cluster: Cluster, tmp_path: Path):
    words = overrides("Slow", "seed=0", "hydra.launcher.wait=false")
    assert ends(start(cluster, tmp_path, *words, pause=0.3), tmp_path) == 0
    elsewhere = Cluster(cluster.folder, cluster.environment | {"PATH": "/nowhere"})
    asked = run(elsewhere, tmp_path, "status")
    assert "squeue: squeue is not on the PATH; their last known status is shown" in asked.stderr
    assert "Traceback" not in asked.stderr
    program.wait_until(lambda: states(tmp_path)["0"].status == "finished", "the trial's end", 120)
    assert run(elsewhere, tmp_path, "status").stdout.rstrip().endswith("1 finished")
    assert run(elsewhere, tmp_path, "sync").returncode == 0
    check_mlflow(tmp_path)
