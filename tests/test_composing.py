"""Jobs are composed as Hydra composes them, and Hydra composes once for each set of choices in groups."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from onecycle_sweeps import hydra_internals, mistakes
from onecycle_sweeps.composing import Composer, plain
from onecycle_sweeps.config.schema import ConfigError
from real_trials import CONF

CHOICES = (
    *("policy=constant", "policy=clr", "policy=onecycle_smith", "optimizer=adamw", "model=lenet", "data=mnist"),
    *("task=range_test", "recipe=superconvergence/clr", "~recipe", "~policy", "experiment=mnist_sample"),
    *("+policy@second=step", "~task=train"),
)
VALUES = (
    *("seed=3", "++seed=4", "max_lr=0.1", "max_lr=auto", "policy.max_lr=0.5", "policy.gamma=0.4", "~epochs"),
    *("+policy.extra=1", "++policy.extra=2", "~label_smoothing=0", "target_accuracy=null", "range_test.seeds=[1,2]"),
    *("tracking.experiment='a, b=c'", r"runs_dir=a\ b", "optimizer.weight_decay=1e-3", "policy={gamma: 2}"),
    *("max_lr=${epochs}", "batch_size=${range_test.steps}", "runs_dir='${tracking.experiment}/${seed}'"),
    *(
        "+model.added={a: {b: [1, '${seed}']}}",
        "+model.added.a.c=1",
        "epochs=???",
        "tracking.uri=${oc.env:HOME}",
        "deterministic=1",
    ),
    *("hydra.job.name=mine", "hydra.sweeper.params=null", "hydra/launcher=slurm", "range_test.seeds.0=1"),
)
MISTAKES = (
    *("policy=nowhere", "+policy=clr", "policy=3", "++policy=clr", "policy@x=clr", "~policy=step", "polcy=onecycle"),
    *("policy.max_lrr=1", "+seed=1", "~nothing", "~seed=77", "seed@there=1", "tracking.nothing.more=1", "seed=[1"),
    *("max_lr=${nowhere}", "max_lr=${hydra.job.name}", "seed=1,2", "seed=range(3)", "=1", "+epoch=3", "+epoch.s=3"),
)


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def ours(loader: ConfigLoader) -> Composer:
    return composer(loader)


def composer(loader: ConfigLoader, *overrides: str) -> Composer:
    return Composer(loader, loader.load_configuration("config", list(overrides), RunMode.MULTIRUN))


def outcomes(ours: Composer, overrides: Sequence[str]) -> Iterator[Any]:
    """A job's config, overrides and choices, or an error and its words: as we have them, and as Hydra has them."""

    def own() -> Any:
        made = ours.compose(overrides)
        return made.config, sorted(made.overrides), made.choices

    def hydras() -> Any:
        config = ours.loader.load_sweep_config(ours.master, list(overrides))
        typed = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        assert isinstance(typed, dict)
        return plain(config), sorted(typed["task"] + typed["hydra"]), config.hydra.runtime.choices

    for compose in (own, hydras):
        try:
            yield compose()
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            yield type(error), str(error)


JOBS = st.tuples(st.lists(st.sampled_from(CHOICES), max_size=2), st.lists(st.sampled_from(VALUES), max_size=4))


@pytest.mark.slow
@settings(max_examples=20)
@given(JOBS.flatmap(lambda parts: st.permutations(parts[0] + parts[1])))
@example(["seed=3", "policy=clr", "policy.max_lr=0.5", "++policy.extra=2", "model=lenet", "~epochs"])
@example(["policy={gamma: 2}", "+policy@second=step", "max_lr=${epochs}", "+model.added={a: {b: [1, '${seed}']}}"])
@example(
    ["recipe=superconvergence/clr", "+model.added={a: {b: 1}}", "+model.added.a.c=1", "batch_size=${range_test.steps}"]
)
def test_a_job_is_what_hydra_makes_of_its_overrides(ours: Composer, overrides: list[str]):
    made, wanted = outcomes(ours, overrides)
    assert made == wanted


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_hydras_words(ours: Composer, mistake: str):
    made, wanted = outcomes(ours, ["optimizer=adamw", "epochs=2", mistake])
    assert made == wanted
    assert isinstance(wanted[0], type)


@pytest.mark.slow
def test_no_value_is_carried_from_one_job_to_the_next(ours: Composer):
    before = ours.compose(["policy=clr"])
    for override in VALUES:
        ours.compose(["policy=clr", override])
        assert ours.compose(["policy=clr"]) == before, override


@pytest.mark.slow
def test_hydra_composes_many_jobs_once_for_each_of_four_policies(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch):
    ours, load, composed = composer(loader), loader.load_sweep_config, []
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda master, typed: (composed.append(typed), load(master, typed))[1]
    )
    policies = [f"policy={name}" for name in ("constant", "step", "clr", "onecycle")]
    requests = [ours.compose([*typed, "max_lr=0.1"]) for typed in product(policies, (f"seed={i}" for i in range(25)))]
    assert composed == [[policy] for policy in policies]
    assert [request.config["seed"] for request in requests] == 4 * list(range(25))
    assert {request.choices["policy"] for request in requests} == {"constant", "step", "clr", "onecycle"}


def test_groups_of_a_folder_that_is_typed_are_groups(loader: ConfigLoader, tmp_path):
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape" / "round.yaml").write_text("radius: 1\n")
    ours = composer(loader, f"hydra.searchpath=[file://{tmp_path}]")
    assert ours.compose(["+shape=round", "seed=${shape.radius}"]).config["seed"] == 1
    with pytest.raises(ConfigCompositionException, match=r"Could not find 'shape/square'"):
        ours.compose(["+shape=square"])
    with pytest.raises(ConfigError, match=r"unknown key shape\.radius"):
        ours.compose(["+shape=round"])


@pytest.mark.slow
def test_another_version_of_hydra_composes_without_its_private_interfaces(
    loader: ConfigLoader, ours: Composer, monkeypatch: pytest.MonkeyPatch
):
    jobs = [["policy=clr", "seed=3"], ["policy=constant", "max_lr=0.1"]]
    made = [ours.compose(overrides) for overrides in jobs]
    monkeypatch.setattr(hydra_internals, "IS_TESTED", False)
    monkeypatch.setattr(hydra_internals, "apply_values", None)
    other = composer(loader)
    again = [other.compose(overrides) for overrides in jobs]
    assert [(one.config, one.choices) for one in again] == [(one.config, one.choices) for one in made]
    with pytest.raises(ConfigError) as refusal, mistakes.as_config_errors():
        other.compose(["policy.max_lrr=1"])
    assert "max_lrr" in str(refusal.value) and "\n" not in str(refusal.value)
