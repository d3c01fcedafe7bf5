"""What commands print and record, with whole processes."""

import importlib.metadata
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from onecycle_sweeps.sweep import RANGE_TEST, Sweep
from onecycle_sweeps.terminal import invocation
from onecycle_sweeps.trial_folder import TrialFolder
from program import ask, points, recorded_points, run, runs_of, sweep_of, trials, with_data, with_store, write

# The slow tests share the folder of one sweep.
SWEEP = ("policy=constant,onecycle", "seed=0", "epochs=1", "range_test.steps=100", "-m")
ROW = re.compile(r"^(?:constant|onecycle) +[\d.]+ +1/1 ", re.MULTILINE)


@dataclass(frozen=True)
class Swept:
    """The sweep that SWEEP runs in a fresh folder, and its output."""

    folder: Path
    sweep: Sweep
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = with_store(tmp_path_factory.mktemp("commands"))
    for runs_dir in ("alone", "climbed"):
        with_data(folder, runs_dir)
    done = run(folder, *SWEEP, pictures=True)
    assert done.returncode == 0, done.stderr
    return Swept(folder, sweep_of(folder), done)


@pytest.fixture
def folder(swept: Swept) -> Path:
    return swept.folder


@pytest.mark.slow
def test_a_sweep_ends_with_its_table_its_report_and_the_line_that_opens_mlflow(swept: Swept):
    made, done = swept.sweep, swept.done
    assert [entry.kind for entry in made.trials] == [RANGE_TEST, "train", "train"]
    assert len(ROW.findall(done.stdout)) == 2
    assert "Both policies shared max_lr=" in done.stdout
    table = done.stdout.rindex(ROW.findall(done.stdout)[-1])
    assert done.stdout[table:].partition("\n\n")[2].count("\n") <= 5
    below = done.stdout.splitlines()[-5:]
    assert f"report: {made.report / 'report.html'}" in below[2]
    assert re.fullmatch(r"MLflow.*: http://127\.0\.0\.1:5000/#/\S+", below[3])
    assert below[4] == f"{invocation()} ui {made.id}"
    ended = [line.split(": finished")[0] for line in done.stderr.splitlines() if line.startswith("[")]
    assert ended[0] == "[1/3] range test"
    assert {line.split()[1] for line in ended[1:]} == {"constant", "onecycle"}
    assert {path.name for path in made.report.glob("*.*")} >= {"report.html", "trials.csv", "trajectories.png"}


@pytest.mark.slow
def test_the_same_command_again_reuses_all_results_and_says_so(folder: Path):
    before = {name: trial.result() for name, trial in trials(folder).items()}
    signature, trial = next(iter(trials(folder).items()))
    trial.write("resolved", (trial.resolved() or {}) | {"versions": {"torch": "0.4.1"}})
    done = run(folder, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert {name: trial.result() for name, trial in trials(folder).items()} == before
    assert done.stderr.startswith("3 of 3 results ") and "rerun=true" in done.stderr and done.stderr.count("\n") == 1
    assert re.search(r"1 of 3 results .* other code or versions: rerun=true", done.stdout)
    assert len(runs_of(folder, signature)) == 1


@pytest.mark.slow
def test_rerun_trains_again_and_mlflow_has_one_run_of_each_trial_with_its_new_points(folder: Path):
    before = {name: trial.result() for name, trial in trials(folder).items()}
    done = run(folder, "rerun=true", *SWEEP)
    assert done.returncode == 0, done.stderr
    assert "reused" not in done.stderr
    for signature, trial in trials(folder).items():
        assert (trial.result() or {})["finished"] > (before[signature] or {})["finished"]
        ((run_id, status, _),) = runs_of(folder, signature)
        assert status == "FINISHED"
        if (trial.result() or {})["kind"] == "train":
            assert points(folder, run_id) == recorded_points(trial)
        ((value,),) = ask(folder, "SELECT value FROM latest_metrics WHERE run_uuid = ? AND key = 'seconds'", run_id)
        assert value == (trial.result() or {})["metrics"]["seconds"]


@pytest.mark.slow
def test_one_trial_without_m_runs_in_this_process_and_gives_what_a_worker_gives(swept: Swept):
    made, folder = swept.sweep, swept.folder
    done = run(folder, "epochs=1", "range_test.steps=100", "runs_dir=alone")
    assert done.returncode == 0, done.stderr
    found = {path.parent.name for path in folder.glob("alone/*/result.json")}
    assert found == {entry.signature for entry in made.trials if entry.varies.get("policy") != "constant"}
    (training,) = [e.signature for e in made.trials if e.varies.get("policy") == "onecycle"]
    assert recorded_points(TrialFolder(folder / "alone" / training)) == recorded_points(made.trial(training))
    assert re.search(r"ui \w+ runs_dir=alone\n", done.stdout)
    assert not list(folder.glob("alone/sweeps/*/worker-*"))


SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

BROKEN = "model._target_=models.Raising"


class Climber(Sweeper):
    def __init__(self, **settings):
        pass

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        told = []
        for batch in ([["max_lr=0.1"], ["max_lr=1e9"]], [["max_lr=0.1", BROKEN], ["task=range_test"]]):
            jobs = [[*arguments, *overrides] for overrides in batch]
            told += self.launcher.launch(jobs, initial_job_idx=len(told))
        print("told", [done.return_value if done.status.name == "COMPLETED" else None for done in told])
        # As Optuna's, it ends with the error of a trial without a value.
        [done.return_value for done in told]


ConfigStore.instance().store(
    group="hydra/sweeper", name="climber", node={"_target_": "hydra_plugins.climber.Climber"}, provider="climber"
)
"""
RAISING = """
from onecycle_sweeps.models.simple_cnn import SimpleCNN

class Raising(SimpleCNN):
    steps = 0

    def forward(self, images):
        self.steps += 1
        if self.steps > 3:
            raise ArithmeticError("no way forward")
        return super().forward(images)
"""


@pytest.mark.slow
def test_a_sequential_sweeper_gets_each_value_in_one_sweep(folder: Path):
    write(folder, {"hydra_plugins/climber.py": SWEEPER, "models.py": RAISING})
    typed = ("hydra/sweeper=climber", "policy=constant", "epochs=1", "runs_dir=climbed", "-m")
    done = run(folder, *typed, PYTHONPATH=os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 1, done.stderr
    (recorded,) = folder.glob("climbed/sweeps/*/sweep.json")
    signatures = [entry["signature"] for entry in json.loads(recorded.read_text())["trials"]]
    assert len(signatures) == 4
    (told,) = re.findall(r"told (\[.*\])", done.stdout)
    results = {s: folder / "climbed" / s / "result.json" for s in signatures}
    metrics = [json.loads(path.read_text())["metrics"] for path in results.values() if path.exists()]
    accuracy, rate = (
        next(m[name] for m in metrics if name in m) for name in ("final/val_accuracy", "suggestion/max_lr")
    )
    assert told == f"[{accuracy}, 0.0, None, {rate}]"
    assert "failed: constant max_lr=0.1 model._target_=models.Raising" in done.stdout
    assert "ArithmeticError: no way forward (models.py:10 in forward)" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_in_batches_is_one_sweep(swept: Swept):
    done = run(swept.folder, "hydra.sweeper.max_batch_size=1", *SWEEP)
    assert done.returncode == 0, done.stderr
    made = sweep_of(swept.folder)
    assert made.id != swept.sweep.id
    assert [entry.signature for entry in made.trials] == [entry.signature for entry in swept.sweep.trials]
    assert len(ROW.findall(done.stdout)) == 2


@pytest.mark.slow
def test_help_and_the_config_leave_nothing_behind(tmp_path: Path):
    assert "policy=constant,step,clr,onecycle -m" in run(tmp_path, "--help").stdout
    assert run(tmp_path, "--version").stdout == f"onecycle-sweeps {importlib.metadata.version('onecycle-sweeps')}\n"
    assert "Hydra" in run(tmp_path, "--hydra-help").stdout
    shown = run(tmp_path, "--cfg", "job", "policy=clr").stdout
    assert "_target_: onecycle_sweeps.policies.CLR" in shown
    assert list(tmp_path.iterdir()) == []
