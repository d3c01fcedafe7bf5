"""The README: short, its commands work as they stand, and the files that it names are there."""

import inspect
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

import users_code
from onecycle_sweeps import composing, trial
from onecycle_sweeps.config import schema
from onecycle_sweeps.trial_folder import TrialFolder
from program import run, with_store, write
from real_trials import composed, planned

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
PROGRAM = "python -m onecycle_sweeps"
OWN = "--config-dir"
NET = """
class Net(torch.nn.Sequential):
    def __init__(self, in_features, out_features):
        super().__init__(torch.nn.Linear(in_features, 8), torch.nn.ReLU(), torch.nn.Linear(8, out_features))
"""


def jobs(command: str) -> list[list[str]]:
    """The overrides of each job of a command of the program."""
    words = [word for word in shlex.split(command.removeprefix(PROGRAM)) if word != "-m"]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return batch


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8
    assert {command.split()[0] for command in COMMANDS} == {"./scripts/sweep", "./scripts/test", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(PROGRAM) and OWN not in c])
def test_the_jobs_of_a_command_pass_the_checks_and_train(command: str, runs_dir: Path):
    if "data=" in command or "experiment=" in command:
        # Training on real data takes minutes, and these data sets are trained on in other tests.
        for job in jobs(command):
            schema.check(composing.plain(composed(*job)))
    else:
        for job in jobs(command):
            planned(runs_dir, *job)
        last = planned(runs_dir, *jobs(command)[-1], "epochs=1")
        for one in filter(None, (last.range_test, last)):
            folder = TrialFolder(runs_dir / one.signature)
            folder.create(one.config)
            trial.run(folder)
            assert folder.state().status == "finished"


@pytest.mark.slow
def test_a_dataset_and_a_net_of_ones_own_are_trained_by_the_yaml_of_the_documentation(tmp_path: Path):
    (command,) = (command for command in COMMANDS if OWN in command)
    (yaml,) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    waves = inspect.getsource(users_code.Waves)
    imports = "from typing import Any\nimport torch\nfrom torch import Tensor\n"
    files = {yaml[0]: yaml[1], "my/model/net.yaml": "_target_: mine.Net\n", "mine.py": f"{imports}\n{waves}\n{NET}"}
    folder = write(with_store(tmp_path), files)
    words = shlex.split(command.removeprefix(PROGRAM))
    done = run(folder, *words, "epochs=1", "batch_size=16", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert "objective" not in done.stderr
    assert "final val rmse" in done.stdout
    assert list(folder.glob("runs/sweeps/*/report/report.html"))


@pytest.mark.slow
def test_the_first_command_makes_a_report_and_prints_the_command_that_opens_mlflow(tmp_path: Path):
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("this checkout has no .venv of its own: scripts/setup makes it")
    folder = with_store(tmp_path)
    done = subprocess.run([ROOT / COMMANDS[0]], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert " -m onecycle_sweeps ui" in done.stdout
    assert list(folder.glob("runs/sweeps/*/report/report.html"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_a_linked_file_is_there(path: str):
    assert (ROOT / path).is_file()


def test_each_module_has_a_caption_in_the_tree():
    package = ROOT / "onecycle_sweeps"
    modules = [p.name for p in package.iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
    packages = [f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()]
    tree = README.split("## Layout")[1]
    assert [name for name in [*modules, *packages] if name not in tree] == []


@pytest.mark.parametrize("group", ["policy", "model", "data", "optimizer", "experiment"])
def test_each_choice_is_named(group: str):
    choices = {Path(name).stem for name in os.listdir(ROOT / "conf" / group)}
    assert {choice for choice in choices if not re.search(rf"\b{choice}\b", README)} == set()
