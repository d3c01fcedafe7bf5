import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder of real data sets in torchvision's layouts."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in (Path(os.environ.get("ONECYCLE_DATA", beside)), beside):
        if (folder / "FashionMNIST" / "raw").is_dir():
            return folder
    pytest.skip("no real data: set ONECYCLE_DATA to a folder that holds FashionMNIST/raw")


@pytest.fixture(scope="session")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where data sets lie decoded, once for all tests and all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "decoded"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def runs_dir(tmp_path: Path, decoded: Path) -> Path:
    """A fresh runs_dir whose data sets are decoded already."""
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "data").symlink_to(decoded)
    return folder
