"""The examples: the command of each, at a small size, sweeps two policies and three seeds into a report."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import program
from cluster_sweeps import check_mlflow, ends, said, start
from onecycle_sweeps import sweep
from slurm_cluster import Cluster

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COMMANDS = {
    folder: shlex.split(command.removeprefix("python -m onecycle_sweeps"))
    for folder, command in re.findall(r"\| `(\w+)/` \|.*\| `(python [^`]+)` \|", (EXAMPLES / "README.md").read_text())
}
SMALL = {
    "function": ("epochs=2", "loop.width=16"),
    "lightning": ("epochs=1", "loop.module.width=16"),
    "transformers": ("epochs=1", "loop.trainer.characters=2000", "loop.trainer.width=8", "loop.trainer.length=16"),
    "nanogpt": ("loop.max_iters=8", "loop.context=16", "loop.depth=1", "loop.width=16", "loop.heads=2"),
}

pytestmark = pytest.mark.slow


def folder_with(example: str, folder: Path) -> Path:
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True)
    return program.with_store(folder)


def test_every_example_has_a_command():
    assert set(COMMANDS) == set(SMALL) == {path.name for path in EXAMPLES.iterdir() if path.is_dir()}


@pytest.mark.parametrize("example", COMMANDS)
def test_its_command_sweeps_two_policies_and_three_seeds_into_a_report(example: str, tmp_path: Path):
    folder = folder_with(example, tmp_path)
    # Each worker would import the library of the example.
    done = program.run(folder, *COMMANDS[example], *SMALL[example], "hydra.launcher.workers=1")
    assert done.returncode == 0, done.stderr
    made = program.sweep_of(folder)
    trained = [entry for entry in made.trials if entry.kind == sweep.TRAIN]
    assert len({entry.varies["policy"] for entry in trained}) == 2
    assert {entry.varies["seed"] for entry in trained} == {"0", "1", "2"}
    assert {made.trial(entry.signature).state().status for entry in made.trials} == {"finished"}
    assert (made.report / "report.html").exists()
    assert "3/3" in done.stdout
    check_mlflow(folder)


def test_a_training_function_runs_on_a_cluster_with_its_range_test(cluster: Cluster, tmp_path: Path):
    folder = folder_with("function", tmp_path)
    process = start(cluster, folder, *COMMANDS["function"], *SMALL["function"], "seed=0")
    assert ends(process, folder) == 0, said(folder)
    made = program.sweep_of(folder)
    assert [entry.kind for entry in made.trials] == [sweep.RANGE_TEST, *[sweep.PROBE] * 2, *[sweep.TRAIN] * 2]
    assert {made.trial(entry.signature).state().status for entry in made.trials} == {"finished"}
    check_mlflow(folder)
