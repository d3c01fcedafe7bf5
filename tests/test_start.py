"""The start of a command: a trial imports no heavy library before its first step, and user code is found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import real_trials
from onecycle_sweeps import command_line

# Each takes from a tenth of a second to some seconds.
HEAVY = ("torchvision", "timm", "mlflow", "matplotlib", "scipy", "sklearn", "pandas")
OWN = (
    *("simple_cnn", "lenet", "resnet9", "resnet20", "wrn_22"),
    # Not ours: that it is caught shows that the others could be.
    "resnet18",
)
TRAIN = f"""
import json, sys
from pathlib import Path
from onecycle_sweeps.launching import execution
import real_trials
seen = {{}}
for model in sys.argv[2:]:
    # The widest one has millions of weights for the same code.
    narrow = ["model.width=1"] if "width" in real_trials.composed(f"model={{model}}").model else []
    words = (f"model={{model}}", *narrow, "max_lr=0.1", "batch_size=8", "epochs=1")
    folder = real_trials.made(Path(sys.argv[1]), *words)
    outcome = execution.execute(folder, real_trials.stop_after(1))
    seen[model] = [outcome.status, *(name for name in {HEAVY} if name in sys.modules)]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, decoded: Path) -> dict[str, list[str]]:
    """How a trial of each net, stopped after a step, ended, and which heavy libraries were loaded by then."""
    runs = tmp_path_factory.mktemp("start")
    (runs / "data").symlink_to(decoded)
    real_trials.planned(runs, "max_lr=0.1")
    return json.loads(output(TRAIN, str(runs), *OWN))


def output(code: str, *arguments: str) -> str:
    """The output of a fresh Python process; fails if the process does."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("model", OWN[:-1])
def test_our_nets_take_their_first_step_without_heavy_libraries(model: str, seen: dict[str, list[str]]):
    assert seen[model] == ["stopped"]


@pytest.mark.slow
def test_a_torchvision_net_loads_torchvision(seen: dict[str, list[str]]):
    assert "torchvision" in seen["resnet18"]


COLLECTING = """
import gc
from onecycle_sweeps import memory
before = gc.get_threshold()
memory.collect_seldom()
loading = gc.get_threshold()
memory.collect_as_usual()
class Net: pass
net = Net(); net.itself = net
kept = gc.get_freeze_count()
memory.collect_as_usual()
print(loading > before, gc.get_threshold() == before, kept > 0, gc.get_freeze_count() == kept)
"""


def test_garbage_is_collected_as_python_does_from_the_first_trial_on_and_no_trial_is_kept():
    assert output(COLLECTING).split() == ["True"] * 4


@pytest.mark.parametrize(
    ("typed", "wants"),
    [
        ("policy=onecycle -m", True),
        ("--multirun", True),
        ("hydra.mode=MULTIRUN", True),
        ("hydra/launcher=local -m", True),
        ("hydra/launcher=slurm -m", False),
        ("max_lr=0.3", False),
        ("", False),
    ],
)
def test_a_sweep_on_this_machine_is_recognised_by_its_command(typed: str, wants: bool):
    assert command_line.wants_workers(typed.split()) is wants


@pytest.mark.parametrize(
    "typed",
    [
        ["--config-dir", "my"],
        ["policy=mine", "--config-dir=my", "-m"],
        ["-cd", "my", "-m"],
        ["hydra.searchpath=[pkg://there,file:///typed/here/my]"],
        ["--config-path", "/typed/here/my"],
    ],
)
def test_code_beside_a_users_configs_comes_after_installed_packages(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("my/mine.py", "my/model/nets.py", "my/model/net.yaml", "my/policy/mine.yaml", "my/notes/plot.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "path", ["/installed"])
    command_line.add_code([word.replace("/typed/here", str(tmp_path)) for word in typed], tmp_path)
    assert sys.path == ["/installed", *(str(tmp_path / name) for name in ("", "my", "my/model"))]
    command_line.add_code(["--config-dir"], tmp_path)
    assert len(sys.path) == 4
