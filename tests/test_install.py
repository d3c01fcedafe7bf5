"""What a user installs: the wheel holds all that a sweep needs, and runs from any folder without the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """A fresh virtual environment that has the wheel."""

    venv: Path

    def run(self, *command: str, cwd: Path) -> str:
        """Run a program of the environment; its stdout. Fails where the program does."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return _run(str(self.venv / "bin" / command[0]), *command[1:], cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> set[str]:
    (path,) = dist.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    (path,) = dist.glob("*.whl")
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=dist)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(path), cwd=dist)
    # A plain path line lends torch and the rest, but does not read the .pth files there that point to the checkout.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    (packages / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return Installed(venv)


@pytest.mark.parametrize("package", ["onecycle_sweeps", "hydra_plugins"])
def test_the_wheel_has_every_module(wheel: set[str], package: str) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
    assert modules
    assert modules == {name for name in wheel if name.startswith(f"{package}/") and name.endswith(".py")}


def test_the_wheel_carries_conf_inside_the_package(wheel: set[str]) -> None:
    files = {f"onecycle_sweeps/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "onecycle_sweeps/conf/config.yaml" in files
    assert files == {name for name in wheel if name.startswith("onecycle_sweeps/conf/")}


def test_the_wheel_installs_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"onecycle_sweeps", "hydra_plugins"}


def test_the_wheel_leaves_the_namespace_of_hydra_plugins_open(wheel: set[str]) -> None:
    assert "hydra_plugins/__init__.py" not in wheel


def test_the_sdist_has_the_tests(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/test_install.py", "scripts/test", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "mlflow"))]


def test_the_installed_package_is_the_one_that_is_tried(installed: Installed, tmp_path: Path) -> None:
    code = "import onecycle_sweeps, hydra_plugins.onecycle_sweeps as p; print(onecycle_sweeps.__file__, p.__file__)"
    for path in installed.run("python", "-c", code, cwd=tmp_path).split():
        assert Path(path).is_relative_to(installed.venv)


def test_the_installed_program_finds_its_config_from_any_folder(installed: Installed, tmp_path: Path) -> None:
    assert "policy:" in installed.run("onecycle-sweeps", "--cfg", "job", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_installed_program_sweeps_from_any_folder(installed: Installed, tmp_path: Path) -> None:
    overrides = ["policy=constant", "max_lr=0.1", "epochs=1", "seed=0,1"]
    out = installed.run("onecycle-sweeps", *overrides, "-m", cwd=tmp_path)
    assert "constant" in out
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 2
    assert len(list(tmp_path.glob("runs/sweeps/*/sweep.json"))) == 1
    assert (tmp_path / "mlflow.db").is_file()


def _run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
