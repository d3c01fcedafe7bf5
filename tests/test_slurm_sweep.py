"""A sweep on a real cluster from its command to its table."""

import getpass
import json
import os
from pathlib import Path

import pytest

import program
from cluster_sweeps import check_mlflow, ends, run, said, start
from onecycle_sweeps import journal
from onecycle_sweeps.trial_folder import TrialFolder
from slurm_cluster import Cluster
from test_hydra_jobs import FILES, JOBS, check_noted
from tracking_server import mlflow_server

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cluster", ["--nodes=1"], indirect=True)
def test_trials_find_their_rate_and_finish_each_on_a_gpu_of_its_own(cluster: Cluster, tmp_path: Path):
    # Two of the four trainings wait for the node's two GPUs.
    words = ("policy=constant,step,clr,onecycle", "epochs=1", "hydra.launcher.gpus_per_node=1")
    process = start(cluster, tmp_path, *words, "seed=0")
    assert ends(process, tmp_path) == 0, said(tmp_path)
    whole = program.sweep_of(tmp_path)
    assert [entry.kind for entry in whole.trials] == ["range_test"] + ["train"] * 4
    rates = {(whole.trial(entry.signature).resolved() or {})["max_lr"] for entry in whole.trials[1:]}
    assert len(rates) == 1
    check_mlflow(tmp_path)
    shares = [span(whole.trial(entry.signature)) for entry in whole.trials]
    for number, (gpu, begin, end) in enumerate(shares):
        for other, other_begin, other_end in shares[:number]:
            assert gpu != other or end <= other_begin or other_end <= begin
    assert len({place for place, _, _ in shares}) > 1
    assert "final val accuracy" in said(tmp_path)


@pytest.mark.parametrize("cluster", ["no accounting, --set MaxArraySize=2"], indirect=True)
def test_a_sweep_in_several_arrays_can_be_left_and_its_verbs_work_from_any_shell(cluster: Cluster, tmp_path: Path):
    words = ("policy=constant,step,onecycle", "epochs=1", "max_lr=0.1", "seed=0", "hydra.launcher.wait=false")
    process = start(cluster, tmp_path, *words)
    assert ends(process, tmp_path) == 0, said(tmp_path)
    assert "continues without this command" in said(tmp_path)
    assert said(tmp_path).count("submitted job") == 3
    watched = run(cluster, tmp_path, "status", "--watch")
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout.rstrip().endswith("3 finished")
    assert run(cluster, tmp_path, "sync").returncode == 0
    check_mlflow(tmp_path)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the last job's end")
    report = program.sweep_of(tmp_path).report
    assert (report / "trials.csv").exists()
    # What was submitted is plain data, which no edit of a config reaches.
    submitted = report.parent / "jobs"
    assert not list(submitted.rglob("*.pkl"))
    assert submitted.stat().st_mode & 0o777 == 0o700
    told = [json.loads(path.read_text()) for path in submitted.glob("*.json")]
    assert [len(one["trials"]) for one in sorted(told, key=lambda one: one["created"])] == [2, 1, 0]
    # The same command again finds nothing to do, and asks the cluster for nothing.
    jobs = sorted(path.name for path in report.parent.glob("jobs/*.json"))
    assert ends(start(cluster, tmp_path, *words), tmp_path) == 0
    assert sorted(path.name for path in report.parent.glob("jobs/*.json")) == jobs


def test_jobs_ship_to_a_server_and_record_where_they_ran(cluster: Cluster, tmp_path: Path):
    port = 5392
    with mlflow_server(f"sqlite:///{program.with_store(tmp_path)}/mlflow.db", port):
        words = (f"tracking.uri=http://127.0.0.1:{port}", "policy=constant", "epochs=1", "max_lr=0.1", "seed=0,1")
        assert ends(start(cluster, tmp_path, *words, "hydra.launcher.wait=false"), tmp_path) == 0, said(tmp_path)
        cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the last job's end", 180)
        check_mlflow(tmp_path)
        whole = program.sweep_of(tmp_path)
        for number, entry in enumerate(whole.trials):
            tags = program.tags_of(tmp_path, entry.signature)
            assert tags["slurm_job_id"] == f"1_{number}"
            assert tags["node"].startswith("n")
            assert tags["partition"] == "main"
            assert (tags["attempts"], tags["status"]) == ("1", "finished")


def span(trial: TrialFolder) -> tuple[tuple[str, str], float, float]:
    """The node and GPU that a trial had, from when to when."""
    (attempt,), result = journal.read(trial.journal).attempts, trial.result()
    assert result is not None
    return (attempt.place["node"], attempt.place["gpu"]), attempt.time, result["finished"]


def test_an_experiment_that_chooses_the_cluster_runs_there_as_hydra_runs_jobs(cluster: Cluster, tmp_path: Path):
    program.write(program.with_store(tmp_path), FILES)
    done = run(cluster, tmp_path, *JOBS, "experiment=on_slurm", "hydra.launcher.mem_gb=2", "-m")
    assert done.returncode == 0, done.stderr
    check_noted(tmp_path, program.sweep_of(tmp_path))
    assert list(program.sweep_of(tmp_path).folder.glob("jobs/*.json"))


@pytest.mark.parametrize(
    "cluster", ["accounting, --set MaxArraySize=8, --set AccountingStorageEnforce=associations,limits"], indirect=True
)
def test_a_sweep_larger_than_the_users_limit_of_jobs_goes_on_by_its_jobs_alone(cluster: Cluster, tmp_path: Path):
    """CLUSTER_TRIALS is how many trainings it has; by default few more than the limit."""
    seeds = int(os.environ.get("CLUSTER_TRIALS", "8")) // 2
    limit_jobs(cluster, 6)
    words = ("policy=constant,onecycle", "epochs=1", "max_lr=0.1", f"seed=range({seeds})", "hydra.launcher.wait=false")
    assert ends(start(cluster, tmp_path, *words), tmp_path) == 0, said(tmp_path)
    assert "wait until other jobs of yours end" in said(tmp_path) and "MaxSubmitJob" in said(tmp_path)
    whole = program.sweep_of(tmp_path)
    assert len(whole.trials) == 2 * seeds
    cluster.wait_for(lambda: (whole.report / "trials.csv").exists(), "the report", 120 + 30 * seeds)
    assert all(whole.trial(entry.signature).state().status == "finished" for entry in whole.trials)
    assert all(len(journal.attempts(whole.trial(entry.signature).journal)) == 1 for entry in whole.trials)
    # Where only one job is allowed, a job that ends finds no room: the command that waits submits the next.
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the last job's end")
    limit_jobs(cluster, 1)
    assert ends(start(cluster, tmp_path, "policy=step", *words[1:3], "seed=0,1"), tmp_path) == 0, said(tmp_path)
    assert "this command submits" in said(tmp_path)
    whole = program.sweep_of(tmp_path)
    assert [whole.trial(entry.signature).state().status for entry in whole.trials] == ["finished"] * 2
    check_mlflow(tmp_path)


def limit_jobs(cluster: Cluster, most: int) -> None:
    """Allow this user so many jobs at once."""
    cluster.run("sacctmgr", "-i", "modify", "user", f"name={getpass.getuser()}", "set", f"MaxSubmitJobs={most}")
    known = ("scontrol", "show", "assoc_mgr", "flags=assoc")
    cluster.wait_for(lambda: f"MaxSubmitJobs={most}" in cluster.run(*known), "the limit")
