"""Trials that fine-tune: rates for head and body, a frozen body, the normalisation and the weights they begin with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from onecycle_sweeps import journal, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.images import Facts
from onecycle_sweeps.loop import Learner, batch_norms, evaluated, steps
from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.trial import Stopped, TrialFailed, build
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import SHORT, learner_of, made, outcome, planned, stop_after, undisturbed

pytestmark = pytest.mark.usefixtures("one_thread")
# torchvision's MobileNetV2, with dropout in front of its head, cut down to two blocks.
BLOCKS = [[1, 8, 1, 1], [2, 16, 1, 2]]
SMALL = ("model=torchvision", "model.name=mobilenet_v2", f"+model.inverted_residual_setting={BLOCKS}")
HEAD = "classifier.1."
KEPT = (*SHORT, *SMALL, "save_model=true")
GREY = [[255 * (0.485 + 0.456 + 0.406) / 3], [255 * (0.229 + 0.224 + 0.225) / 3]]


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "trained.pth"
    torch.save(models.mobilenet_v2(weights=None, inverted_residual_setting=BLOCKS).state_dict(), path)
    return path


def learner(folder: TrialFolder) -> Learner:
    return learner_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "scale"), [("sgd", 0.1), ("adamw", 0.01), ("sgd", 3)])
def test_body_and_head_get_their_rates_at_each_step_and_share_the_momentum(
    runs_dir: Path, optimizer: str, scale: float
):
    asked = (*SHORT, *SMALL, f"optimizer={optimizer}", f"optimizer.body_lr_scale={scale}")
    one, seen = learner(made(runs_dir, *asked)), []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        momenta = {group.get("momentum", group.get("betas", [None])[0]) for group in optimizer.param_groups}
        seen.append(([group["lr"] for group in optimizer.param_groups], momenta))

    one.optimizer.register_step_pre_hook(look)
    policy = OneCycle(0.1, 10)
    assert [step.hyper for step in steps(one, policy)] == [policy(step) for step in range(10)]
    plan = [policy(step) for step in range(10)]
    assert seen == [([hyper.lr, hyper.lr * scale], {hyper.momentum}) for hyper in plan]
    head, body = ([id(p) for p in group["params"]] for group in one.optimizer.param_groups)
    assert head == [id(p) for p in one.model.head_parameters()]  # type: ignore[operator]
    assert sorted(head + body) == sorted(id(p) for p in one.model.parameters())


def test_a_body_at_the_heads_rate_is_one_group(runs_dir: Path):
    (group,) = learner(made(runs_dir, *SHORT, *SMALL)).optimizer.param_groups
    assert "lr_scale" not in group


@pytest.mark.slow
def test_the_trajectory_of_a_trial_is_the_heads(runs_dir: Path):
    folder = made(runs_dir, *SHORT, *SMALL, "optimizer.body_lr_scale=0.1")
    assert not [warning for warning in trial.run(folder)["warnings"] if warning.startswith("schedule/")]
    _, rates = journal.read(folder.journal).series(journal.LR)
    assert rates == [OneCycle(0.1, 10)(step).lr for step in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 6])
def test_a_trial_with_two_rates_ends_the_same_when_it_was_stopped(runs_dir: Path, beside: Path, step: int):
    asked = (*KEPT, "optimizer.body_lr_scale=0.1")
    folder = made(runs_dir, *asked)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(step))
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *asked)


def test_the_bodys_rate_is_part_of_what_a_trial_is(runs_dir: Path):
    signatures = {planned(runs_dir, *SHORT, *SMALL, f"optimizer.body_lr_scale={s}").signature for s in (1, 0.1, 0.3)}
    assert len(signatures) == 3


@pytest.mark.parametrize("value", ["0", "-1", "auto", "null"])
def test_a_scale_that_is_not_above_0_is_refused(runs_dir: Path, value: str):
    with pytest.raises(ConfigError, match=r"optimizer\.body_lr_scale must be a number above 0, got"):
        planned(runs_dir, *SHORT, f"optimizer.body_lr_scale={value}")


def test_a_scale_for_a_model_without_a_head_is_refused(runs_dir: Path):
    said = r"^optimizer\.body_lr_scale must be 1 .*\bhead, got 0\.1$"
    with pytest.raises(TrialFailed, match=said):
        trial.run(made(runs_dir, *SHORT, "optimizer.body_lr_scale=0.1"))


def test_a_scale_for_a_frozen_body_is_refused(runs_dir: Path, weights_file: Path):
    asked = (*SMALL, f"model.weights_file={weights_file}", "model.freeze=body", "optimizer.body_lr_scale=0.1")
    said = r"^optimizer\.body_lr_scale must be 1 .*\btrained body, got 0\.1$"
    with pytest.raises(TrialFailed, match=said):
        trial.run(made(runs_dir, *SHORT, *asked))


def test_a_frozen_body_ends_a_trial_as_it_began(runs_dir: Path, weights_file: Path):
    folder = made(runs_dir, *KEPT, f"model.weights_file={weights_file}", "model.freeze=body")
    assert trial.run(folder)["status"] == "finished"
    began, ended = torch.load(weights_file), torch.load(folder.path / "model.pt")
    assert all(torch.equal(ended[name], began[name]) for name in began if not name.startswith(HEAD))
    assert ended[f"{HEAD}weight"].shape == (10, 1280)


@pytest.mark.slow
def test_a_frozen_body_ends_the_same_when_it_was_stopped(runs_dir: Path, beside: Path, weights_file: Path):
    asked = (*KEPT, f"model.weights_file={weights_file}", "model.freeze=body")
    folder = made(runs_dir, *asked)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(6))
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *asked)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("model.freeze=body", "bn_recalibrate=true")], ids=["tuned", "frozen"])
def test_the_running_mean_of_a_fine_tuned_net_ends_the_same_when_it_was_stopped(
    runs_dir: Path, beside: Path, weights_file: Path, more: tuple[str, ...]
):
    asked = (*KEPT, f"model.weights_file={weights_file}", "ema_decay=0.9", *more)
    folder = made(runs_dir, *asked)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(6))
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *asked)


def test_the_running_mean_of_a_frozen_body_recalibrates_no_norm_of_the_body(runs_dir: Path, weights_file: Path):
    asked = (*SHORT, *SMALL, f"model.weights_file={weights_file}", "model.freeze=body", "ema_decay=0.9")
    one = learner(made(runs_dir, *asked))
    next(steps(one, OneCycle(0.1, 10)))
    with evaluated(one) as shown:
        assert shown.model is not one.model
        assert not batch_norms(shown.model)


@pytest.mark.slow
def test_images_are_normalised_for_the_trained_net_and_that_is_recorded(runs_dir: Path, weights_file: Path):
    folder = made(runs_dir, *SHORT, *SMALL, f"model.weights_file={weights_file}")
    trial.run(folder)
    resolved = folder.resolved()
    assert resolved is not None
    (mean,), (std,) = resolved["normalisation"]
    assert [[mean], [std]] == [pytest.approx(values) for values in GREY]
    data, facts = learner_of(folder).data, build.read_facts(folder, folder.config())
    assert isinstance(facts, Facts)
    assert (data.facts.mean, data.facts.std) == ((mean,), (std,)) != (facts.mean, facts.std)
    images = data.train.images[:2]
    torch.testing.assert_close(data.normalise(images), (images.float() - mean) / std)


def test_an_untrained_net_gets_images_normalised_by_the_training_set(runs_dir: Path):
    folder = made(runs_dir, *SHORT, *SMALL)
    resolved, learner = build.begin(folder, folder.config(), (0.1, "config"))
    assert resolved["normalisation"] is None
    assert learner.data.facts == build.read_facts(folder, folder.config())  # type: ignore[attr-defined]


def test_a_weights_file_that_is_missing_is_refused_before_anything_runs(runs_dir: Path, tmp_path: Path):
    missing = tmp_path / "missing.pth"
    with pytest.raises(ConfigError, match=f"^model.weights_file must be the path of a file of weights, got {missing}$"):
        planned(runs_dir, *SHORT, *SMALL, f"model.weights_file={missing}")


@pytest.mark.slow
def test_a_weights_file_that_goes_missing_fails_the_trial_with_that_line_and_can_be_put_back(
    runs_dir: Path, tmp_path: Path, weights_file: Path
):
    folder = made(runs_dir, *SHORT, *SMALL, f"model.weights_file={weights_file}")
    elsewhere = weights_file.rename(tmp_path / "elsewhere.pth")
    with pytest.raises(TrialFailed, match=rf"^model\.weights_file .*{weights_file}") as failed:
        trial.run(folder)
    assert str(failed.value) in (folder.path / "failure.json").read_text()
    elsewhere.rename(weights_file)
    assert trial.run(folder)["status"] == "finished"


@pytest.mark.parametrize("model", ["torchvision", "timm"])
def test_a_model_that_needs_a_name_asks_for_one(runs_dir: Path, model: str):
    with pytest.raises(ConfigError, match=r"^model\.name has no default: add model\.name=\.\.\."):
        planned(runs_dir, *SHORT, f"model={model}")


def test_a_net_that_begins_with_trained_weights_is_told_from_one_that_does_not(runs_dir: Path, weights_file: Path):
    offered = {"in_channels": 1, "num_classes": 10}
    for more, is_trained in (((), False), ((f"model.weights_file={weights_file}",), True)):
        assert build.begins_trained(made(runs_dir, *SMALL, *more).config(), offered) == is_trained
