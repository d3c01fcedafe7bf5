"""Every file of conf/ composes with the defaults, passes the checks and fits the code it names: none is left out."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_object, instantiate

from hydra_plugins.onecycle_sweeps.launcher import plain_settings
from onecycle_sweeps import composing, trial
from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import LOCAL_LAUNCHER, check, check_launcher
from onecycle_sweeps.launching.slurm.options import KEYS
from real_trials import CONF, composed, made

FILES = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.rglob("*.yaml"))]
# Recipes are composed with the preset whose rows they are, in test_presets.
OWN = [file for file in FILES if file.parent != Path() and file.parts[0] not in ("hydra", "recipe")]
# What a trial offers to the code of a group, beside the keys of its node.
OFFERED = {"model": {"in_channels", "num_classes"}, "policy": {"total_steps", "steps_per_epoch"}, "data": set()}
# What has no default is typed.
TYPED = {
    Path("data/image_folder"): "data.path=photographs",
    Path("model/torchvision"): "model.name=resnet18",
    Path("model/timm"): "model.name=resnet18",
}


def of_group(*groups: str) -> list[Path]:
    found = [file for file in FILES if str(file.parent) in groups]
    assert {str(file.parent) for file in found} == set(groups)
    return found


def config_with(file: Path) -> dict[str, Any]:
    typed = [TYPED[file]] if file in TYPED else []
    return composing.plain(composed(f"{file.parent}={file.name}", *typed))


def test_the_defaults_pass_the_checks():
    check(composing.plain(composed()))


@pytest.mark.parametrize("file", OWN, ids=str)
def test_every_file_composes_and_passes_the_checks(file: Path):
    check(config_with(file))


@pytest.mark.parametrize("file", of_group("model", "data", "policy"), ids=str)
def test_every_key_of_a_file_is_a_parameter_of_the_code_it_names(file: Path):
    group = str(file.parent)
    node = config_with(file)[group]
    if group == "data":
        node = nodes.loader({"data": node}).args[0]  # type: ignore[attr-defined]
    signature = inspect.signature(get_object(node["_target_"]))
    # Raises TypeError where a key is unknown, or a parameter has no value.
    signature.bind(**dict.fromkeys({*node, *(OFFERED[group] & signature.parameters.keys())} - {"_target_"}))


@pytest.mark.parametrize("file", of_group("policy"), ids=str)
def test_every_policy_trains_as_planned(file: Path, runs_dir: Path):
    result = trial.run(made(runs_dir, f"policy={file.name}", "max_lr=0.1", "epochs=2", "batch_size=64"))
    assert (result["status"], result["warnings"], result["steps"]) == ("finished", [], 44)


@pytest.mark.slow
@pytest.mark.parametrize("file", of_group("optimizer"), ids=str)
def test_every_optimizer_trains_at_the_rate_of_its_own_range_test(file: Path, runs_dir: Path):
    result = trial.run(made(runs_dir, f"optimizer={file.name}", "epochs=3", "batch_size=64"))
    assert result["status"] == "finished"
    assert result["metrics"]["final/val_accuracy"] > 0.9


@pytest.mark.parametrize("file", of_group("task"), ids=str)
def test_every_task_ends_in_a_result_of_its_kind(file: Path, runs_dir: Path):
    result = trial.run(made(runs_dir, f"task={file.name}", "max_lr=0.1", "epochs=1"))
    assert (result["kind"], result["status"]) == (file.name, "finished")


@pytest.mark.parametrize("file", of_group("hydra/launcher"), ids=str)
def test_every_launcher_is_one_of_hydras(file: Path):
    launcher = instantiate(composed(f"hydra/launcher={file.name}").hydra.launcher)
    assert isinstance(launcher, Launcher)
    check_launcher(plain_settings(vars(launcher)["settings"]), {"local": LOCAL_LAUNCHER, "slurm": KEYS}[file.name])


def test_the_sweeper_is_hydras_own_but_for_the_composition_beforehand():
    ours, hydras = (composed(*typed).hydra.sweeper for typed in ((), ("hydra/sweeper=basic",)))
    assert isinstance(instantiate(ours), Sweeper)
    assert {**ours, "_target_": hydras._target_, "params": hydras.params} == hydras
    assert ours._metadata.object_type is hydras._metadata.object_type


def test_three_seeds_are_swept_unless_others_are_typed():
    assert composed().hydra.sweeper.params == {"seed": "0,1,2"}


def test_hydra_writes_nothing_but_to_runs_dir():
    hydra = composed("runs_dir=elsewhere").hydra
    assert (hydra.output_subdir, hydra.run.dir, hydra.sweep.dir) == (None, ".", "elsewhere/sweeps")
