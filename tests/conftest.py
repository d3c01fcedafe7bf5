import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings

from onecycle_sweeps.launching.pool import THREAD_VARIABLES
from slurm_cluster import cluster as cluster
from tracking_server import server as server

# As in each process of the program: threads that wait for work take the time of the other tests. Libraries look at it
# when they are loaded, so nothing above may load NumPy or torch.
os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

# The hundreds of processes that tests start would each compile the program anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A suite that a shell has started in the background ignores Ctrl-C, and so would each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing of the product where several tests share two cores.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


FAST = "not slow and not slurm and not server"
EACH_TEST_WITH_A_CLUSTER = "test_slurm_"
# Where modules are that a test imported as a user's code.
ANOTHER_TESTS = (tempfile.gettempdir(), str(Path(__file__).resolve().parents[1] / "examples"))
# One server is enough for all.
WITH_THE_SERVER = ("test_docker.py", "test_full_disk.py", "test_outages.py", "test_server.py", "test_shipping.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden/report.* as they are from here on")


def pytest_configure(config: pytest.Config) -> None:
    """Run the fast tests alone unless a file or -m is given; hide GPUs from all tests but those marked cuda.

    A trial takes a GPU where it may, and then computes other bits. A CUDA_VISIBLE_DEVICES that is set is respected.
    """
    if not config.option.markexpr and not any(".py" in argument for argument in config.args):
        config.option.markexpr = FAST
    if config.option.markexpr != "cuda" and shutil.which("nvidia-smi"):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole units in place of whole files."""
    from xdist.scheduler import LoadFileScheduling

    class Units(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return Units(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a cluster or a server, and put all into an order.

    What takes long comes first, so that no core is idle while another one still has minutes before it. Each second unit
    is a test with a cluster, which waits more than it computes, so that some always wait and some compute.
    """
    for item in items:
        for fixture, marker in (("cluster", "slurm"), ("shared_cluster", "slurm"), ("server", "server")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    slow = Counter(_unit(item.nodeid) for item in items if item.get_closest_marker("slow"))
    units = dict.fromkeys(_unit(item.nodeid) for item in items)
    place: dict[str, tuple[int, bool]] = {}
    for computes in (False, True):
        those = sorted((unit for unit in units if ("::" not in unit) is computes), key=lambda unit: -slow[unit])
        place |= {unit: (number, computes) for number, unit in enumerate(those)}
    items.sort(key=lambda item: place[_unit(item.nodeid)])


def _unit(nodeid: str) -> str:
    """The name of what one process runs: a test with a cluster of its own, all files with the server, or a file."""
    file = nodeid.partition("::")[0]
    if Path(file).name.startswith(EACH_TEST_WITH_A_CLUSTER):
        return nodeid
    return "server" if Path(file).name in WITH_THE_SERVER else file


def pytest_collection_finish() -> None:
    """The many objects of torch and of the tests themselves stay; the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def environment_of_its_own() -> Iterator[None]:
    """What a test puts into the environment, such as the login of a store that it names, is gone after it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def modules_of_its_own() -> Iterator[None]:
    """A user's code that a test imported is not there for the next one, which may have a module of the same name."""
    last = next(reversed(sys.modules))
    yield
    # Modules are in the order in which they were imported.
    for name in list(takewhile(lambda name: name != last, reversed(sys.modules))):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(ANOTHER_TESTS):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def files_in_memory() -> Iterator[None]:
    """Writing a file does not wait for the disk: no test takes the power from a machine."""
    with patch.object(os, "fsync", lambda file: None):
        yield


@pytest.fixture(scope="session", autouse=True)
def configs_composed_quickly() -> Iterator[None]:
    """Commands in this process compose their configs in a third of the time."""
    from quick_composing import quick_composing

    with quick_composing():
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with a file of tests/golden, which `pytest --renew-golden` writes instead."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).with_name("golden") / name
        if request.config.getoption("--renew-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare


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
    return _made(tmp_path / "runs", decoded)


@pytest.fixture
def beside(tmp_path: Path, decoded: Path) -> Path:
    """A second such runs_dir, where the same trials can run undisturbed."""
    return _made(tmp_path / "beside", decoded)


@pytest.fixture
def warm_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of the program that this process starts are forks of one that has imported its libraries."""
    import program

    program.warm_processes(monkeypatch, tmp_path)


def _made(folder: Path, decoded: Path) -> Path:
    folder.mkdir()
    (folder / "data").symlink_to(decoded)
    return folder


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A root of idx files: 60 training and 20 test images of noise, 8x8."""
    import numpy as np

    from photographs import idx_bytes

    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(drawn.integers(0, 256, (count, 8, 8))))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 10))
    return tmp_path / "root"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that this machine has."""
    return request.param if request.param == "cpu" else request.getfixturevalue("cuda")


@pytest.fixture(scope="session")
def cuda() -> str:
    """A CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible; they are hidden unless pytest runs with exactly -m cuda")
    return "cuda"


@pytest.fixture
def checks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are checked in this process, which has imported torch, where the program would start another one."""
    from onecycle_sweeps.launching import preflight

    monkeypatch.setattr(preflight, "in_a_fresh_process", preflight.in_this_process)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small nets only lose by a second thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
