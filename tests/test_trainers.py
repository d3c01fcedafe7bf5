"""Lightning's and Hugging Face's trainers, which have the loop, as trials and under a policy."""

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from onecycle_sweeps import journal, trial
from onecycle_sweeps.policies import Hyper, OneCycle
from onecycle_sweeps.scheduler import PolicyScheduler, used
from onecycle_sweeps.trainer_steps import TrainerSteps
from onecycle_sweeps.trial import Stopped, TrialFailed
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import made, series, stop_after

# Advice of these libraries on workers, GPUs and SLURM, and torch's deprecation of a class that Lightning tests for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.usefixtures("one_thread"),
]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
IN_LIGHTNING = (
    *("loop=function", "loop._target_=onecycle_sweeps.lightning.train", "loop.measure=accuracy", "loop.goal=max"),
    *("+loop.module={_target_: digits.Classifier, width: 8}", "+loop.data={_target_: digits.Digits, batch_size: 256}"),
)
MAKE = "{_target_: sentences.make, _partial_: true, length: 16, depth: 1, width: 8, batch_size: 8, characters: 1600}"
IN_TRANSFORMERS = (
    *("loop=function", "loop._target_=onecycle_sweeps.transformers.train", "loop.measure=loss", "loop.goal=min"),
    f"+loop.trainer={MAKE}",
)
BATCHES = 5
# Steps of an epoch: 1,437 digits in batches of 256, and 90 blocks in batches of 8.
DIGITS, SENTENCES = 5, 12


@pytest.fixture(scope="module")
def lightning() -> Any:
    """The library, which takes seconds to import."""
    return pytest.importorskip("lightning")


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def examples(lightning: Any, transformers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("lightning", "transformers"):
        monkeypatch.syspath_prepend(EXAMPLES / name)
    yield
    for name in ("digits", "sentences"):
        sys.modules.pop(name, None)


def run(runs_dir: Path, *overrides: str) -> tuple[TrialFolder, dict[str, Any]]:
    folder = made(runs_dir, *overrides)
    return folder, trial.run(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("overrides", "steps", "measure"),
    [(IN_LIGHTNING, DIGITS, "accuracy"), (IN_TRANSFORMERS, SENTENCES, "loss")],
    ids=["lightning", "transformers"],
)
class TestAsATrial:
    def test_its_steps_have_the_rates_of_the_policy_and_its_evaluations_are_recorded(
        self, runs_dir: Path, beside: Path, overrides: tuple[str, ...], steps: int, measure: str
    ):
        asked = (*overrides, "epochs=2", "evaluations_per_epoch=2", "max_lr=0.01")
        folder, result = run(runs_dir, *asked)
        policy = OneCycle(max_lr=0.01, total_steps=2 * steps)
        assert series(folder, journal.LR)[1] == [policy(step).lr for step in range(2 * steps)]
        assert series(folder, journal.MOMENTUM)[1] == [policy(step).momentum for step in range(2 * steps)]
        due = sorted(point - 1 for point in journal.evaluation_points(2 * steps, steps, 2))
        assert series(folder, f"val/{measure}")[0] == due
        assert result["metrics"][f"final/val_{measure}"] == series(folder, f"val/{measure}")[1][-1]
        assert (result["status"], result["warnings"]) == ("finished", [])
        losses = series(folder, journal.TRAIN_LOSS)[1]
        assert losses[-1] < losses[0]
        again, _ = run(beside, *asked)
        assert series(again, journal.TRAIN_LOSS)[1] == losses
        other, _ = run(runs_dir, *asked, "seed=1")
        assert series(other, journal.TRAIN_LOSS)[1][0] != losses[0]

    def test_a_range_test_repeats_its_loader_and_ends_where_its_loss_diverges(
        self, runs_dir: Path, overrides: tuple[str, ...], steps: int, measure: str
    ):
        test = ("task=range_test", "range_test.start_lr=1e-4", "range_test.end_lr=1e3", "range_test.steps=100")
        folder, result = run(runs_dir, *overrides, *test)
        rates = series(folder, journal.LR)[1]
        assert steps < len(rates) < 100
        assert result["metrics"]["suggestion/max_lr"] < rates[-1]
        assert result["steps"] == len(rates)

    def test_it_stops_where_it_must_and_starts_again(
        self, runs_dir: Path, overrides: tuple[str, ...], steps: int, measure: str
    ):
        folder = made(runs_dir, *overrides, "epochs=2", "max_lr=0.01")
        trainer = "Lightning's Trainer" if measure == "accuracy" else "Hugging Face's Trainer"
        with pytest.raises(Stopped, match=f"does not save {trainer}: the trial will start again"):
            trial.run(folder, stop_after(steps + 2))
        assert trainer in str(folder.state().cause)
        assert trial.run(folder)["status"] == "finished"
        (line,) = journal.read(folder.journal).attempts[1].notes
        assert trainer in line and "starts again" in line


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_module_with_a_scheduler_is_told_to_leave_it_out(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    digits = importlib.import_module("digits")

    def with_scheduler(self: Any) -> Any:
        optimizer = torch.optim.AdamW(self.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    folder = made(runs_dir, *IN_LIGHTNING, "epochs=2", "max_lr=0.01")
    monkeypatch.setattr(digits.Classifier, "configure_optimizers", with_scheduler)
    with pytest.raises(TrialFailed, match=r"changed the rate .*leave out the scheduler"):
        trial.run(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_trainer_with_another_seed_is_refused(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    sentences = importlib.import_module("sentences")
    settings = sentences.TrainingArguments
    folder = made(runs_dir, *IN_TRANSFORMERS, "epochs=1", "max_lr=0.01", "seed=3")
    monkeypatch.setattr(sentences, "TrainingArguments", lambda **given: settings(**given | {"seed": 42}))
    with pytest.raises(TrialFailed, match=r"seed=run\.seed, 3"):
        trial.run(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_trainer_with_other_epochs_is_refused(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    sentences = importlib.import_module("sentences")
    settings = sentences.TrainingArguments
    folder = made(runs_dir, *IN_TRANSFORMERS, "epochs=1", "max_lr=0.01")
    monkeypatch.setattr(sentences, "TrainingArguments", lambda **given: settings(**given | {"num_train_epochs": 2}))
    with pytest.raises(TrialFailed, match=r"num_train_epochs=run\.epochs, 1 .* got num_train_epochs=2"):
        trial.run(folder)


def test_the_values_of_several_loaders_have_names_of_measures():
    found = dict[str, float]()
    TrainerSteps(SimpleNamespace(evaluated=found.update)).evaluated({"val_loss/dataloader_idx_1": 0.5, "loss": 1.0})
    assert found == {"loss_dataloader_idx_1": 0.5}


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_trainer_with_several_evaluations_records_all_and_logs_the_rates_used(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    sentences, logged = importlib.import_module("sentences"), list[float]()
    settings, trainer = sentences.TrainingArguments, sentences.Trainer

    class Logging(trainer):
        def __init__(self, *arguments: Any, eval_dataset: Any, **parts: Any) -> None:
            super().__init__(*arguments, eval_dataset={"all": eval_dataset, "few": [eval_dataset[0]]}, **parts)

        def log(self, logs: dict[str, float], *more: Any) -> None:
            logged.extend([logs["learning_rate"]] if "learning_rate" in logs else [])
            super().log(logs, *more)

    monkeypatch.setattr(sentences, "Trainer", Logging)
    monkeypatch.setattr(sentences, "TrainingArguments", lambda **given: settings(**given, logging_steps=1))
    folder, result = run(runs_dir, *IN_TRANSFORMERS, "loop.measure=few_loss", "epochs=2", "max_lr=0.01")
    assert set(result["metrics"]) == {"seconds", "final/val_all_loss", "final/val_few_loss", "best/val_few_loss"}
    assert result["metrics"]["final/val_all_loss"] != result["metrics"]["final/val_few_loss"]
    assert logged == series(folder, journal.LR)[1]


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_accumulated_batches_are_one_step(runs_dir: Path):
    folder, result = run(
        runs_dir, *IN_LIGHTNING, "+loop.trainer={accumulate_grad_batches: 2}", "max_lr=0.01", "epochs=2"
    )
    # The fifth batch of an epoch is a step of its own.
    assert result["steps"] == 6
    assert all(2 < loss < 3 for loss in series(folder, journal.TRAIN_LOSS)[1][:3])


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ((*IN_LIGHTNING, "+loop.trainer={max_steps: 20, accumulate_grad_batches: 2}"), 3),
        ((*IN_LIGHTNING, "+loop.trainer={max_epochs: 2, check_val_every_n_epoch: 2}"), DIGITS),
    ],
    ids=["steps", "epochs"],
)
def test_an_epoch_is_that_of_the_loader_also_where_the_trainer_has_a_length_of_its_own(
    runs_dir: Path, overrides: tuple[str, ...], steps: int
):
    """Of 20 steps, or of two epochs, and not of the ten epochs that a trial has by default."""
    folder, result = run(runs_dir, *overrides, "policy=step", "policy.step_size=1", "max_lr=0.01", "epochs=10")
    assert result["steps_per_epoch"] == steps
    assert series(folder, journal.LR)[1][: 2 * steps] == pytest.approx([0.01] * steps + [0.001] * steps)
    assert series(folder, "val/accuracy")[0][:2] == [steps - 1, 2 * steps - 1]


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_a_trainer_that_does_not_validate_is_refused(runs_dir: Path):
    folder = made(runs_dir, *IN_LIGHTNING, "+loop.trainer={limit_val_batches: 0}", "max_lr=0.01", "epochs=1")
    with pytest.raises(TrialFailed, match="limit_val_batches above 0, got 0"):
        trial.run(folder)


class Unfit:
    """What a module or its trainer may be that is no trial."""

    @staticmethod
    def manual(module: Any) -> None:
        def step(batch: Any, batch_idx: int) -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(module.layers(batch[0]), batch[1])
            module.manual_backward(loss)
            if batch_idx % 2:
                module.optimizers().step()
            return loss

        module.automatic_optimization, module.training_step = False, step

    @staticmethod
    def silent(module: Any) -> None:
        step = module.training_step

        def training_step(batch: Any, batch_idx: int) -> None:
            module.manual_backward(step(batch, batch_idx))
            module.optimizers().step()

        module.automatic_optimization, module.training_step = False, training_step

    @staticmethod
    def accumulating(module: Any) -> Any:
        from lightning.pytorch.callbacks import GradientAccumulationScheduler

        del module
        return GradientAccumulationScheduler({0: 1, 1: 2})

    @staticmethod
    def stopping(module: Any) -> Any:
        from lightning.pytorch.callbacks import EarlyStopping

        del module
        return EarlyStopping("val_loss", min_delta=100.0, patience=1)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("unfit", "message"),
    [
        (Unfit.manual, "must step its optimizer in each batch, .* not in batch 0"),
        (Unfit.silent, "training_step must return the loss"),
        (Unfit.accumulating, "accumulate_grad_batches must stay 1 .* got 2"),
        (Unfit.stopping, "left its loop after 10 of 20 steps"),
    ],
)
def test_a_training_whose_steps_are_not_those_of_the_policy_is_refused(
    lightning: Any, runs_dir: Path, unfit: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
):
    ours, fit = importlib.import_module("onecycle_sweeps.lightning"), lightning.Trainer.fit

    def unfit_fit(trainer: Any, module: Any, **data: Any) -> None:
        trainer.callbacks += filter(None, [unfit(module)])
        fit(trainer, module, **data)

    monkeypatch.setattr(ours.Trainer, "fit", unfit_fit)
    with pytest.raises(TrialFailed, match=message):
        run(runs_dir, *IN_LIGHTNING, "max_lr=0.01", "epochs=4")


def in_lightning(
    lightning: Any, scheduled: Callable[[Any], Any], folder: Path, resumed: Path | None = None, **settings: Any
) -> tuple[Any, list[Hyper]]:
    """A trainer after its training on five batches an epoch, and the rates it trained with.

    `scheduled` makes what Lightning takes for an optimizer.
    """
    trajectory: list[Hyper] = []

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            trajectory.append(used(self.trainer.optimizers[0]))
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return scheduled(torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9))

    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=folder, **silent, **settings)
    trainer.fit(Net(), DataLoader(TensorDataset(torch.ones(2 * BATCHES, 4)), 2), ckpt_path=resumed)
    return trainer, trajectory


def with_scheduler(policy: OneCycle) -> Callable[[Any], Any]:
    return lambda optimizer: {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": PolicyScheduler(optimizer, policy), "interval": "step"},
    }


@pytest.mark.slow
def test_lightning_trains_every_batch_at_the_rate_of_a_policys_scheduler(lightning: Any, tmp_path: Path):
    policy = OneCycle(0.5, 4 * BATCHES)
    _, trajectory = in_lightning(lightning, with_scheduler(policy), tmp_path, max_epochs=4)
    assert trajectory == [policy(step) for step in range(4 * BATCHES)]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [OneCycle(0.5, 4 * BATCHES), OneCycle(0.02, 5 * BATCHES)])
def test_lightning_resumes_at_the_rate_of_a_policys_scheduler(lightning: Any, tmp_path: Path, policy: OneCycle):
    first, saved = with_scheduler(OneCycle(0.5, 4 * BATCHES)), tmp_path / "half.ckpt"
    trainer, _ = in_lightning(lightning, first, tmp_path, max_epochs=2)
    trainer.save_checkpoint(saved)
    epochs = policy.total_steps // BATCHES
    _, trajectory = in_lightning(lightning, with_scheduler(policy), tmp_path, saved, max_epochs=epochs)
    assert trajectory == [policy(step) for step in range(2 * BATCHES, policy.total_steps)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_policy_drives_lightnings_trainer_also_where_it_accumulates(lightning: Any, tmp_path: Path, accumulate: int):
    from onecycle_sweeps.lightning import Schedule

    # The fifth batch of an epoch is a step of its own.
    steps = math.ceil(BATCHES / accumulate)
    policy = OneCycle(max_lr=0.1, total_steps=2 * steps)
    settings = {"max_epochs": 2, "accumulate_grad_batches": accumulate, "callbacks": [Schedule(policy)]}
    _, trajectory = in_lightning(lightning, lambda optimizer: optimizer, tmp_path, **settings)
    turns = [steps * epoch + turn // accumulate for epoch in (0, 1) for turn in range(BATCHES)]
    assert trajectory == [policy(step) for step in turns]


@pytest.mark.slow
def test_a_policy_drives_transformers_trainer_in_place_of_its_own_schedule(transformers: Any, tmp_path: Path):
    from onecycle_sweeps.transformers import Schedule

    seen: list[Hyper] = []

    class Watching(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            seen.append(used(given["optimizer"]))

    config = transformers.GPT2Config(vocab_size=8, n_positions=4, n_layer=1, n_embd=4, n_head=1)
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 16
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )
    policy = OneCycle(max_lr=0.1, total_steps=6)
    callbacks = [Schedule(policy), Watching()]
    trainer = transformers.Trainer(transformers.GPT2LMHeadModel(config), args, train_dataset=rows, callbacks=callbacks)
    trainer.train()
    assert seen == [policy(step) for step in range(6)]
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == [policy(step).lr for step in range(6)]
