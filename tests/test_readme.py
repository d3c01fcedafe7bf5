"""The README and the pages on data and objectives: their commands work as they stand, and the files named are there."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from onecycle_sweeps import composing, trial
from onecycle_sweeps.config import schema
from onecycle_sweeps.trial_folder import TrialFolder
from photographs import classes, laid
from program import run, with_store, write
from real_trials import composed, planned

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "python -m onecycle_sweeps"
OWN = "--config-dir"


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """The commands of a page, without what is said beside them."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def users_files(page: str) -> dict[str, str]:
    """The files that a page shows, by the names in their first lines."""
    shown = [block.partition("\n") for language in ("yaml", "python") for block in blocks(page, language)]
    return {name.removeprefix("# "): content for name, _, content in shown if name.startswith("# ")}


README = (ROOT / "README.md").read_text()
COMMANDS = commands("README.md")
PAGES = ("docs/data.md", "docs/objectives.md")
TYPED = dict.fromkeys(c for page in ("README.md", *PAGES) for c in commands(page) if c.startswith(PROGRAM))
# What makes a trial on the files of `a_users_folder` short.
TINY = {
    "data=csv": ("batch_size=16",),
    "data=text": ("model.depth=1", "model.width=8", "model.heads=2", "data.context=16", "batch_size=8"),
    "data=image_folder": ("data.size=32", "batch_size=16", "max_lr=0.01"),
    "data=arrays": ("batch_size=16",),
    "data=waves": ("batch_size=64",),
    "data=diabetes": ("batch_size=32",),
}


@pytest.fixture
def a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the files that the commands name and those that the pages show."""
    generator = np.random.default_rng(0)
    sizes, towns = generator.normal(100, 20, 200), generator.choice(["Ulm", "Bonn", ""], 200)
    houses = [f"{size if number % 9 else ''},{towns[number]},{1000 * size}" for number, size in enumerate(sizes)]
    words = " ".join(generator.choice(["to", "be", "or", "not", "that", "is", "the", "question"], 2000))
    series = generator.normal(size=(200, 16))
    np.savez(tmp_path / "series.npz", x=series, y=series[:, :4].sum(1))
    laid(tmp_path / "data" / "photos", classes("train/", "val/", each=80))
    write(tmp_path, {"houses.csv": "\n".join(["size,town,price", *houses]), "book.txt": words})
    for page in PAGES:
        write(tmp_path, users_files(page))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONECYCLE_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def jobs(command: str) -> list[list[str]]:
    """The overrides of each job of a command of the program."""
    words = [word for word in shlex.split(command.removeprefix(PROGRAM)) if word != "-m"]
    if OWN in words:
        at = words.index(OWN)
        words[at : at + 2] = [f"hydra.searchpath=[file://{Path(words[at + 1]).absolute()}]"]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return batch


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8
    assert {command.split()[0] for command in COMMANDS} == {"./scripts/sweep", "./scripts/test", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("command", TYPED)
def test_the_jobs_of_a_command_pass_the_checks_and_train(command: str, runs_dir: Path, a_users_folder: Path):
    if "experiment=" in command:
        # A preset takes minutes.
        for job in jobs(command):
            schema.check(composing.plain(composed(*job)))
        return
    tiny = next((overrides for data, overrides in TINY.items() if data in command), ())
    for job in jobs(command):
        planned(runs_dir, *job)
    last = planned(runs_dir, *jobs(command)[-1], "epochs=1", *tiny)
    for one in filter(None, (last.rate_from, last)):
        folder = TrialFolder(runs_dir / one.signature)
        folder.create(one.config)
        trial.run(folder)
        assert folder.state().status == "finished"


@pytest.mark.slow
def test_a_dataset_and_a_net_of_ones_own_are_trained_by_the_files_of_the_documentation(tmp_path: Path):
    (command,) = (command for command in COMMANDS if OWN in command)
    folder = write(with_store(tmp_path), users_files("docs/data.md"))
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
