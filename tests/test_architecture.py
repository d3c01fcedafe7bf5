"""Imports run downwards only, heavy libraries stay where they belong, and the program starts without them."""

import subprocess
import sys
from pathlib import Path

import pytest

import house
from imports import House

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def ours() -> House:
    return House(ROOT)


def _name(rule: object) -> str:
    return getattr(rule, "__name__", "")


@pytest.mark.slow
@pytest.mark.parametrize("rule", house.RULES, ids=_name)
def test_the_house_keeps_its_rules(rule, ours: House) -> None:
    assert list(rule(ours)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("root", "folders"),
    [
        ("scripts", ["benchmarks", "gpu_check"]),
        ("scripts/server", ["."]),
        ("scripts/slurm", ["."]),
        ("tests", ["."]),
    ],
)
def test_no_import_among_scripts_or_tests_is_circular(root: str, folders: list[str]) -> None:
    modules = House(ROOT / root, folders)
    assert len(modules.files) > 1
    assert list(house.no_import_is_circular(modules)) == []


BREACHES = [
    (house.every_module_stands_on_a_floor, {"onecycle_sweeps/attic.py": ""}),
    (house.imports_run_downwards, {"onecycle_sweeps/loop.py": "from onecycle_sweeps import trial"}),
    (house.imports_run_downwards, {"onecycle_sweeps/loop.py": "from onecycle_sweeps.trial import run"}),
    (house.imports_run_downwards, {"onecycle_sweeps/loop.py": "def f():\n    import onecycle_sweeps.trial"}),
    (house.imports_run_downwards, {"onecycle_sweeps/report/page.py": "from ..launching import execution"}),
    (house.imports_run_downwards, {"onecycle_sweeps/report/page.py": "import onecycle_sweeps.tracking"}),
    (house.imports_run_downwards, {"onecycle_sweeps/trial.py": "import hydra_plugins.onecycle_sweeps"}),
    (house.nobody_imports_what_conf_names, {"onecycle_sweeps/trial.py": "from onecycle_sweeps.models import lenet"}),
    (house.a_library_stays_in_its_home, {"onecycle_sweeps/trial.py": "def f():\n    from mlflow import log_metric"}),
    (house.a_library_stays_in_its_home, {"onecycle_sweeps/launching/pool.py": "import submitit"}),
    (house.a_library_stays_in_its_home, {"onecycle_sweeps/loop.py": "from omegaconf import OmegaConf"}),
    (
        house.hydras_private_interfaces_stay_in_one_file,
        {"onecycle_sweeps/composing.py": "from hydra._internal import utils"},
    ),
    (house.the_submitting_side_starts_without_torch, {"onecycle_sweeps/cli.py": "def f():\n    import torch"}),
    (house.the_submitting_side_starts_without_torch, {"onecycle_sweeps/report/page.py": "import torchvision.io"}),
    (
        house.the_submitting_side_starts_without_torch,
        {
            "onecycle_sweeps/sweep.py": "from onecycle_sweeps.sources.idx import load",
            "onecycle_sweeps/sources/__init__.py": "import torch",
        },
    ),
    (house.the_plugin_loads_hydra_alone, {"hydra_plugins/onecycle_sweeps/launcher.py": "import yaml"}),
    (
        house.the_plugin_loads_hydra_alone,
        {"hydra_plugins/onecycle_sweeps/launcher.py": "from onecycle_sweeps import journal"},
    ),
    (
        house.no_import_is_circular,
        {
            "onecycle_sweeps/report/page.py": "from . import figures",
            "onecycle_sweeps/report/figures.py": "def f():\n    from .page import g",
        },
    ),
    (house.no_two_modules_share_a_name, {"onecycle_sweeps/report/lenet.py": ""}),
    (house.no_two_modules_share_a_name, {"onecycle_sweeps/launching/report.py": ""}),
    (
        house.no_two_classes_share_a_name,
        {"onecycle_sweeps/loop.py": "class Kind: ...", "onecycle_sweeps/trial.py": "def f():\n    class Kind: ..."},
    ),
    (
        house.no_module_only_forwards,
        {"onecycle_sweeps/loop.py": '"""The loop."""\nfrom .journal import read\nx = read'},
    ),
    (house.every_name_says_something, {"onecycle_sweeps/report/figure_utils.py": ""}),
]
STANDING = (
    "__init__",
    "trial",
    "tracking",
    "journal",
    "models/lenet",
    "sources/idx",
    "launching/execution",
    "report/__init__",
)


@pytest.mark.parametrize(("rule", "files"), BREACHES, ids=_name)
def test_a_breach_of_a_rule_is_seen(rule, files: dict[str, str], tmp_path: Path) -> None:
    for name in STANDING:
        _write(tmp_path / "onecycle_sweeps" / f"{name}.py", "")
    assert list(rule(House(tmp_path))) == []
    for name, text in files.items():
        _write(tmp_path / name, text)
    assert len(list(rule(House(tmp_path)))) == 1


def test_an_import_for_the_type_checker_loads_nothing(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n    import mlflow"
    _write(tmp_path / "onecycle_sweeps" / "sweep.py", text)
    assert list(house.the_submitting_side_starts_without_torch(House(tmp_path))) == []
    assert len(list(house.a_library_stays_in_its_home(House(tmp_path)))) == 1


@pytest.mark.slow
def test_no_module_of_the_submitting_side_loads_torch_through_another_library(ours: House) -> None:
    modules = [module for module in ours.files if house.place(module) in house.TORCH_FREE]
    assert not {"torch", "torchvision"} & _loaded_by("-c", "import " + ", ".join(sorted(modules)))


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "mlflow"])
def test_help_does_not_load(library: str) -> None:
    loaded = _loaded_by("-m", "onecycle_sweeps", "--help")
    assert {"hydra", "onecycle_sweeps"} <= loaded
    assert library not in loaded


def _loaded_by(*arguments: str) -> set[str]:
    """The top-level names of all modules that a fresh Python loads; fails where it does."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if line not in times)
    return {line.rpartition("|")[2].strip().split(".")[0] for line in times}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
