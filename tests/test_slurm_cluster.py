"""The throw-away SLURM cluster does what a cluster does, and leaves nothing behind."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import slurm_cluster
from slurm_cluster import Cluster

# Says which signal came, as a training would; the shell itself must not end before it has.
LISTENER = 'trap "echo got USR2" USR2; trap "echo got TERM" TERM; echo ready; for i in $(seq 600); do sleep 0.1; done'
HOG = "python3 -c 'import time; x = b\"x\" * (300 << 20); time.sleep(60)'"


def test_it_answers_a_client_and_listens_on_loopback_only(cluster: Cluster) -> None:
    answers = cluster.run("srun", "--nodes=4", "printenv", "SLURMD_NODENAME")
    assert sorted(answers.split()) == ["n1", "n2", "n3", "n4"]
    addresses = _listening(cluster.processes())
    assert len(addresses) == 5
    assert set(addresses) == {"127.0.0.1"}


def test_each_job_on_a_node_has_a_gpu_of_its_own(cluster: Cluster) -> None:
    ask = ("--nodelist=n1", "--gpus=1")
    jobs = [cluster.sbatch("echo GPU $CUDA_VISIBLE_DEVICES; sleep 60", *ask) for _ in range(3)]
    cluster.wait_for(lambda: all(cluster.output(job) for job in jobs[:2]), "two jobs' words")
    assert sorted(cluster.output(job) for job in jobs[:2]) == ["GPU 0\n", "GPU 1\n"]
    assert cluster.state(jobs[2]) == "PENDING"


def test_a_job_that_exceeds_its_memory_is_killed(cluster: Cluster) -> None:
    job = cluster.sbatch(HOG, "--mem=50")
    cluster.wait_for(lambda: cluster.state(job) == "FAILED", "the end of a job without memory")
    assert "exceeded memory limit" in cluster.output(job)


def test_a_requeued_job_starts_again_soon(cluster: Cluster) -> None:
    job = cluster.sbatch("echo run ${SLURM_RESTART_COUNT:-0}; sleep 60", "--open-mode=append")
    cluster.wait_for(lambda: "run 0" in cluster.output(job), "the first start")
    cluster.run("scontrol", "requeue", job)
    # By SLURM's defaults it would take two minutes.
    cluster.wait_for(lambda: "run 1" in cluster.output(job), "the second start")


@pytest.mark.parametrize("cluster", ["no requeue"], indirect=True)
def test_a_cluster_can_refuse_to_requeue(cluster: Cluster) -> None:
    job = cluster.sbatch("sleep 60")
    cluster.wait_for(lambda: cluster.state(job) == "RUNNING", "the start")
    refused = cluster.attempt("scontrol", "requeue", job)
    assert refused.returncode != 0
    assert "disabled" in refused.stderr


@pytest.mark.parametrize(
    ("cluster", "expected"), [("no accounting", "got USR2"), ("silent preemption", "got TERM")], indirect=["cluster"]
)
def test_a_job_of_high_preempts_a_job_of_low_with_the_configured_signal(cluster: Cluster, expected: str) -> None:
    whole = ("--exclusive", "--nodes=4")
    low = cluster.sbatch(f"srun --ntasks=1 bash -c '{LISTENER}'", "--partition=low", "--signal=USR2@90", *whole)
    cluster.wait_for(lambda: "ready" in cluster.output(low), "a job of low")
    cluster.sbatch("sleep 60", "--partition=high", *whole)
    cluster.wait_for(lambda: "got" in cluster.output(low), "a signal to the job of low")
    assert set(re.findall("got .*", cluster.output(low))) == {expected}


@pytest.mark.parametrize("cluster", ["accounting"], indirect=True)
def test_with_accounting_sacct_knows_how_a_job_ended(cluster: Cluster) -> None:
    job = cluster.sbatch("exit 3")
    ask = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode")
    cluster.wait_for(lambda: cluster.run(*ask) == "FAILED|3:0", "the end in the accounts")


def test_without_accounting_sacct_refuses(cluster: Cluster) -> None:
    refused = cluster.attempt("sacct")
    assert refused.returncode != 0
    assert "accounting storage is disabled" in refused.stderr


def test_a_job_survives_the_death_of_the_controller_and_of_its_nodes_daemon(cluster: Cluster) -> None:
    job = cluster.sbatch("while [ ! -e go ]; do sleep 0.1; done; echo done", f"--chdir={cluster.folder}")
    cluster.wait_for(lambda: cluster.state(job) == "RUNNING", "the start")
    cluster.settle(job)
    for daemon in ("slurmctld", "n1"):
        cluster.kill(daemon)
        cluster.start(daemon)
    (cluster.folder / "go").touch()
    cluster.wait_for(lambda: cluster.state(job) == "COMPLETED", "the end")
    assert cluster.output(job) == "done\n"


def test_a_node_that_crashes_takes_its_jobs_with_it_and_no_other_node(cluster: Cluster) -> None:
    jobs = [cluster.sbatch("echo here; sleep 60", f"--nodelist={node}") for node in ("n1", "n2")]
    cluster.wait_for(lambda: all(cluster.output(job) for job in jobs), "the jobs")
    alive = cluster.processes("n2")
    cluster.crash("n1")
    assert cluster.processes("n1") == []
    # The daemon, the step, the script and its sleep.
    assert len(alive) == 4
    assert cluster.processes("n2") == alive


@pytest.mark.slow
def test_two_clusters_do_not_disturb_each_other_and_down_leaves_nothing_of_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.up(tmp_path_factory.mktemp("slurm"), "--nodes=1") as other:
        kept = other.sbatch("sleep 60")
        other.wait_for(lambda: other.state(kept) == "RUNNING", "the other's job")
        with slurm_cluster.up(folder, "--nodes=1") as cluster:
            job = cluster.sbatch("env --ignore-environment setsid sleep 61.5 & sleep 61.5")
            cluster.wait_for(lambda: cluster.state(job) == "RUNNING", "the job")
            cluster.wait_for(lambda: len(_called("sleep\x0061.5")) == 2, "both processes of the job")
            cluster.kill("slurmctld")
        assert cluster.processes() == []
        assert _called("sleep\x0061.5") == []
        assert other.state(kept) == "RUNNING"
    assert other.processes() == []


def test_missing_programs_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    programs = {name: shutil.which(name) for name in ("bash", "dirname", "readlink")}
    for name, program in {**programs, "python3": os.path.realpath(sys.executable)}.items():
        (tmp_path / name).symlink_to(program or "/")
    command = [slurm_cluster.SCRIPT, "up", tmp_path / "cluster"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "srun: apt-get install --no-install-recommends slurm-wlm" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "cluster").exists()


@pytest.mark.parametrize("cluster", ["--nodes=1, --set KillWait=17"], indirect=True)
def test_any_line_of_slurm_conf_can_be_set(cluster: Cluster) -> None:
    assert re.search(r"^KillWait += 17 sec$", cluster.run("scontrol", "show", "config"), flags=re.MULTILINE)


@pytest.mark.slow
def test_down_can_be_repeated_and_needs_no_cluster(tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run([slurm_cluster.SCRIPT, "down", tmp_path], check=True, timeout=60)


def _listening(pids: list[int]) -> list[str]:
    """The addresses on which processes listen, one for each port."""
    files = {name for pid in pids for name in _links(Path(f"/proc/{pid}/fd"))}
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    own = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in files]
    return [".".join(str(byte) for byte in reversed(bytes.fromhex(address))) for address in own]


def _links(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        # A daemon closes files at any time.
        with suppress(FileNotFoundError):
            yield str(path.readlink())


def _called(words: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_text().startswith(words):
                found.append(path)
        except OSError:
            continue
    return found
