"""Runs sweeps on a real cluster as users do, and checks what they leave on disk and in MLflow."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import program
import warm
from onecycle_sweeps import journal, sweep
from onecycle_sweeps.trial_folder import TrialFolder, TrialState
from real_trials import outcome, undisturbed
from slurm_cluster import Cluster

TESTS = Path(__file__).resolve().parent
ON_SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=2")
# 100 steps of a tenth of a second, so that a trial can be interrupted between its steps.
NET = ("~model", "+model={_target_: nodes_code.%s}", "policy=onecycle", "max_lr=0.1", "save_model=true")
LONG = ("epochs=20", "batch_size=256", "checkpoint_minutes=0.005")
SECONDS = 400


def overrides(net: str = "Slow", *more: str) -> list[str]:
    """A trial of a net of nodes_code, long enough to be interrupted."""
    return [NET[0], NET[1] % net, *NET[2:], *LONG, *more]


def environment(cluster: Cluster, pause: float = 0.1) -> dict[str, str]:
    """The environment of a shell on the cluster's login node."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    outside = cluster.environment | {"PYTHONPATH": path, "NODES_PAUSE": str(pause)}
    return warm.environment(program.shared(cluster.folder), outside)


def start(cluster: Cluster, folder: Path, *words: str, pause: float = 0.1) -> subprocess.Popen[str]:
    """Start a sweep on the login node, in a folder with a store; its output goes to the file `said`."""
    program.with_store(folder)
    with (folder / "said").open("a") as said:
        return subprocess.Popen(
            [*program.MODULE, *ON_SLURM, *words, "-m"],
            cwd=folder,
            env=environment(cluster, pause),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
            start_new_session=True,
        )


def run(cluster: Cluster, folder: Path, *words: str, pause: float = 0.1) -> subprocess.CompletedProcess[str]:
    """Run a command of the program, such as a verb."""
    return program.ended([*program.MODULE, *words], folder, environment(cluster, pause), SECONDS)


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def trainings(folder: Path) -> dict[str, TrialFolder]:
    """The folders of the latest sweep's trainings by seed."""
    whole = program.sweep_of(folder)
    return {e.varies["seed"]: whole.trial(e.signature) for e in whole.trials if e.kind == sweep.TRAIN}


def states(folder: Path) -> dict[str, TrialState]:
    return {seed: training.state() for seed, training in trainings(folder).items()}


def at_step(folder: Path, step: int, seed: str = "0", attempt: int = 1) -> None:
    """Return once an attempt at a training has recorded this step."""

    def reached() -> bool:
        if not list(folder.glob("runs/sweeps/*/sweep.json")) or seed not in trainings(folder):
            return False
        one = trainings(folder)[seed]
        block = journal.latest_block(one.journal)
        return one.attempts() >= attempt and block is not None and block.step >= step

    program.wait_until(reached, f"step {step} of seed {seed}, attempt {attempt}: {said(folder)}", SECONDS)


def ends(process: subprocess.Popen[str], folder: Path) -> int:
    """Wait for the end of a command; returns its exit status."""
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it has not ended: {said(folder)}") from None


def job_process(cluster: Cluster, seed_or_signature: str = "") -> int:
    """The process of a running job, by a text in its environment if there are several."""
    return next(_job_processes(cluster, seed_or_signature))


def _job_processes(cluster: Cluster, text: str) -> Iterator[int]:
    for pid in cluster.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            shown = Path(f"/proc/{pid}/environ").read_text(errors="replace")
        except OSError:
            continue
        if words[0] == sys.executable and "onecycle_sweeps.launching.slurm.node" in words and text in shown:
            yield pid


def in_its_place(cluster: Cluster, folder: Path, program: str, line: str) -> Cluster:
    """The cluster with a line of bash in place of one of SLURM's programs, which `{real}` in the line stands for."""
    real = cluster.run("bash", "-c", f"command -v {program}")
    script = folder / "bin" / program
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/bash\n{line.replace('{real}', real)}\n")
    script.chmod(0o755)
    return Cluster(cluster.folder, cluster.environment | {"PATH": f"{script.parent}:{cluster.environment['PATH']}"})


def check_undisturbed(one: TrialFolder, beside: Path, *words: str) -> None:
    """Check that a training has ended, to the last bit, as it does without interruptions; that is run once."""
    assert outcome(one) == undisturbed(beside, *words)


def check_mlflow(folder: Path) -> None:
    """Check that MLflow has each point of each training once, and no run that is still running."""
    whole = program.sweep_of(folder)
    for entry in whole.trials:
        ((run_id, status, _),) = program.runs_of(folder, entry.signature)
        assert status != "RUNNING"
        if entry.kind == sweep.TRAIN and whole.trial(entry.signature).result():
            assert program.points(folder, run_id) == program.recorded_points(whole.trial(entry.signature))
