"""The config: invalid values and keys are refused before anything runs, and a path means the same wherever it is typed.

A message is one line with the key, the bound and the value.
"""

import os
import pwd
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import real_trials
from onecycle_sweeps import cli, composing
from onecycle_sweeps.config import paths, schema
from onecycle_sweeps.config.schema import LOCAL_LAUNCHER, Config, ConfigError, check_launcher
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.planning import Planner
from program import run, sweep_of, with_store, write
from real_trials import planned, request

ME = pwd.getpwuid(os.getuid()).pw_name
RATE, COUNT, INDEX, CODE = (
    "a number above 0",
    "a whole number of at least 1",
    "a whole number of at least 0",
    "the dotted name of a class or function",
)
TOO_LARGE = 10**400
NO_CUDA = torch.cuda.device_count()
# The bound of each key, and invalid values as they are typed.
BOUNDS = {
    "max_lr": (f"{RATE} or auto", f"abc null true [0.1] 0 -0.1 nan inf {TOO_LARGE}"),
    "policy.max_lr": (f"{RATE} or auto", "abc 0"),
    "max_lr_scale": (RATE, "abc 0"),
    "epochs": (COUNT, "1.5 abc true 0 -3"),
    "batch_size": (COUNT, "64.0 0"),
    "evaluations_per_epoch": (COUNT, "0"),
    "seed": (INDEX, "abc -1"),
    "label_smoothing": ("a number in [0, 1)", "abc"),
    "clip_norm": (f"{RATE} or null", "0"),
    "threads": (f"{COUNT} or auto", "0"),
    "precision": ("auto, fp32 or bf16", "fp8 16"),
    "save_model": ("true or false", "1"),
    "rerun": ("true or false", "yess"),
    "deterministic": ("true or false", "0"),
    "target_accuracy": ("a number in (0, 1] or null", "95"),
    "checkpoint_minutes": (RATE, "0"),
    "tracking.uri": ("a URI such as sqlite:///mlflow.db", "null"),
    "tracking.experiment": ("a name", "5"),
    "tracking.ui_uri": (
        "null or a server's address for browsers, http://... or https://..., without a login",
        "https://me:pw@host",
    ),
    "tracking.every": ("a whole number of at least 1", "0"),
    "tracking.system_metrics": ("true or false", "1"),
    "optimizer.weight_decay": ("a number of at least 0", "-1"),
    "optimizer.momentum": ("a number in [0, 1)", "1 -0.1"),
    "policy.max_momentum": ("a number in [0, 1)", "1"),
    "policy.base_momentum": ("a number in [0, 1)", "-1"),
    "policy.three_phase": ("true or false", "1"),
    "policy._target_": (CODE, "null"),
    "model._target_": (CODE, "5"),
    "range_test.steps": ("a whole number of at least 100", "99"),
    "range_test.mode": ("exp or linear", "log"),
    "range_test.end_lr": (RATE, "0"),
    "range_test.seeds": ("a list of whole numbers, each once", "0"),
    "data.val_fraction": ("a number in [0, 1)", "1 abc"),
    "data.split_seed": (INDEX, "-1"),
    "data.classes": ("null or a list of class numbers", "7"),
    "device": ("auto, cpu, cuda or cuda:N", "gpu cpu:1"),
}
VALUES = [f"{key}={value}" for key, (_, values) in BOUNDS.items() for value in values.split()]


def refusal(runs_dir: Path, *overrides: str) -> str:
    """The message with which a plan is refused."""
    with pytest.raises(ConfigError) as raised:
        planned(runs_dir, *overrides)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("override", VALUES)
def test_an_invalid_value_is_refused_with_key_bound_and_value(runs_dir: Path, override: str):
    key = override.partition("=")[0]
    message = refusal(runs_dir, override)
    assert message.startswith(f"{key} must be {BOUNDS[key][0]}")
    assert message.endswith(f", got {OverridesParser.create().parse_override(override).value()!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "key", "bound", "value"),
    [
        ("policy=clr policy.base_lr=abc", "base_lr", "a number of at least 0", "'abc'"),
        ("policy=clr policy.base_lr=-0.1", "base_lr", "a number of at least 0", "-0.1"),
        ("policy=clr max_lr=0.1 policy.base_lr=0.5", "base_lr", "at most max_lr=0.1", "0.5"),
        ("policy=clr max_lr=1 max_lr_scale=0.1 policy.base_lr=0.5", "base_lr", "at most max_lr=0.1", "0.5"),
        ("policy=cosine max_lr=0.1 policy.eta_min=1", "eta_min", "at most max_lr=0.1", "1"),
        ("policy=step policy.milestones=0.5", "milestones", "a list of numbers", "0.5"),
        ("policy.anneal_strategy=exp", "anneal_strategy", "cos or linear", "'exp'"),
        ("optimizer=adam optimizer.beta2=1", "optimizer.beta2", "a number in [0, 1)", "1"),
        ("policy.base_momentum=0.96", "base_momentum", "at most max_momentum=0.95", "0.96"),
        ("policy.pct_start=0", "pct_start", "a number in (0, 1)", "0"),
        ("policy.pct_start=1", "pct_start", "a number in (0, 1)", "1"),
        ("policy.pct_start=abc", "pct_start", "a number in (0, 1)", "'abc'"),
        ("epochs=1 batch_size=720", "pct_start * total_steps", "above 1", "0.3 * 1 = 0.3"),
        ("epochs=2 policy.pct_start=0.01", "pct_start * total_steps", "above 1", "0.01 * 22 = 0.22"),
        ("policy=step epochs=1 batch_size=1437", "milestones", "after step 0", "0.5 of 1 steps"),
        (f"epochs={TOO_LARGE}", "epochs", "at most 1000000", str(TOO_LARGE)),
        ("batch_size=1438", "batch_size", "at most the 1437 training samples", "1438"),
        ("batch_size=1437 data.val_fraction=0.5", "batch_size", "at most the 719 training samples", "1437"),
        ("range_test.start_lr=0", "range_test.start_lr", "above 0 where range_test.mode is exp", "0"),
        ("range_test.start_lr=20", "range_test.start_lr", "below range_test.end_lr (10.0)", "20"),
        ("data.classes=[3,77]", "classes", "in 0..9", "77"),
        ("data.classes=[3]", "classes", "at least two different classes, each once", "[3]"),
    ],
)
def test_values_that_contradict_others_are_refused(runs_dir: Path, overrides: str, key: str, bound: str, value: str):
    message = refusal(runs_dir, *overrides.split())
    assert message.startswith(f"{key} must ")
    assert bound in message
    # What to do about it may follow.
    assert message.partition(", got ")[2].partition(":")[0] == value


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("range_test=null", "range_test.mode"),
        ("~policy.max_lr", "policy.max_lr"),
        ("~data.split_seed", "data.split_seed"),
        ("~epochs", "epochs"),
    ],
)
def test_a_missing_key_is_refused_with_its_bound(runs_dir: Path, override: str, key: str):
    assert refusal(runs_dir, override) == f"{key} is missing, it must be {schema.CHECKED[key].allowed}"


def test_an_unknown_key_of_a_policy_is_refused_with_the_one_that_was_meant(runs_dir: Path):
    assert refusal(runs_dir, "+policy.pct_strat=0.2").endswith("policy.pct_strat; did you mean policy.pct_start?")


def test_a_cuda_device_that_does_not_exist_is_refused(runs_dir: Path):
    message = refusal(runs_dir, f"device=cuda:{NO_CUDA}")
    assert message.startswith(f"device=cuda:{NO_CUDA} needs a CUDA device")
    assert f"torch {torch.__version__} finds {NO_CUDA} " in message


def test_a_runs_dir_that_is_not_a_path_is_refused(runs_dir: Path):
    valid = request(runs_dir)
    with pytest.raises(ConfigError, match="runs_dir must be the path of a folder, got 5"):
        Planner(runs_dir).plan(replace(valid, config=valid.config | {"runs_dir": 5}))


@pytest.mark.parametrize("overrides", [(), ("task=range_test",), ("policy=clr", "max_lr=auto")], ids=str)
def test_a_range_test_and_a_training_are_checked_alike(runs_dir: Path, overrides: tuple[str, ...]):
    assert refusal(runs_dir, *overrides, "batch_size=5000").startswith("batch_size must be at most the 1437")
    assert refusal(runs_dir, *overrides, "epochs=0") == f"epochs must be {COUNT}, got 0"


def test_a_missing_data_folder_is_named_with_the_remedy(runs_dir: Path, tmp_path: Path):
    message = refusal(runs_dir, "data=fashion_mnist", f"data.root={tmp_path}/nowhere")
    assert f"in {tmp_path}/nowhere/FashionMNIST/raw" in message
    assert "set data.root or ONECYCLE_DATA to the folder that holds FashionMNIST/raw" in message
    assert "data.download=true where there is internet" in message


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], r"states \[60, 8, 8\], 3856 bytes in all, got 3855$"),
        ("t10k-labels-idx1-ubyte", lambda data: b"PK" + data[2:], r"header of magic number 2049, got \d+$"),
        ("train-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0b", r"labels must lie in 0..9, got 11$"),
    ],
)
def test_a_corrupt_idx_file_is_named(
    runs_dir: Path, mnist: Path, name: str, damage: Callable[[bytes], bytes], message: str
):
    path = mnist / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(runs_dir, "data=mnist", f"data.root={mnist}", "batch_size=6")
    assert line.startswith(f"{path} is corrupt: ")
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "hydra.launcher.workers must be a whole number of at least 1 or auto, got 0"),
        ({"workers": "abc"}, "hydra.launcher.workers must be a whole number of at least 1 or auto, got 'abc'"),
        ({"packed": 0}, "hydra.launcher.packed must be a whole number of at least 1 or auto, got 0"),
        ({"jobs_per_gpu": 1.5}, "hydra.launcher.jobs_per_gpu must be a whole number of at least 1, got 1.5"),
    ],
)
def test_a_launchers_key_is_refused_by_its_full_name(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        check_launcher({"workers": "auto", "jobs_per_gpu": 1, "packed": 1} | settings, LOCAL_LAUNCHER)
    assert str(raised.value) == message


@pytest.mark.slow
def test_the_program_prints_one_line_and_leaves_no_trial(tmp_path: Path, runs_dir: Path):
    """Whole commands, with and without -m: exit status 2, one line on standard error, nothing in runs_dir."""
    commands = {
        "max_lr=abc -m": f"max_lr must be {RATE} or auto, got 'abc'",
        "runs_dir=5": "runs_dir must be the path of a folder, got 5",
        "policy=onecycle,clr max_lr=0.1 epochs=1 batch_size=720 -m": "pct_start * total_steps must be above 1, "
        "got 0.3 * 1 = 0.3: raise pct_start or train longer",
        "policy=clr max_lr=0.1 policy.base_lr=0.5": "base_lr must be at most max_lr=0.1, got 0.5",
        "data=mnist data.root=nowhere": "MNIST: no train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        f"t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte in {tmp_path}/nowhere/MNIST/raw: set data.root or "
        "ONECYCLE_DATA to the folder that holds MNIST/raw, or data.download=true where there is internet",
        "seed=0,1,2,-1 -m": "seed must be a whole number of at least 0, got -1",
    }
    ended = {typed: run(tmp_path, *typed.split()) for typed in commands}
    said = {typed: (done.stdout, done.stderr, done.returncode) for typed, done in ended.items()}
    assert said == {typed: ("", f"onecycle_sweeps: {line}\n", 2) for typed, line in commands.items()}
    assert sorted(os.listdir(tmp_path)) == ["runs"]
    assert [path for path in runs_dir.rglob("*") if path.is_dir()] == [runs_dir / "data", runs_dir / "sweeps"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder beside the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def located(**config: object) -> Config:
    return composing.plain(OmegaConf.create({**config, "hydra": {}}))


@pytest.mark.parametrize(
    ("path", "found"),
    [("~/x", "{home}/x"), ("~", "{home}"), ("x/~", "{work}/x/~"), ("/abs/~/x", "/abs/~/x"), ("./~/x", "{work}/~/x")],
)
def test_a_path_of_a_config_is_absolute_with_its_home_folder(home: Path, path: str, found: str):
    wanted = found.format(home=home, work=Path.cwd())
    config = located(runs_dir=path, data={"root": path}, model={"weights_file": path})
    assert config["runs_dir"] == config["data"]["root"] == config["model"]["weights_file"] == wanted


@pytest.mark.usefixtures("home")
def test_another_users_home_is_expanded_and_that_of_an_unknown_user_is_refused():
    assert located(runs_dir=f"~{ME}/x")["runs_dir"] == f"{pwd.getpwnam(ME).pw_dir}/x"
    with pytest.raises(ConfigError, match=r"runs_dir: ~nobody-here/x .* \./~nobody-here"):
        located(runs_dir="~nobody-here/x")


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("sqlite:///~/x.db", "sqlite:///{home}/x.db"),
        ("sqlite:///x.db?timeout=5", "sqlite:///{work}/x.db?timeout=5"),
        ("sqlite:////abs/~/x.db", "sqlite:////abs/~/x.db"),
        ("http://host/~me", "http://host/~me"),
    ],
)
def test_the_path_of_an_sqlite_store_is_absolute(home: Path, uri: str, found: str):
    assert located(tracking={"uri": uri})["tracking"]["uri"] == found.format(home=home, work=Path.cwd())


def test_every_path_of_a_node_with_a_target_that_begins_with_a_home_folder_is_expanded(home: Path):
    data = {"_target_": "mine.load", "file": "~/d.npz", "parts": ["~/a", "b"], "pattern": "~x", "name": "~"}
    found = located(data=data, tracking={"uri": "http://host", "experiment": "~/mine"})
    assert found["data"] == data | {"file": f"{home}/d.npz", "parts": [f"{home}/a", "b"]}
    assert found["tracking"]["experiment"] == "~/mine"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("data.root=~/d", "data.root={home}/d"),
        ("runs_dir=~", "runs_dir={home}"),
        ("model.weights_file=~/a,~/b", "model.weights_file={home}/a,{home}/b"),
        ("data.files=[~/a,~/b]", "data.files=[{home}/a,{home}/b]"),
        ("tracking.uri=sqlite:///~/x.db", "tracking.uri=sqlite:///{home}/x.db"),
        ("~optimizer.momentum", "~optimizer.momentum"),
        ("~/conf", "{home}/conf"),
        ("tracking.experiment=a~/b", "tracking.experiment=a~/b"),
        ("hydra.launcher.setup=['cd ~/x']", "hydra.launcher.setup=['cd ~/x']"),
    ],
)
def test_a_typed_home_folder_is_expanded_where_a_path_begins(home: Path, typed: str, found: str):
    assert paths.typed_with_homes([typed]) == [found.format(home=home)]


def test_the_environment_may_name_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONECYCLE_DATA", "~/data")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~/x.db")
    config = real_trials.request(Path("runs"), "data=mnist", "epochs=7").config
    assert (config["data"]["root"], config["tracking"]["uri"]) == (f"{home}/data", f"sqlite:///{home}/x.db")


def test_paths_for_slurm_are_expanded_but_not_those_in_shell_commands(home: Path):
    asked = composing.launcher(real_trials.composed("hydra/launcher=slurm")) | {
        "setup": ["cd ~/x"],
        "srun_args": ["~/bin/a"],
        "additional_parameters": {"container_image": "~/x.sqsh"},
    }
    found = options.parameters(asked)
    assert found["setup"][-1] == "cd ~/x"
    assert found["srun_args"][-1] == f"{home}/bin/a"
    assert found["additional_parameters"]["container-image"] == f"{home}/x.sqsh"


def test_the_paths_of_hydras_own_folders_are_expanded(home: Path):
    config = OmegaConf.create({"hydra": {"run": {"dir": "~/r"}, "sweep": {"dir": "~/s"}}})
    composing.HydrasFolders().on_run_start(config)
    composing.HydrasFolders().on_multirun_start(config)
    assert (config.hydra.run.dir, config.hydra.sweep.dir) == (f"{home}/r", f"{home}/s")


EXPERIMENT = """# @package _global_
runs_dir: ~/runs
tracking:
  uri: sqlite:///~/mlflow.db
max_lr: 0.1
epochs: 1
"""


@pytest.mark.slow
def test_a_sweep_by_a_users_yaml_is_in_the_home_folder_and_is_found_there(
    home: Path, capsys: pytest.CaptureFixture[str]
):
    home.mkdir()
    with_store(home)
    write(Path.cwd(), {"conf/experiment/mine.yaml": EXPERIMENT})
    done = run(Path.cwd(), "--config-dir", "conf", "experiment=mine", "policy=constant", "seed=0,1", "-m")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["conf"]
    made = sweep_of(home)
    assert made.tracking_uri == f"sqlite:///{home}/mlflow.db"
    (line,) = [line for line in done.stdout.splitlines() if " -m onecycle_sweeps ui " in line]
    assert cli.main(["report", *line.partition(" -m onecycle_sweeps ui ")[2].split()]) == 0
    assert cli.main(["status", "runs_dir='~/runs'"]) == 0
    assert made.id in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("file:///tmp/mlruns", "sqlite:///mlflow.db"),
        ("./mlruns", "sqlite:///mlflow.db"),
        ("/tmp/mlruns", "sqlite:///mlflow.db"),
        ("databricks", "sqlite:///mlflow.db"),
        ("s3://bucket/x", "sqlite:///mlflow.db"),
        ("sqlit:///x.db", "did you mean sqlite:///x.db"),
        ("SQLITE:///x.db", "did you mean sqlite:///x.db"),
        ("htp://me:hunter2@host:1", "did you mean http://host:1"),
        ("postgres://me:hunter2@host/db", "did you mean postgresql://"),
        ("sqlite://x.db", "sqlite:///x.db (three slashes)"),
        ("sqlite:///", "sqlite:///mlflow.db"),
        ("sqlite:///:memory:", "names no file"),
        ("localhost:5000", "http://localhost:5000"),
        ("http://", "http://HOST"),
        ("http://host:notaport", "http://HOST:PORT"),
        ("postgresql+nodriver://me:hunter2@host/db", "nodriver"),
        ("sqlite:///{work}", "is a folder"),
        ("sqlite:///{work}/text", "sqlite database"),
        ("sqlite:///{work}/text/x.db", "cannot create"),
        ("", "tracking.uri must be a URI"),
    ],
)
def test_an_invalid_uri_of_a_store_is_refused_before_anything_runs(
    tmp_path: Path, checks_here: None, uri: str, advice: str, capsys: pytest.CaptureFixture[str]
):
    Path("text").write_text("this is no database")
    uri = uri.format(work=Path.cwd())
    config = real_trials.request(tmp_path / "runs").config
    config = config | {"tracking": config["tracking"] | {"uri": uri, "experiment": "x"}}
    with pytest.raises(ConfigError) as refused:
        start(config)
    assert advice in str(refused.value)
    assert "\n" not in str(refused.value) and "hunter2" not in str(refused.value)
    assert not (tmp_path / "runs").exists()
    assert cli.main(["doctor", f"runs_dir={tmp_path}/runs", f"tracking.uri='{uri}'"]) == 1
    assert advice in capsys.readouterr().out


def start(config: Config) -> None:
    """Do what a command does with its config before it runs anything."""
    schema.check(config)
    Session(config, Preflight(preflight.in_this_process), single=True)
