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
