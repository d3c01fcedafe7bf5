"""A config's lists of transforms: checked before anything runs, part of a trial's name, and done as they say."""

from pathlib import Path

import pytest
import torch

from onecycle_sweeps import loop, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.trial import Stopped
from real_trials import SHORT, learner_of, made, outcome, planned, stop_after

HERE = "_target_: onecycle_sweeps.images.augmentation"
AUGMENT = f"data.augment=[{{{HERE}.PadCrop, padding: 1}}, {{{HERE}.Flip}}, {{{HERE}.Cutout, size: 2}}]"
CROPPED = (f"data.augment=[{{{HERE}.RandomResizedCrop, size: 6}}]", f"data.evaluation=[{{{HERE}.CenterCrop, size: 6}}]")
KEPT = (*SHORT, "save_model=true", "checkpoint_minutes=1e-9")


@pytest.mark.parametrize(
    ("key", "nodes", "message"),
    [
        ("augment", "null", r"data.augment must be a list of transforms, such as .*Flip.*, got None"),
        ("augment", "[Flip]", r"data.augment must be a list of transforms, .*got \['Flip'\]"),
        ("evaluation", "[{size: 6}]", r"data.evaluation must be a list of transforms, .*got \[\{'size': 6\}\]"),
        ("augment", f"[{{{HERE}.Flop}}]", r"Flop"),
        ("augment", f"[{{{HERE}.PadCrop, pading: 2}}]", r"unknown key data.augment\[0\].pading; did you mean"),
        ("augment", f"[{{{HERE}.PadCrop, padding: 0}}]", r"\[0\]: padding must be a whole number .*\b0, got 0"),
        ("augment", f"[{{{HERE}.PadCrop, padding: 1.5}}]", r"padding must be a whole number of pixels .*got 1.5"),
        ("augment", f"[{{{HERE}.PadCrop, padding: 8}}]", r"padding must be .* 8x8 images .*got 8"),
        ("augment", f"[{{{HERE}.PadCrop, mode: wrap}}]", r"mode must be reflect or zero, got 'wrap'"),
        ("augment", f"[{{{HERE}.Flip}}, {{{HERE}.Cutout}}]", r"data.augment\[1\].size is missing"),
        ("augment", f"[{{{HERE}.Cutout, size: true}}]", r"size must be a whole number of pixels .*got True"),
        ("augment", f"[{{{HERE}.Cutout, size: 9}}]", r"size must be at most the smaller side of 8x8 images, got 9"),
        ("augment", f"[{{{HERE}.RandomResizedCrop, size: 0}}]", r"size must be a whole number of pixels .*got 0"),
        (
            "augment",
            f"[{{{HERE}.RandomResizedCrop, size: 6, scale: [0, 1]}}]",
            r"scale must .*above 0 and at most 1, got",
        ),
        (
            "augment",
            f"[{{{HERE}.RandomResizedCrop, size: 6, scale: [1, 0.5]}}]",
            r"scale must be two numbers.*got \[1, 0.5\]",
        ),
        ("augment", f"[{{{HERE}.RandomResizedCrop, size: 6, scale: 0.5}}]", r"scale must be two numbers.*got 0.5"),
        ("augment", f"[{{{HERE}.RandomResizedCrop, size: 6, ratio: [a, b]}}]", r"ratio must be two numbers.*got \['a'"),
        (
            "augment",
            f"[{{{HERE}.CenterCrop, size: 5}}, {{{HERE}.CenterCrop, size: 6}}]",
            r"data.augment\[1\]: size must be at most the smaller side of 5x5 images, got 6",
        ),
        ("evaluation", f"[{{{HERE}.CenterCrop, size: 9}}]", r"data.evaluation\[0\]: size must be at most .*8x8.*got 9"),
        ("evaluation", f"[{{{HERE}.Flip}}]", r"data.evaluation\[0\]: Flip is random"),
        (
            "augment",
            "[{_target_: fractions.Fraction}]",
            r"data.augment\[0\]: fractions.Fraction must make a transform.*got a Fraction",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(runs_dir: Path, key: str, nodes: str, message: str):
    with pytest.raises(ConfigError, match=message) as raised:
        planned(runs_dir, *SHORT, f"data.{key}={nodes}")
    assert "\n" not in str(raised.value)


def test_transforms_are_part_of_a_trials_name_and_its_range_tests_but_not_of_the_cached_sources(runs_dir: Path):
    found = [planned(runs_dir, "epochs=2", *lists) for lists in [(), (AUGMENT,), CROPPED, CROPPED[:1], CROPPED[1:]]]
    assert len({one.signature for one in found}) == 5
    assert len({one.rate_from.signature for one in found if one.rate_from}) == 5
    assert len({one.config["needs"]["data"] for one in found}) == 1


def test_an_empty_list_is_the_same_as_it_is_in_conf(runs_dir: Path):
    named = planned(runs_dir, *SHORT, "data.augment=[]", "data.evaluation=[]").signature
    assert named == planned(runs_dir, *SHORT).signature


@pytest.mark.slow
@pytest.mark.parametrize("lists", [(AUGMENT,), CROPPED], ids=["same size", "another size"])
@pytest.mark.parametrize("step", [1, 5, 8])
def test_an_augmented_trial_stopped_at_any_step_ends_as_one_that_was_not(
    runs_dir: Path, tmp_path: Path, step: int, lists: tuple[str, ...]
):
    whole = made(runs_dir, *KEPT, *lists)
    trial.run(whole)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "data").symlink_to(runs_dir / "data")
    stopped = made(tmp_path / "again", *KEPT, *lists)
    with pytest.raises(Stopped):
        trial.run(stopped, stop_after(step))
    trial.run(stopped)
    assert outcome(stopped) == outcome(whole)


def test_training_sees_augmented_images_and_evaluations_those_of_their_own_list(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes: dict[bool, set[tuple[int, ...]]] = {True: set(), False: set()}
    outputs = loop.Learner.outputs

    def noting(learner: loop.Learner, images: torch.Tensor) -> torch.Tensor:
        sizes[learner.model.training].add(tuple(images.shape[1:]))
        return outputs(learner, images)

    monkeypatch.setattr(loop.Learner, "outputs", noting)
    trial.run(made(runs_dir, *SHORT, f"data.augment=[{{{HERE}.RandomResizedCrop, size: 7}}]", CROPPED[1]))
    assert sizes == {True: {(1, 7, 7)}, False: {(1, 6, 6)}}


@pytest.mark.slow
def test_augmentation_changes_what_is_learnt(runs_dir: Path):
    plain, augmented = made(runs_dir, *KEPT), made(runs_dir, *KEPT, AUGMENT)
    for one in (plain, augmented):
        trial.run(one)
    assert outcome(plain)["weights"] != outcome(augmented)["weights"]


def test_cutout_is_painted_in_the_mean_that_images_are_normalised_with(runs_dir: Path):
    data = learner_of(made(runs_dir, *SHORT, AUGMENT)).data
    assert data.augment[2].mean == list(data.facts.mean)
