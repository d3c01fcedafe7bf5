"""The README: short, its commands work as they stand, and the files that it names are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from program import with_store

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
# The set-up and the whole suite have tests of their own; running the suite from itself would not end.
ELSEWHERE = ("./scripts/test",)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    words = [str(ROOT / program) if program.startswith("./") else sys.executable, *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_store(tmp_path_factory.mktemp("readme"))


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8
    assert {command.split()[0] for command in COMMANDS} == {"./scripts/sweep", "./scripts/test", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, folder: Path, request: pytest.FixtureRequest):
    if command == "./scripts/sweep" and not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("this checkout has no .venv of its own: scripts/setup makes it")
    if "data=" in command or "experiment=" in command:
        # Real data takes minutes: that the command composes is shown here, that the data trains elsewhere.
        command = command.removesuffix(" -m") + " --cfg job"
        command = command.replace("max_lr_scale=0.3,1,3", "").replace("seed=0,1,2,3,4", "seed=0")
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    if "--cfg" not in command:
        assert " -m onecycle_sweeps ui" in done.stdout


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
