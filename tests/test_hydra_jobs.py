"""Hydra's settings around jobs work or are refused: selections, environment, callbacks, folders."""

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

import hydra_code
from onecycle_sweeps.composing import Composer, searches_seeds
from onecycle_sweeps.config.schema import ConfigError, check_env_set
from onecycle_sweeps.hydra_job import DEFAULTS, NoValue, returned
from onecycle_sweeps.launching.commands import check_sweep, direction_override
from onecycle_sweeps.launching.execution import execute
from onecycle_sweeps.planning import Planner, Request
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder
from program import drive, planned, run, sweep_of, trials, with_store, write
from real_trials import CONF, made

FILES = {
    "hydra_code.py": Path(hydra_code.__file__).read_text(),
    "my/model/net.yaml": "_target_: hydra_code.Net\n",
    "my/data/half.yaml": (
        "_target_: hydra_code.half\nroot: .\nfiles: []\nval_fraction: 0\nsplit_seed: 0\nclasses: null\n"
    ).replace("root: .\n", ""),
    "my/experiment/noting.yaml": (
        "# @package _global_\ndefaults: [override /model: net, override /data: half]\n"
        "hydra: {callbacks: {noting: {_target_: hydra_code.Noting}}}\n"
    ),
    "my/experiment/on_slurm.yaml": "# @package _global_\ndefaults: [noting, override /hydra/launcher: slurm]\n",
    "my/experiment/in_turn.yaml": "# @package _global_\ndefaults: [override /hydra/sweeper: basic]\n",
    "my/shade/light.yaml": "# @package _global_\nhydra: {job: {env_set: {SHADE: light}}}\n",
    "my/shade/dark.yaml": "# @package _global_\nhydra: {job: {env_set: {SHADE: dark}}}\n",
}
QUICK = ("max_lr=0.1", "policy=constant", "epochs=1", "seed=0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_store(write(tmp_path, FILES))


@pytest.fixture
def composer(tmp_path: Path) -> Iterator[Any]:
    """Makes the composer of a command's jobs, with the user's folder in its search path."""
    search = f"hydra.searchpath=[file://{write(tmp_path, FILES) / 'my'}]"
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield lambda *typed: Composer(loader, loader.load_configuration("config", [search, *typed], RunMode.MULTIRUN))
    HydraConfig.instance().cfg = before


@pytest.mark.slow
def test_a_selection_in_an_experiment_file_wins_over_the_program_and_a_typed_one_over_both(composer: Any):
    def chosen(*typed: str) -> tuple[str, str]:
        choices = composer(*typed).master.hydra.runtime.choices
        return choices["hydra/launcher"], choices["hydra/sweeper"]

    assert chosen() == ("local", "grid")
    assert chosen("experiment=on_slurm") == ("slurm", "grid")
    assert chosen("experiment=in_turn") == ("local", "basic")
    assert chosen("experiment=on_slurm", "hydra/launcher=local") == ("local", "grid")
    assert chosen("experiment=in_turn", "hydra/sweeper=grid") == ("local", "grid")
    assert composer("hydra/sweeper=basic").master.hydra.sweeper.params is None


@pytest.mark.slow
def test_only_a_job_with_settings_of_hydras_records_hydras_config(composer: Any):
    assert composer().compose(["policy=clr", "seed=3"]).hydra is None
    assert composer("hydra.launcher.workers=1", "hydra.job.name=mine").compose(["seed=3"]).hydra is None
    for typed in ("hydra.sweep.dir=out", "hydra.output_subdir=said", "hydra/job_logging=default", "hydra.verbose=true"):
        assert composer(typed).compose(["seed=3"]).hydra is not None, typed


def test_a_jobs_hydra_config_is_what_hydra_makes_of_it(composer: Any):
    typed = ("hydra.sweep.dir=out/${now:%f}", "hydra.sweep.subdir=${hydra.job.override_dirname}", "experiment=noting")
    ours, overrides = composer(*typed), ["experiment=noting", "+shade=dark", "seed=3"]
    made = ours.compose(overrides, 5).hydra
    config = ours.loader.load_sweep_config(ours.master, overrides)
    assert made["sweep"] == {"dir": config.hydra.sweep.dir, "subdir": "+shade=dark,experiment=noting,seed=3"}
    assert made["overrides"] == OmegaConf.to_container(config.hydra.overrides)
    assert made["callbacks"] == DEFAULTS["callbacks"] | {"noting": {"_target_": "hydra_code.Noting"}}
    assert (made["job"]["env_set"], made["job"]["num"]) == ({"SHADE": "dark"}, 5)


def test_a_config_may_refer_to_hydras_runtime(composer: Any):
    typed = ["policy=clr", "tracking.experiment=${hydra:runtime.choices.policy}"]
    assert composer().compose(typed).config["tracking"]["experiment"] == "clr"


def test_copied_environment_variables_are_not_written_to_disk(composer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TOKEN", "sesame")
    made = composer("hydra.job.env_copy=[MY_TOKEN]", "hydra.sweep.dir=out").compose(["seed=3"])
    assert "sesame" not in str(made)


@pytest.mark.slow
def test_a_variable_that_a_job_sets_counts_for_its_signature_and_for_its_data(
    composer: Any, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(runs_dir.parent)
    jobs = [composer().compose([*QUICK, "data=half", *shade]) for shade in ([], ["+shade=light"], ["+shade=dark"])]
    planner = Planner(runs_dir)
    plans = [planner.plan(Request(job.config | {"runs_dir": str(runs_dir)})) for job in jobs]
    assert len({plan.signature for plan in plans}) == 3
    assert len({plan.config["needs"]["data"] for plan in plans}) == 3
    # Half of the digits make no batch of 1,000.
    with pytest.raises(ConfigError, match="batch_size must be at most the 700"):
        planner.plan(Request(jobs[2].config | {"batch_size": 1000}))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("OMP_NUM_THREADS", "threads="),
        ("CUDA_VISIBLE_DEVICES", "before the command"),
        ("MLFLOW_TRACKING_URI", "tracking.uri="),
        ("ONECYCLE_DATA", "data.root="),
        ("PYTHONPATH", "before the command"),
        ("LD_LIBRARY_PATH", "before the command"),
        ("WANDB_API_KEY", "secret"),
        ("DB_PASSWORD", "secret"),
        ("hf_token", "secret"),
    ],
)
def test_a_variable_that_would_have_no_effect_or_reveal_a_secret_is_refused(name: str, instead: str):
    with pytest.raises(ConfigError, match=f"hydra.job.env_set.{name}.*{instead}"):
        check_env_set([name])


def test_other_variables_can_be_set():
    check_env_set(["SHADE", "TOKENIZERS_PARALLELISM", "CUBLAS_WORKSPACE_CONFIG", "KEYBOARD", "PYTHON_DIALECT"])


@pytest.mark.slow
def test_a_trial_with_settings_of_hydras_has_a_worker_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    made, todo = planned(folder, *([*QUICK[:3], f"seed={seed}"] for seed in range(4)))
    trial = made.trial(todo[1].signature)
    trial.create(trial.config(), DEFAULTS | {"job": {"name": "it"}, "sweep": {"dir": "out", "subdir": "."}})
    # The first, the one apart, and one for the two others.
    seen = drive(made, todo, places=1)
    assert {status for status, _ in seen.ended().values()} == {"finished"}
    assert seen.started == 3


def test_a_trial_without_a_value_fails_a_search_and_not_a_grid():
    job, search = ["max_lr=0.1", "seed=0"], {"_target_": "sweepers.Search"}
    assert returned(job, 0.5, OmegaConf.create(search)).return_value == 0.5
    assert math.isnan(returned(job, math.nan, OmegaConf.create({"_target_": "sweepers.GridSweeper"})).return_value)
    for settings in ({"max_failure_rate": 0.5}, {"max_failure_rate": 1}, {}):
        failed = returned(job, math.nan, OmegaConf.create(search | settings))
        with pytest.raises(NoValue) as error:
            _ = failed.return_value
        assert "max_lr=0.1" in str(error.value)
        assert ("max_failure_rate" in str(error.value)) == (settings == {"max_failure_rate": 0.5})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_hydras_config_of_another_user_runs_nothing(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    trial = made(runs_dir, "max_lr=0.1", "epochs=1")
    # A record of an earlier command may name a module that has another name by now.
    earlier = {"folders": {"_target_": "onecycle_sweeps.composition.HydrasFolders"}}
    trial.create(trial.config(), DEFAULTS | {"callbacks": earlier | {"noting": {"_target_": "hydra_code.Noting"}}})
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    os.chown(trial.path / "hydra.yaml", 4321, -1)
    outcome = execute(trial, lambda: False)
    assert outcome.status == "failed"
    assert "hydra.yaml" in (outcome.cause or "")


def check_noted(folder: Path, sweep: Sweep) -> None:
    """Check that each of two jobs ran with its environment, from the import of its code on, between the callbacks."""
    notes = hydra_code.seen(folder)
    for number, shade in enumerate(("light", "dark")):
        own = [note for note in notes if note[-2] == note[-3] == shade and note[-1] == own_process(notes, shade)]
        assert [note[0] for note in own if note[0] != "net"] == ["start", "end"]
        start, end = own[0], own[-1]
        assert "net" in {note[0] for note in own}
        assert start[1:4] == [str(number), "0.1", str(folder / "out" / str(number))]
        assert end[1:3] == [str(number), "COMPLETED"]
        ((signature,),) = [
            [e.signature] for e in sweep.trials if sweep.trial(e.signature).config()["env_set"] == {"SHADE": shade}
        ]
        trial = sweep.trial(signature)
        assert float(end[3]) == (trial.result() or {})["metrics"]["final/val_accuracy"]
        assert (trial.resolved() or {})["steps_per_epoch"] == {"light": 10, "dark": 5}[shade]
        assert f"shade={shade}" in (folder / "out" / str(number) / "said" / "overrides.yaml").read_text()


def own_process(notes: list[list[str]], shade: str) -> str:
    """The process that ran the job with this value of SHADE."""
    (process,) = {note[-1] for note in notes if note[0] == "start" and note[-3] == shade}
    return process


JOBS = (
    *("--config-dir", "my", "+shade=light,dark", *QUICK),
    *("hydra.sweep.dir=out", "hydra.sweep.subdir=${hydra.job.num}", "hydra.output_subdir=said"),
)


@pytest.mark.slow
def test_a_sweeps_jobs_have_their_environment_callbacks_and_folders(folder: Path):
    done = run(folder, *JOBS, "experiment=noting", "-m")
    assert done.returncode == 0, done.stderr
    check_noted(folder, sweep_of(folder))
    assert [note[0] for note in hydra_code.seen(folder)].count("multirun") == 1
    assert "out gets only what Hydra writes" in done.stderr

    # Without -m the variable is set as well, for the same trial.
    (dark,) = (name for name, trial in trials(folder).items() if trial.config()["env_set"]["SHADE"] == "dark")
    done = run(folder, "--config-dir", "my", "+shade=dark", "experiment=noting", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 results were there already" in done.stderr
    assert not TrialFolder(folder / "runs" / dark).needs_hydra


@pytest.mark.parametrize(
    ("goal", "node", "instead"),
    [
        ("max", {"direction": "minimize"}, "hydra.sweeper.direction=maximize"),
        ("max", {"direction": "maximize"}, None),
        ("max", {"ax_config": {"experiment": {"minimize": True}}}, "hydra.sweeper.ax_config.experiment.minimize=false"),
        ("max", {"optim": {"optimizer": "NGOpt", "maximize": False}}, "hydra.sweeper.optim.maximize=true"),
        ("max", {"optim": {"maximize": True}}, None),
        ("max", {"max_batch_size": None, "params": {"seed": "0,1,2"}}, None),
        ("min", {"direction": "maximize"}, "hydra.sweeper.direction=minimize"),
        ("min", {"direction": "minimize"}, None),
        ("min", {"optim": {"maximize": True}}, "hydra.sweeper.optim.maximize=false"),
    ],
)
def test_the_override_that_corrects_a_sweepers_direction_is_found(goal: Any, node: dict[str, Any], instead: str | None):
    assert direction_override(OmegaConf.create(node), goal) == instead


@pytest.mark.parametrize(("directions", "refused"), [(["maximize"], False), (["maximize", "minimize"], True)])
def test_a_sweeper_with_several_directions_is_refused(
    directions: list[str], refused: bool, capsys: pytest.CaptureFixture[str]
):
    job = {"chdir": False, "env_set": {}, "env_copy": []}
    hydra = {"sweeper": {"direction": directions}, "overrides": {"hydra": [], "task": []}, "job": job}
    with pytest.raises(SystemExit) if refused else nullcontext():
        check_sweep(OmegaConf.create(hydra))
    assert ("hydra.sweeper.direction has 2 directions" in capsys.readouterr().err) == refused


@pytest.mark.slow
def test_an_optuna_that_minimises_is_warned_about_once(folder: Path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    search = "hydra: {sweeper: {n_trials: 3, n_jobs: 1, params: {max_lr: 'interval(0.01, 0.5)'}}}\n"
    chosen = f"# @package _global_\ndefaults: [override /hydra/sweeper: optuna]\n{search}"
    write(folder, {"my/experiment/opt.yaml": chosen})
    done = run(folder, "--config-dir", "my", "experiment=opt", "policy=constant", "epochs=1", "-m")
    assert done.returncode == 0, done.stderr
    assert len(sweep_of(folder).trials) == 3
    assert done.stderr.count("hydra.sweeper.direction=maximize") == 1


@pytest.mark.parametrize(
    ("sweeper", "params", "typed", "searched"),
    [
        ("Search", {}, ["seed=0,1,2", "max_lr=interval(0.1, 1)"], True),
        ("Search", {"seed": "0,1,2"}, ["max_lr=0.1"], True),
        ("Search", {"seed": "0,1,2"}, ["seed=4"], False),
        ("Search", {}, ["max_lr=interval(0.1, 1)"], False),
        ("GridSweeper", {"seed": "0,1,2"}, ["seed=0,1"], False),
    ],
)
def test_a_search_that_may_pick_the_luckiest_seed_is_noticed(
    sweeper: str, params: dict[str, str], typed: list[str], searched: bool
):
    hydra = {"sweeper": {"_target_": f"sweepers.{sweeper}", "params": params}, "overrides": {"task": typed}}
    assert searches_seeds(OmegaConf.create(hydra)) == searched
