"""The job arrays of a sweep: their order, their sbatch files, and the dry run that prints them."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from submitit import SlurmExecutor

import hand_made
import real_trials
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import estimate
from onecycle_sweeps.launching.slurm import client, options, submissions, watch
from onecycle_sweeps.launching.slurm.sbatch import Sbatch
from onecycle_sweeps.launching.slurm.submissions import JobArray, Submission, job_arrays
from onecycle_sweeps.sweep import RANGE_TEST, TRAIN, Entry
from onecycle_sweeps.trial_folder import QUEUED, TrialFolder
from onecycle_sweeps.validation import whole
from program import run
from slurm_cluster import Cluster

DRY = ("hydra/launcher=slurm", "hydra.launcher.dry_run=true")
KINDS = ("array of 1 range test", "array of 3 trainings", "the report, after all trials")


def printed(out: str) -> dict[str, str]:
    """The sbatch text of each submission that a dry run printed, by its heading."""
    blocks = out.partition("\nestimate: ")[0].split("\n--- ")[1:]
    return {heading: text for heading, _, text in (block.partition("\n") for block in blocks)}


def finished(runs_dir: Path, *overrides: str, seconds: float, steps: int, device: str = "cpu") -> TrialFolder:
    """A trial with a result that took so long."""
    folder = real_trials.made(runs_dir, *overrides)
    folder.write("resolved", {"device": device, "max_lr": 0.1, "total_steps": steps, "steps_per_epoch": 1})
    Journal(folder.journal, 1, 0).append(0, {"train/loss": [1.0] * steps})
    folder.write("result", hand_made.a_result(metrics={"seconds": seconds}, steps=steps))
    return folder


def hours(runs_dir: Path, *overrides: str, device: str = "cpu") -> tuple[list[float], str]:
    return estimate.hours([real_trials.planned(runs_dir, *overrides).config], runs_dir, device)


SETTINGS = {"gpus_per_node": 1, "cpus_per_task": 4, "timeout_min": 60, "additional_parameters": None}
TESTS = [Entry(name, RANGE_TEST, {}) for name in ("t1", "t2")]
AT_A_RATE = [Entry(f"r{i}", TRAIN, {}) for i in range(3)]


def trainings(needs: str, count: int) -> list[Entry]:
    return [Entry(f"{needs}-{i}", TRAIN, {}, needs) for i in range(count)]


def test_range_tests_are_submitted_first_and_only_trainings_that_need_one_wait():
    trials = [*TESTS, *trainings("t1", 2), *trainings("done", 1), *AT_A_RATE]
    tests, waiting, ready, report = job_arrays(trials, (), SETTINGS, 100, report=True)
    assert tests == JobArray(("t1", "t2"), SETTINGS)
    assert waiting == JobArray(("t1-0", "t1-1"), SETTINGS, after=("t1",))
    assert ready == JobArray(("done-0", "r0", "r1", "r2"), SETTINGS)
    assert (report.trials, report.after) == ((), tuple(entry.signature for entry in trials))
    assert (report.settings["gpus_per_node"], report.settings["cpus_per_task"]) == (None, 1)


def test_the_trainings_of_each_range_test_wait_for_that_one_alone():
    trials = [*TESTS, *trainings("t1", 2), *trainings("t2", 1)]
    tests, first, second, report = job_arrays(trials, (), SETTINGS, 100, report=True)
    assert (first.trials, first.after) == (("t1-0", "t1-1"), ("t1",))
    assert (second.trials, second.after) == (("t2-0",), ("t2",))
    ids = tests.ids("7") | first.ids("8") | second.ids("9")
    assert submissions.dependencies(second.after, ids) == ["7_1"]
    assert submissions.dependencies(report.after, ids) == ["7", "8", "9"]
    assert submissions.dependencies(("elsewhere",), ids) == []


def test_an_array_has_no_more_elements_than_the_cluster_accepts():
    arrays = job_arrays([*TESTS, *trainings("t2", 5)], (), SETTINGS, 2, report=False)
    assert [(len(array.trials), array.after) for array in arrays] == [(2, ()), (2, ("t2",)), (2, ("t2",)), (1, ("t2",))]


def test_an_array_has_no_more_elements_than_were_asked_for():
    settings = SETTINGS | {"array_size": 3}
    sizes = [
        [len(one.trials) for one in job_arrays(AT_A_RATE * 3, (), settings, most, report=False)] for most in (2, 9)
    ]
    assert sizes == [[2, 2, 2, 2, 1], [3, 3, 3]]


@pytest.mark.parametrize(
    ("trials", "minutes", "memory"), [(1, 10, 1.5), (1000, 15, 2), (9000, 55, 10), (90_000, 60, 91)]
)
def test_the_job_that_writes_the_report_gets_more_for_more_trials(trials: int, minutes: int, memory: float):
    """Never more time than a trial, whose time limit the cluster accepts."""
    found = options.light(SETTINGS | {"mem_gb": 1.5}, trials)
    assert (found["timeout_min"], found["mem_gb"]) == (minutes, memory)
    assert options.light(SETTINGS, trials)["mem_gb"] is None


def test_a_trial_that_has_a_job_is_not_submitted_again_and_other_arrays_wait_for_it():
    waiting, report = job_arrays([*TESTS[:1], *trainings("t1", 1)], {"t1"}, SETTINGS, 9, report=True)
    assert (waiting.trials, waiting.after) == (("t1-0",), ("t1",))
    assert report.after == ("t1", "t1-0")
    assert job_arrays(TESTS, {"t1", "t2"}, SETTINGS, 9, report=True) == []


def test_a_key_that_submitit_lacks_is_an_option_of_sbatch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(options.KEYS, "nice_value", whole(0))
    settings = dict.fromkeys(options.KEYS) | SETTINGS | {"srun_args": [], "setup": []}
    assert "nice-value" not in options.parameters(settings)["additional_parameters"]
    assert options.parameters(settings | {"nice_value": 7})["additional_parameters"]["nice-value"] == 7


def test_settings_recorded_without_a_later_key_can_be_submitted():
    whole = {key: None for key in options.KEYS} | SETTINGS | {"srun_args": [], "setup": [], "mem_gb": None}
    earlier = {key: value for key, value in whole.items() if key != "qos"}
    assert options.parameters(earlier) == options.parameters(whole)


def test_a_submission_is_read_as_it_was_written(tmp_path: Path):
    made = Submission("onecycle-a-b", ("5161",), {"setup": ["a"]}, 1.0, 2.0)
    made.write(tmp_path / "one.json")
    assert submissions.load(tmp_path / "one.json") == made
    assert submissions.load(tmp_path / "none.json") is None


def test_a_dry_run_submits_nothing_and_slurm_accepts_its_texts(cluster: Cluster, runs_dir: Path):
    asked = ("gpus_per_node=1", "partition=high", "setup=[hostname]")
    typed = [*DRY, *(f"hydra.launcher.{one}" for one in asked), "-m"]
    done = run(runs_dir.parent, *typed, fresh=False, pictures=False, **cluster.environment)
    assert done.returncode == 0, done.stderr
    found = printed(done.stdout)
    assert tuple(found) == KINDS
    assert "#SBATCH --array=0-2%3" in found["array of 3 trainings"]
    assert "#SBATCH --dependency=afterany:ARRAY1_0\n" in found["array of 3 trainings"]
    assert "#SBATCH --dependency=afterany:ARRAY1:ARRAY2\n" in found["the report, after all trials"]
    assert all("\nset -euo pipefail\nhostname\n" in text for text in found.values())
    for text in found.values():
        lines = [line for line in text.splitlines() if "--dependency" not in line]
        (runs_dir.parent / "job").write_text("\n".join(lines))
        assert cluster.attempt("sbatch", "--test-only", str(runs_dir.parent / "job")).returncode == 0
    assert cluster.run("squeue", "--noheader", "--states=all") == ""
    assert "4 trials, about 0.0" in done.stdout
    assert "GPU-hours" in done.stdout
    assert "from 20 steps timed on THIS machine's " in done.stdout
    assert done.stdout.endswith("nothing was submitted: hydra.launcher.dry_run=true\n")


@pytest.mark.slow
def test_without_slurm_a_dry_run_shows_what_would_be_submitted_and_leaves_no_sweep(runs_dir: Path):
    short = ("max_lr=0.1", "epochs=2", "batch_size=256")
    finished(runs_dir, *short, "seed=0", seconds=20.0, steps=10)
    real_trials.made(runs_dir, *short, "seed=1").write(
        "job", {"status": "queued", "submission": "sweeps/s/jobs/j.json", "index": 0}
    )
    before = {path for path in runs_dir.rglob("*") if "data" not in path.parts}
    done = run(runs_dir.parent, *DRY, *short, "-m", PATH=str(Path(sys.executable).parent))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0:2] for line in done.stdout.splitlines() if line.startswith("  ")] == [
        ["finished", real_trials.planned(runs_dir, *short, "seed=0").signature],
        ["already", "queued"],
        ["waiting", real_trials.planned(runs_dir, *short, "seed=2").signature],
    ]
    assert list(printed(done.stdout)) == ["array of 1 training", "the report, after all trials"]
    assert re.search(r"^estimate: 1 trial, .* 0\.0056 CPU-hours .* from 1 earlier trial$", done.stdout, re.MULTILINE)
    assert {path for path in runs_dir.rglob("*") if "data" not in path.parts} - before <= {
        runs_dir / "sweeps",
        runs_dir / "sweeps" / "multirun.yaml",
    }
    assert not (runs_dir.parent / "mlflow.db").exists()
    assert run(runs_dir.parent, "status").returncode == 2


def test_earlier_trials_of_the_same_kind_and_device_give_the_pace(runs_dir: Path):
    finished(runs_dir, *real_trials.SHORT, "seed=0", seconds=10.0, steps=10)
    finished(runs_dir, *real_trials.SHORT, "seed=1", seconds=30.0, steps=10)
    finished(runs_dir, *real_trials.SHORT, "seed=2", seconds=9e9, steps=10, device="cuda")
    finished(runs_dir, *real_trials.SHORT, "batch_size=512", "seed=3", seconds=9e9, steps=10)
    found, source = hours(runs_dir, *real_trials.SHORT, "epochs=4", "seed=9")
    assert found == [pytest.approx(20 * 2.0 / 3600)]
    assert source.startswith("2 earlier")


def test_a_range_test_is_counted_by_its_steps(runs_dir: Path):
    finished(runs_dir, *real_trials.SHORT, seconds=10.0, steps=10)
    asked = (*real_trials.SHORT, "task=range_test", "range_test.steps=120", "range_test.seeds=[0,1,2]")
    assert hours(runs_dir, *asked)[0] == [pytest.approx(360 / 3600)]


def test_earlier_trainings_of_a_function_give_its_pace_and_its_steps(runs_dir: Path):
    function = (
        "loop=function",
        "loop._target_=own_loops.train",
        "loop.measure=accuracy",
        "loop.goal=max",
        "max_lr=0.1",
    )
    with pytest.raises(estimate.NoEstimate, match=r"own_loops\.train is not called before its sweep"):
        hours(runs_dir, *function, "epochs=2")
    finished(runs_dir, *function, "epochs=2", seconds=10.0, steps=20)
    finished(runs_dir, *function, "epochs=4", seconds=30.0, steps=60)
    assert hours(runs_dir, *function, "epochs=2", "seed=9")[0] == [pytest.approx(20 * 0.5 / 3600)]
    # The median of 10 and 15 steps an epoch.
    assert hours(runs_dir, *function, "epochs=6", "seed=9")[0] == [pytest.approx(75 * 0.5 / 3600)]
    assert hours(runs_dir, *function, "task=range_test", "range_test.steps=100")[0] == [pytest.approx(50 / 3600)]
    with pytest.raises(estimate.NoEstimate, match="is not called"):
        hours(runs_dir, *function, "+loop.width=16")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_without_an_earlier_trial_a_few_steps_are_timed_and_nothing_is_kept(runs_dir: Path):
    before = set(runs_dir.iterdir())
    found, source = hours(runs_dir, *real_trials.SHORT)
    longer, _ = hours(runs_dir, *real_trials.SHORT, "epochs=2000")
    assert 0 < found[0] < longer[0]
    assert source.startswith("20 steps timed on THIS machine's ")
    assert set(runs_dir.iterdir()) == before


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_without_an_estimate_the_error_of_the_trial_is_given(runs_dir: Path):
    with pytest.raises(estimate.NoEstimate, match="no_such_argument"):
        hours(runs_dir, *real_trials.SHORT, "+model.no_such_argument=1")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_without_an_estimate_the_death_of_the_timing_process_is_given(runs_dir: Path):
    with pytest.raises(estimate.NoEstimate, match="was killed"):
        hours(runs_dir, *real_trials.SHORT, "model=lenet", "model._target_=os.abort")


@pytest.mark.parametrize(("asked", "count"), [(None, 0), (0, 0), (2, 2), ("4", 4), ("a100:2", 2), ("a100", 1)])
def test_gpus_are_counted_as_slurm_reads_them(asked: int | str | None, count: int):
    settings = {"gpus_per_node": asked}
    assert options.gpus_requested(settings) == count
    line = options.idle_gpus(settings)
    assert line is None if count < 2 else line and f"each trial uses one of the {count} GPUs of hydra.launcher" in line


def test_submitit_has_the_private_functions_that_are_used():
    assert list(inspect.signature(SlurmExecutor._make_submission_file_text).parameters) == ["self", "command", "uid"]
    assert list(inspect.signature(SlurmExecutor._submit_command).parameters) == ["self", "command"]
    assert "affinity" in vars(SlurmExecutor)


def test_an_sbatch_file_has_its_parameters_and_its_command(tmp_path: Path):
    executor = Sbatch(tmp_path)
    executor.parameters |= {"job_name": "mine", "time": 7, "map_count": 3, "setup": ["module load x"]}
    text = executor.text("python -m mine")
    assert {"#SBATCH --job-name=mine", "#SBATCH --time=7", "#SBATCH --array=0-2%3", "module load x"} <= {
        *text.split("\n")
    }
    assert "python -m mine" in text.splitlines()[-1]


def test_the_number_that_sbatch_prints_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho Submitted batch job 4711\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert subprocess.run(["sbatch"], capture_output=True, text=True, check=True).stdout.endswith("4711\n")
    assert Sbatch(tmp_path).submit_command("python -m mine") == "4711"


def test_on_a_machine_without_a_cluster_the_error_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho scontrol: fatal: Could not establish a configuration source >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(client.SlurmError, match=r"configuration source; .*login node .*dry_run=true$"):
        client.largest_array()


def test_squeue_is_asked_for_this_users_jobs_and_its_columns_are_read_by_their_widths(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []

    def run_slurm(*command: str) -> str:
        asked.append(command)
        if command[0] == "sacct":
            raise client.SlurmError("accounting storage is disabled")
        values = ("onecycle-a-b", "77", "3", "FAILED", "n[1-2]", "a | b", "9")
        return "".join(value.ljust(width) for value, width in zip(values, client.COLUMNS.values(), strict=True)) + "\n"

    monkeypatch.setattr(client, "run", run_slurm)
    job = client.query(["onecycle-a-b"], 0.0).jobs["onecycle-a-b", 3]
    assert (job.id, job.state, job.node, job.reason, job.signal) == (
        "77_3",
        "FAILED",
        "n[1-2]",
        "a | b",
        9,
    )
    assert asked[0][asked[0].index("-u") + 1] == str(os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_watching_another_users_sweep_queries_and_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trial = finished(tmp_path / "runs", "max_lr=0.1", seconds=1.0, steps=2)
    result = trial.result() or {}
    trial.remove("result.json")
    whole = hand_made.sweep(tmp_path, Entry(trial.signature, TRAIN, {}))
    made = Submission("onecycle-a-b", (trial.signature,), dict(SETTINGS), 1.0, 2.0, "77")
    path = submissions.path_of(whole, made.name)
    path.parent.mkdir()
    made.write(path)
    record = {"submission": str(path.relative_to(whole.runs_dir)), "index": 0, "status": QUEUED, "cause": None}
    trial.write("job", record | {"again": False, "tries": 0})
    os.chown(whole.folder, 4321, -1)
    monkeypatch.setattr(client, "run", lambda *_: pytest.fail("SLURM was asked"))
    events = watch.watch(whole, whole.trials)
    assert next(events).status == QUEUED
    trial.write("result", result)
    monkeypatch.setattr(watch, "MAX_QUERY_SECONDS", 0.0)
    assert [event.status for event in events if event.entry] == ["finished"]
    assert not (whole.runs_dir / "sweeps" / "jobs.lock").exists()
