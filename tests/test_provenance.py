"""What made a result is written down: versions, the commit, and a hash of the code that a config names."""

import subprocess
import sys
from pathlib import Path

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
    return provenance.code_hashes({"nodes": [{"_target_": target} for target in targets]})


def test_versions_are_those_that_run():
    found = provenance.versions()
    assert set(found) == {"onecycle-sweeps", "torch", "torchvision", "timm"}
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_package_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions() == {"no-such-package": "not installed"}


def test_targets_are_found_wherever_a_config_names_them():
    config = {"a": {"_target_": "json.dumps", "b": [{"_target_": "pathlib.Path"}]}, "c": {"_target_": 5}, "d": None}
    assert list(provenance.code_hashes(config)) == ["json.dumps", "pathlib.Path"]


def test_code_of_ones_own_has_another_hash_once_it_is_edited(users: Path):
    before = code("mine_alone.Net", "mine.nets.Net", "mine.Net")
    assert code("mine_alone.Net", "mine.nets.Net", "mine.Net") == before
    (users / "mine_alone.py").write_text("# edited\n")
    (users / "mine" / "nets.py").write_text("# edited\n")
    after = code("mine_alone.Net", "mine.nets.Net", "mine.Net")
    assert all(after[target] != before[target] for target in before)


def test_code_beside_a_module_is_no_part_of_it(users: Path):
    before = code("mine.nets.Net")
    (users / "mine" / "other.py").write_text("# edited\n")
    assert code("mine.nets.Net") == before


def test_code_is_hashed_without_being_run(users: Path):
    (users / "mine_alone.py").write_text("raise SystemExit\n")
    (users / "mine" / "__init__.py").write_text("raise SystemExit\n")
    assert set(map(len, code("mine_alone.Net", "mine.nets.Net").values())) == {12}
    assert "mine" not in sys.modules


def test_the_code_of_an_installed_library_is_its_version():
    assert code("torch.optim.SGD") == {"torch.optim.SGD": f"torch {provenance.versions()['torch']}"}


def test_code_that_is_not_there_is_said():
    assert code("no_such_module.Net") == {"no_such_module.Net": "not found"}


def test_a_commit_is_marked_where_files_differ_from_it(checkout: Path):
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
