"""README and the pages of docs/: each command works as it stands, each link leads somewhere, each choice is named."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import onecycle_sweeps
import program
from onecycle_sweeps import cli, composing, trial
from onecycle_sweeps.config import schema
from onecycle_sweeps.launching import commands as launching_commands
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.terminal import FAILURE
from onecycle_sweeps.trial_folder import TrialFolder
from photographs import classes, idx_bytes, laid
from program import with_store, write
from real_trials import composed, planned

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
PROGRAM = "python -m onecycle_sweeps"
OWN = "--config-dir"
INSTALLS = ("git clone URL", "pip install git+URL", "uv pip install git+URL")
SCRIPTS = ("./scripts/", "scripts/")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text(page), flags=re.DOTALL)


def commands(*pages: str) -> list[str]:
    """The commands of these pages, each once, without what is said beside them."""
    lines = [line for page in pages for block in blocks(page, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line.partition("  #")[0].strip() for line in lines if line.strip() and line[0] != "#"))


def users_files(page: str) -> dict[str, str]:
    """The files that a page shows, by the names in their first lines."""
    shown = [block.partition("\n") for language in ("yaml", "python") for block in blocks(page, language)]
    return {name.removeprefix("# "): content for name, _, content in shown if name.startswith("# ")}


def words(command: str) -> list[str]:
    return shlex.split(command.removeprefix(PROGRAM))


COMMANDS = commands(*PAGES)
OF_THE_PROGRAM = [command for command in COMMANDS if command.startswith(PROGRAM)]
TYPED_VERBS = [command for command in OF_THE_PROGRAM if words(command)[:1] and words(command)[0] in cli._descriptions()]
COMPARISONS = [command for command in TYPED_VERBS if words(command)[0] == "compare"]
ON_A_SWEEP = [command for command in TYPED_VERBS if command not in COMPARISONS]
TRIALS = [command for command in OF_THE_PROGRAM if command not in TYPED_VERBS]
ON_A_CLUSTER = [command for command in TRIALS if "hydra/launcher=slurm" in command]
# What makes a trial on the files of `a_users_folder` short.
TINY = {
    "data=csv": ("batch_size=16",),
    "data=text": ("model.depth=1", "model.width=8", "model.heads=2", "data.context=16", "batch_size=8"),
    "data=image_folder": ("data.size=32", "batch_size=16", "max_lr=0.01"),
    "data=arrays": ("batch_size=16",),
    "data=waves": ("batch_size=64",),
    "data=diabetes": ("batch_size=32",),
    "data=fashion_mnist": ("batch_size=16", "max_lr=0.01"),
    "loop=mine": ("loop.width=8",),
}


@pytest.fixture
def a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the files that the commands name and those that the pages show."""
    generator = np.random.default_rng(0)
    sizes, towns = generator.normal(100, 20, 200), generator.choice(["Ulm", "Bonn", ""], 200)
    houses = [f"{size if number % 9 else ''},{towns[number]},{1000 * size}" for number, size in enumerate(sizes)]
    said = " ".join(generator.choice(["to", "be", "or", "not", "that", "is", "the", "question"], 2000))
    series = generator.normal(size=(200, 16))
    np.savez(tmp_path / "series.npz", x=series, y=series[:, :4].sum(1))
    laid(tmp_path / "data" / "photos", classes("train/", "val/", each=80))
    for part, count in (("train", 1280), ("t10k", 20)):
        images, labels = generator.integers(0, 256, (count, 8, 8)), np.arange(count) % 10
        files = {f"{part}-images-idx3-ubyte": idx_bytes(images), f"{part}-labels-idx1-ubyte": idx_bytes(labels)}
        laid(tmp_path / "data" / "FashionMNIST" / "raw", files)
    write(tmp_path, {"houses.csv": "\n".join(["size,town,price", *houses]), "book.txt": said})
    for page in PAGES:
        write(tmp_path, users_files(page))
    # The page on loops leaves out what the example has in full.
    shutil.copy(ROOT / "examples" / "function" / "mine.py", tmp_path / "loops.py")
    function = yaml.safe_load((ROOT / "examples" / "function" / "conf" / "loop" / "mine.yaml").read_text())
    write(tmp_path, {"my/loop/mine.yaml": yaml.safe_dump(function | {"_target_": "loops.train"})})
    write(tmp_path, {"mine.py": "\n".join(map(mine, ("docs/data.md", "docs/policies.md")))})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ONECYCLE_DATA", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def mine(page: str) -> str:
    """What a page shows as the user's module."""
    return users_files(page)["mine.py"]


def jobs(command: str) -> list[list[str]]:
    """The overrides of each job of a command of the program."""
    typed = [word for word in words(command) if word != "-m"]
    if OWN in typed:
        at = typed.index(OWN)
        typed[at : at + 2] = [f"hydra.searchpath=[file://{Path(typed[at + 1]).absolute()}]"]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    return batch


def test_each_command_is_of_a_kind_that_a_test_runs():
    others = [command for command in COMMANDS if command not in OF_THE_PROGRAM]
    assert [command for command in others if not command.startswith((*INSTALLS, *SCRIPTS))] == []
    assert len(TRIALS) > 10 and len(ON_A_SWEEP) > 5 and COMPARISONS and ON_A_CLUSTER


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, decoded: Path) -> Path:
    """A runs_dir for all commands, so that those with the same range test run it once."""
    folder = tmp_path_factory.mktemp("shared") / "runs"
    folder.mkdir()
    (folder / "data").symlink_to(decoded)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in TRIALS if command not in ON_A_CLUSTER])
def test_the_jobs_of_a_command_pass_the_checks_and_train(command: str, shared_runs: Path, a_users_folder: Path):
    if "experiment=" in command:
        # A preset takes minutes.
        for job in jobs(command):
            schema.check(composing.plain(composed(*job)))
        return
    tiny = next((overrides for data, overrides in TINY.items() if data in command), ())
    for job in jobs(command):
        planned(shared_runs, *job)
    last = planned(shared_runs, *jobs(command)[-1], "epochs=1", *tiny)
    for one in filter(None, (last.rate_from, last)):
        folder = TrialFolder(shared_runs / one.signature)
        folder.create(one.config)
        trial.run(folder)
        assert folder.state().status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("command", ON_A_CLUSTER)
def test_the_jobs_of_a_command_for_a_cluster_pass_the_checks(command: str, runs_dir: Path):
    for job in jobs(command):
        launcher: Any = OmegaConf.to_container(composed(*job).hydra.launcher, resolve=True)
        options.check({key: launcher[key] for key in launcher.keys() - {"_target_"}} | {"dry_run": True})
        planned(runs_dir, *(word for word in job if not word.startswith("hydra")))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished sweep, and a second store, in which nothing is."""
    folder = with_store(tmp_path_factory.mktemp("docs"))
    shutil.copy(folder / "mlflow.db", folder / "other.db")
    done = program.run(folder, "policy=constant,onecycle", "max_lr=0.1", "epochs=1", "seed=0,1", "-m")
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("command", ON_A_SWEEP)
def test_a_verb_does_what_the_page_says_with_the_latest_sweep(
    command: str, swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    opened: list[str] = []
    monkeypatch.setattr(launching_commands, "become_ui", lambda uri, *_: opened.append(uri) or 0)
    status = cli.main(words(command))
    if command.endswith(" ui"):
        assert opened == [f"sqlite:///{swept}/mlflow.db"]
    elif " doctor " in command:
        # This machine may lack what a cluster needs, which is what the doctor says.
        assert status in (0, FAILURE) and "ok" in capsys.readouterr().out
    else:
        assert status == 0


def runs(*groups: tuple[str, float], column: str = "group") -> str:
    """A log of three steps of five runs in each group, which ends about that value."""
    rows = [f"{column},run,step,val_loss"]
    for place, (group, end) in enumerate(groups):
        for run in range(5):
            noise = 0.001 * ((run * 3 + place) % 5)
            rows += [f"{group},{group}{run},{step},{end + noise + 0.1 * (3 - step)}" for step in (1, 2, 3)]
    return "\n".join(rows)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPARISONS)
def test_runs_from_elsewhere_are_compared(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if "mlflow:" in command:
        pytest.skip("tests/test_other_runs.py compares the runs of an experiment")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"runs.csv": runs(("adamw", 3.3), ("soap", 3.2))})
    write(tmp_path, {"main.csv": runs(("main", 3.3)), "change.csv": runs(("change", 3.3))})
    for name in ("adamw", "soap"):
        for seed in range(3):
            state = {"log_history": [{"step": 1000, "eval_loss": 3.0 + seed / 100 - (name == "soap")}]}
            write(tmp_path, {f"out/{name}-seed{seed}/checkpoint-1000/trainer_state.json": json.dumps(state)})
    typed = [name for word in words(command) for name in (sorted(glob(word)) or [word])]
    assert cli.main(typed) == 0


@pytest.mark.slow
@pytest.mark.parametrize("install", [command for command in commands("README.md") if command.startswith(INSTALLS)])
def test_the_program_is_installed_from_its_repository(install: str, tmp_path: Path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    address = f"file://{ROOT}"
    if install.startswith("git clone"):
        subprocess.run(["git", "clone", "--quiet", "--depth=1", address, "clone"], cwd=tmp_path, check=True)
        assert os.access(tmp_path / "clone" / "scripts" / "sweep", os.X_OK)
        return
    with_tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    if not (tool := shutil.which(install.split()[0], path=with_tools)):
        pytest.skip(f"no {install.split()[0]}: the extra `test` has it")
    # What it depends on is here already.
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "installed")]
    if install.startswith("uv"):
        flags += ["--python", sys.executable, "--cache-dir", str(tmp_path / "cache")]
    command = [tool, *install.replace("URL", address).split()[1:], *flags]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "installed" / "onecycle_sweeps" / "conf" / "config.yaml").is_file()


@pytest.mark.slow
def test_a_dataset_and_a_net_of_ones_own_are_trained_by_the_files_of_the_documentation(tmp_path: Path):
    (command,) = (command for command in commands("README.md") if OWN in command)
    folder = write(with_store(tmp_path), users_files("docs/data.md"))
    done = program.run(folder, *words(command), "epochs=1", "batch_size=16", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert "objective" not in done.stderr
    assert "final val rmse" in done.stdout
    assert list(folder.glob("runs/sweeps/*/report/report.html"))


@pytest.mark.slow
def test_the_first_command_makes_a_report_and_prints_the_command_that_opens_mlflow(tmp_path: Path):
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("this checkout has no .venv of its own: scripts/setup makes it")
    folder = with_store(tmp_path)
    done = subprocess.run(
        [ROOT / COMMANDS[0], "epochs=2", "seed=0"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " -m onecycle_sweeps ui" in done.stdout
    assert list(folder.glob("runs/sweeps/*/report/report.html"))


@pytest.mark.slow
def test_the_sample_of_the_readme_has_the_columns_that_a_sweep_prints(swept: Path):
    (sample,) = re.findall(r"```\n(On .*?)```", text("README.md"), flags=re.DOTALL)
    said = (swept / "said.txt").read_text()
    assert sample.startswith("On fashion_mnist with simple_cnn, ") and "\nOn digits with simple_cnn, " in f"\n{said}"
    # In a narrow terminal the headings have several lines, and the last columns may be left out.
    headings = r"paired by seed.*?\.\n(.*?)──"
    shown, printed = (set(re.findall(headings, out, flags=re.DOTALL)[0].split()) for out in (sample, said))
    assert {"policy", "max_lr", "interval", "p"} < shown - {"seconds"} <= printed


def test_the_readme_is_one_screen_after_another_of_readable_lines():
    lines = text("README.md").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!"))] == []


def scripts() -> list[str]:
    named = {word.removeprefix("./") for page in PAGES for word in re.findall(r"(?:\./)?scripts/[\w-]+", text(page))}
    return sorted(named)


@pytest.mark.parametrize("script", scripts())
def test_a_script_that_a_page_names_can_be_run(script: str):
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str]]:
    others = ("SECURITY.md", "examples/README.md", "docker/README.md", "docs/gpu/README.md")
    pages = (*PAGES, *others, "onecycle_sweeps/range_test/README.md")
    return [(page, link) for page in pages for link in dict.fromkeys(re.findall(r"\]\((?!http)([^)]+)\)", text(page)))]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "link"), links())
def test_a_link_leads_to_a_file_and_to_a_heading_that_is_there(page: str, link: str):
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.is_file()
    assert not anchor or anchor in anchors(target)


def test_the_readme_links_every_page():
    assert {page for page in PAGES if f"]({page}" not in text("README.md")} == {"README.md"}


def test_every_picture_is_shown_and_all_are_small():
    pictures = {path.resolve() for path in (ROOT / "docs" / "pictures").iterdir()}
    shown = {(page, path) for page in PAGES for path in re.findall(r"!\[.*?\]\((.*?)\)", text(page))}
    assert {((ROOT / page).parent / path).resolve() for page, path in shown} == pictures
    assert sum(path.stat().st_size for path in pictures) < 1_000_000


def test_each_module_has_a_caption_in_the_tree():
    package = ROOT / "onecycle_sweeps"
    modules = [p.name for p in package.iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
    packages = [f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()]
    tree = text("docs/how_it_works.md").split("## Layout")[1].split("\n## ")[0]
    assert [name for name in [*modules, *packages] if name not in tree] == []


@pytest.mark.parametrize("group", ["policy", "model", "data", "objective", "optimizer", "task", "experiment"])
def test_the_reference_names_each_choice(group: str):
    choices = {Path(name).stem for name in os.listdir(ROOT / "conf" / group)}
    assert {choice for choice in choices if not re.search(rf"\b{choice}\b", text("docs/reference.md"))} == set()


def test_the_reference_names_each_verb_and_each_key_of_the_config():
    reference = text("docs/reference.md")
    keys = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text()).keys()
    # The first name of `target`, which goes on working, and what objective.label_smoothing is, are told elsewhere.
    told_elsewhere = {"defaults", "hydra", "target_accuracy", "label_smoothing"}
    wanted = {*cli._descriptions(), *keys} - told_elsewhere
    assert {name for name in wanted if not re.search(rf"`{name}[`.]", reference)} == set()


@pytest.mark.parametrize(
    ("page", "file"),
    [("docs/slurm.md", "conf/hydra/launcher/slurm.yaml")]
    + [("docs/policies.md", f"conf/policy/{name}") for name in sorted(os.listdir(ROOT / "conf" / "policy"))],
)
def test_a_page_names_each_key_of_a_choice(page: str, file: str):
    keys = yaml.safe_load((ROOT / file).read_text()).keys() - {"_target_", "defaults"}
    assert {key for key in keys if f"`{key}`" not in text(page)} == set()


def test_the_changelog_has_this_version():
    assert f"\n## {onecycle_sweeps.__version__}\n" in text("CHANGELOG.md")
