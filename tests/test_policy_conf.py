"""Every file of conf/policy builds its policy, lists all its keys, and the published variants are what they claim."""

import dataclasses
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from onecycle_sweeps.policies import OneCycle, Policy, Step

CONF = Path(__file__).parents[1] / "conf"
NAMES = sorted(path.stem for path in (CONF / "policy").glob("*.yaml"))
ADDED_BY_THE_TRIAL = {"total_steps", "steps_per_epoch"}


def composed(*overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=["+max_lr=0.5", *overrides])
    return OmegaConf.to_container(config, resolve=True)


def built(name: str, total_steps: int, *overrides: str) -> Policy:
    return hydra.utils.instantiate(composed(f"+policy={name}", *overrides)["policy"], total_steps=total_steps)


@pytest.mark.parametrize("name", NAMES)
def test_file_builds_a_policy_at_max_lr_and_lists_all_its_keys(name: str) -> None:
    keys = set(composed(f"+policy={name}")["policy"]) - {"_target_"}
    policy: Any = built(name, 950)
    assert policy.max_lr == 0.5
    assert keys == {field.name for field in dataclasses.fields(policy)} - ADDED_BY_THE_TRIAL


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("onecycle_")])
def test_file_states_the_defaults_of_its_class(name: str) -> None:
    policy: Any = built(name, 950)
    assert policy == type(policy)(0.5, 950)


def test_smiths_tail_is_a_thousandth_of_the_base_rate() -> None:
    policy = built("onecycle_smith", 9500)
    knots = {0: 0.05, 4099: 0.5, 8199: 0.05, 8200: 5e-5, 9499: 5e-5}
    assert {step: policy(step).lr for step in knots} == pytest.approx(knots)
    assert [policy(step).momentum for step in (0, 4099, 8199, 9499)] == pytest.approx([0.95, 0.85, 0.95, 0.95])


def test_the_tail_of_fastai_07_falls_to_a_hundredth_of_the_base_rate() -> None:
    policy = built("onecycle_fastai07", 9500)
    knots = {0: 0.05, 4099: 0.5, 8199: 0.05, 8849: 0.05 * 0.505, 9499: 5e-4}
    assert {step: policy(step).lr for step in knots} == pytest.approx(knots)


def test_fastai_v2_ends_at_a_hundred_thousandth_of_the_peak() -> None:
    policy = built("onecycle_fastai", 1000)
    assert [policy(step).lr for step in (0, 249, 999)] == pytest.approx([0.02, 0.5, 5e-6])
    assert isinstance(policy, OneCycle) and (policy.base_momentum, policy.max_momentum) == (0.85, 0.95)


def test_milestones_of_a_config_become_a_tuple() -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=["+max_lr=0.5", "+policy=step", "policy.milestones=[0.3,0.6]"])
    assert hydra.utils.instantiate(config.policy, total_steps=10) == Step(0.5, 10, milestones=(0.3, 0.6))
