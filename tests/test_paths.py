"""A path means the same wherever a user writes it: in YAML, on the command line, in the environment, for a verb."""

import os
import pwd
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import real_trials
from onecycle_sweeps import cli, composing
from onecycle_sweeps.config import paths
from onecycle_sweeps.config.schema import Config, ConfigError
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.launching.slurm import options
from program import run, sweep_of, with_store, write

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(autouse=True)
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


def test_another_users_home_is_theirs_and_one_that_nobody_has_is_refused():
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
def test_a_store_has_its_database_in_the_home_folder(home: Path, uri: str, found: str):
    assert located(tracking={"uri": uri})["tracking"]["uri"] == found.format(home=home, work=Path.cwd())


def test_of_a_node_with_a_target_every_path_in_the_home_folder_is_expanded_and_nothing_else(home: Path):
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


def test_paths_of_a_request_to_slurm_are_expanded_and_its_shell_lines_left_to_the_shell(home: Path):
    asked = composing.launcher(real_trials.composed("hydra/launcher=slurm")) | {
        "setup": ["cd ~/x"],
        "srun_args": ["~/bin/a"],
        "additional_parameters": {"container_image": "~/x.sqsh"},
    }
    found = options.parameters(asked)
    assert found["setup"][-1] == "cd ~/x"
    assert found["srun_args"][-1] == f"{home}/bin/a"
    assert found["additional_parameters"]["container-image"] == f"{home}/x.sqsh"


def test_the_folders_that_hydra_makes_are_where_their_paths_mean(home: Path):
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
def test_a_sweep_of_a_users_yaml_lies_in_the_home_folder_and_is_found_there(
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
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("report: ")]
    assert cli.main(line.partition(" -m onecycle_sweeps ")[2].split()) == 0
    assert cli.main(["status", "runs_dir='~/runs'"]) == 0
    assert made.id in capsys.readouterr().out


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
def test_what_is_no_store_is_refused_in_a_line_before_anything_runs(
    tmp_path: Path, checks_here: None, uri: str, advice: str, capsys: pytest.CaptureFixture[str]
):
    Path("text").write_text("this is no database")
    uri = uri.format(work=Path.cwd())
    config = real_trials.request(tmp_path / "runs").config | {"tracking": {"uri": uri, "experiment": "x"}}
    with pytest.raises(ConfigError) as refused:
        settings_checked(config)
    assert advice in str(refused.value)
    assert "\n" not in str(refused.value) and "hunter2" not in str(refused.value)
    assert not (tmp_path / "runs").exists()
    assert cli.main(["doctor", f"runs_dir={tmp_path}/runs", f"tracking.uri='{uri}'"]) == 1
    assert advice in capsys.readouterr().out


def settings_checked(config: Config) -> None:
    """What a command does with its config before it runs anything."""
    from onecycle_sweeps.config import schema

    schema.check(config)
    Session(config, Preflight(preflight.in_this_process), single=True)
