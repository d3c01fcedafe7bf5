"""What made a result is written down: versions, the commit, and a hash of the code that a config names."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from onecycle_sweeps import provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one commit."""
    (tmp_path / "file").write_text("one")
    for command in ("init -q", "add file", "-c user.name=a -c user.email=a@b commit -qm one"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own code on the path: module `mine_alone`, package `mine` with `mine.nets`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine_alone.py", "mine/__init__.py", "mine/nets.py", "mine/other.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


def code(*targets: str) -> dict[str, str]:
    return provenance.code_of({"nodes": [{"_target_": target} for target in targets]}).targets


def test_versions_are_the_installed_ones():
    found = provenance.versions()
    assert set(found) == {"onecycle-sweeps", "torch", "torchvision", "timm"}
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_package_that_is_not_installed_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions() == {"no-such-package": "not installed"}


def test_targets_are_found_wherever_a_config_names_them():
    config = {"a": {"_target_": "json.dumps", "b": [{"_target_": "pathlib.Path"}]}, "c": {"_target_": 5}, "d": None}
    assert list(provenance.code_of(config).targets) == ["json.dumps", "pathlib.Path"]


def test_an_edit_of_the_users_code_changes_its_hash(users: Path):
    before = code("mine_alone.Net", "mine.nets.Net", "mine.Net")
    assert code("mine_alone.Net", "mine.nets.Net", "mine.Net") == before
    (users / "mine_alone.py").write_text("# edited\n")
    (users / "mine" / "nets.py").write_text("# edited\n")
    after = code("mine_alone.Net", "mine.nets.Net", "mine.Net")
    assert all(after[target] != before[target] for target in before)


def test_a_file_beside_a_module_is_not_part_of_its_code(users: Path):
    before = code("mine.nets.Net")
    (users / "mine" / "other.py").write_text("# edited\n")
    assert code("mine.nets.Net") == before


IMPORTS = {
    "a module": "import helper",
    "a module by another name": "import helper as h",
    "a name of a module": "from helper import block",
    "all names of a module": "from helper import *",
    "a module of a package": "import bricks.deep",
    "a module from a package": "from bricks import deep",
    "a module of a namespace package": "import loose.bricks",
    "a name that a package passes on": "from bricks import Block",
    "a name that a package makes when it is asked": "from bricks import Made",
    "in a function": "def build():\n    from helper import block",
    "in a class, in a try": "class Net:\n    try:\n        import helper\n    except ImportError:\n        pass",
    "by a call": "import importlib\nimportlib.import_module('helper')",
    "by a call of its own": "from importlib import import_module\nimport_module('bricks.deep')",
    "by a relative call": "__import__('helper')",
}


@pytest.fixture
def bricks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's modules: `net`, `helper` which imports `far`, and packages `bricks` and `loose`, all of one file."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "helper.py": "import far\nimport net\n",
        "far.py": "block = 1\n",
        "bricks/__init__.py": "from .blocks import Block\n",
        "bricks/blocks.py": "from . import deep\n",
        "bricks/deep.py": "from ..nowhere import x\nimport far\n",
        "loose/bricks.py": "from .. import nothing\nfrom . import inner\n",
        "loose/inner.py": "import far\n",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS.keys())
def test_what_a_module_imports_counts_however_far_away_it_is(bricks: Path, statement: str):
    (bricks / "net.py").write_text(f"import torch, os\n{statement}\n")
    before = provenance.code_of({"_target_": "net.Net"})
    assert "far.py" in before.files and "unused.py" not in before.files
    (bricks / "unused.py").write_text("# edited\n")
    assert provenance.code_of({"_target_": "net.Net"}) == before
    (bricks / "far.py").write_text("block = 2\n")
    after = provenance.code_of({"_target_": "net.Net"})
    assert after.targets != before.targets
    assert provenance.differing([provenance.as_record(one) for one in (before, after)]) == ("far.py",)
    assert not {"net", "helper", "far", "bricks", "loose"} & set(sys.modules)


def test_the_init_file_of_a_package_counts_for_its_modules(bricks: Path):
    (bricks / "net.py").write_text("from bricks.deep import x\n")
    assert {"bricks/__init__.py", "bricks/blocks.py"} <= set(provenance.code_of({"_target_": "net.Net"}).files)


def test_code_that_does_not_parse_counts_by_its_content(bricks: Path):
    (bricks / "net.py").write_text("import helper\n")
    (bricks / "helper.py").write_text("def (:\n")
    assert set(provenance.code_of({"_target_": "net.Net"}).files) == {"net.py", "helper.py"}


def test_the_users_code_ends_where_this_program_and_libraries_begin(bricks: Path):
    (bricks / "net.py").write_text("import numpy, timm\nfrom onecycle_sweeps.policies import Hyper\n")
    assert set(provenance.code_of({"_target_": "net.Net"}).files) == {"net.py"}


def test_targets_count_anywhere_in_the_config(bricks: Path):
    for name in ("nets", "sets", "cuts"):
        (bricks / f"{name}.py").write_text("")
    config = {"model": {"_target_": "nets.A", "_partial_": True}, "data": {"x": [{"_target_": "cuts.C"}]}}
    found = provenance.code_of(config | {"d": {"_target_": "sets.load"}})
    assert set(found.files) == {"nets.py", "cuts.py", "sets.py"}


def test_code_of_this_program_counts_by_the_modules_behind_a_target():
    found = provenance.code_of({"_target_": "onecycle_sweeps.policies.OneCycle"})
    assert "onecycle_sweeps/policies/onecycle.py" in found.files
    assert "onecycle_sweeps/policies/policy.py" in found.files
    assert "onecycle_sweeps/policies/decay.py" not in found.files


def test_a_change_names_files_targets_and_versions_but_torch_is_no_code():
    made = {
        "versions": {"torch": "1", "onecycle-sweeps": "1"},
        "code": {"a.A": "torch 1", "b.B": "timm 1"},
        "files": {},
    }
    now = {"versions": {"torch": "2", "onecycle-sweeps": "1"}, "code": {"a.A": "torch 2", "b.B": "timm 2"}, "files": {}}
    assert provenance.change(made, now) == provenance.Change(("b.B",), ("torch was 1 and is 2",))
    assert not provenance.change(made, made)
    newer = made | {"versions": {"torch": "1", "onecycle-sweeps": "2"}}
    assert provenance.change(made, newer).code == ("onecycle-sweeps was 1 and is 2",)
    assert provenance.change({}, now) == provenance.Change()


def test_code_is_hashed_without_being_run(users: Path):
    (users / "mine_alone.py").write_text("raise SystemExit\n")
    (users / "mine" / "__init__.py").write_text("raise SystemExit\n")
    assert set(map(len, code("mine_alone.Net", "mine.nets.Net").values())) == {12}
    assert "mine" not in sys.modules


def test_the_code_of_an_installed_library_is_its_version():
    assert code("torch.optim.SGD") == {"torch.optim.SGD": f"torch {provenance.versions()['torch']}"}


def test_missing_code_is_recorded_as_not_found():
    assert code("no_such_module.Net") == {"no_such_module.Net": "not found"}


def test_a_commit_is_marked_dirty_if_files_differ_from_it(checkout: Path):
    commit = provenance.git_commit(checkout)
    assert commit is not None
    assert len(commit) == 40
    (checkout / "file").write_text("two")
    assert provenance.git_commit(checkout) == f"{commit}-dirty"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit(tmp_path) is None


def test_this_programs_own_code_counts_unless_it_is_installed():
    found = provenance.code_of_trial({"_target_": "onecycle_sweeps.policies.OneCycle"})
    assert {"onecycle_sweeps/loop.py", "onecycle_sweeps/trial/train.py", "onecycle_sweeps/images/batches.py"} <= (
        found.files.keys()
    )
    assert not [
        name for name in found.files if name.startswith(("onecycle_sweeps/report", "onecycle_sweeps/launching"))
    ]


@pytest.mark.slow
def test_an_edit_of_this_programs_code_changes_the_code(tmp_path: Path):
    shutil.copytree(Path(provenance.__file__).parent, tmp_path / "onecycle_sweeps")
    first = in_a_process(tmp_path)
    assert in_a_process(tmp_path) == first
    with (tmp_path / "onecycle_sweeps" / "loop.py").open("a") as file:
        file.write("# edited\n")
    assert provenance.change(first, in_a_process(tmp_path)) == provenance.Change(("onecycle_sweeps/loop.py",))


def test_an_installed_program_counts_by_its_version_alone(tmp_path: Path):
    place = tmp_path / "site-packages"
    shutil.copytree(Path(provenance.__file__).parent, place / "onecycle_sweeps")
    assert in_a_process(place)["files"] == {}


def in_a_process(place: Path) -> dict[str, Any]:
    """The record of a trial whose config names no code, made by the program that lies at `place`."""
    asked = (
        "import json; from onecycle_sweeps import provenance as p; print(json.dumps(p.as_record(p.code_of_trial({}))))"
    )
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", asked], cwd=place, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_libraries_that_the_users_code_imports_count_by_their_versions(users: Path):
    (users / "mine_alone.py").write_text("import json, numpy.linalg, nowhere\nfrom mine.nets import Net\n")
    (users / "mine" / "nets.py").write_text("def build():\n    from PIL import Image\n")
    found = provenance.code_of_trial({"_target_": "mine_alone.Net"})
    assert found.libraries == {name: version(name) for name in ("numpy", "pillow")}
    now = provenance.as_record(found)
    before = now | {"versions": now["versions"] | {"numpy": "1.0"}}
    assert provenance.change(before, now).versions == (f"numpy was 1.0 and is {version('numpy')}",)
