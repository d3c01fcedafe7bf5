"""A training function of the user's own as a trial: what it can do, and what it is told that it does wrong."""

import re
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Sampler, TensorDataset

import own_loops
from onecycle_sweeps import journal, trial
from onecycle_sweeps.config.schema import DEFAULT_EPOCHS, ConfigError
from onecycle_sweeps.differences import difference
from onecycle_sweeps.outcome import look
from onecycle_sweeps.policies import Linear, OneCycle
from onecycle_sweeps.sweep import Entry
from onecycle_sweeps.trial import Stopped, TrialFailed
from onecycle_sweeps.trial.loader_batches import LoaderBatches
from onecycle_sweeps.trial_folder import TrialFolder
from real_trials import in_one_go, made, names, outcome, planned, request, series, stop_after, undisturbed

pytestmark = pytest.mark.usefixtures("one_thread")

LOOP = ("loop=function", "loop.measure=accuracy", "loop.goal=max")
TRAIN = (*LOOP, "loop._target_=own_loops.train", "epochs=3", "max_lr=0.1")
# 10 batches of 4 an epoch.
STEPS = 30


def of(target: str, *more: str) -> tuple[str, ...]:
    return (*LOOP, f"loop._target_=own_loops.{target}", "max_lr=0.1", "epochs=2", *more)


def run(runs_dir: Path, *overrides: str) -> tuple[TrialFolder, dict[str, Any]]:
    """The folder and the result of a trial."""
    folder = made(runs_dir, *overrides)
    return folder, trial.run(folder)


def test_its_steps_have_the_rates_of_the_policy_and_its_evaluations_are_recorded(runs_dir: Path):
    folder, result = run(runs_dir, *TRAIN, "policy=onecycle", "evaluations_per_epoch=2")
    policy = OneCycle(max_lr=0.1, total_steps=STEPS)
    assert series(folder, journal.LR)[1] == [policy(step).lr for step in range(STEPS)]
    assert series(folder, journal.MOMENTUM)[1] == [policy(step).momentum for step in range(STEPS)]
    assert series(folder, "val/accuracy")[0] == series(folder, "val/loss")[0] == [4, 9, 14, 19, 24, 29]
    assert (result["status"], result["steps"], result["warnings"]) == ("finished", STEPS, [])
    accuracies = series(folder, "val/accuracy")[1]
    assert result["metrics"]["final/val_accuracy"] == accuracies[-1]
    assert result["metrics"]["best/val_accuracy"] == max(accuracies)
    assert folder.headline().name == "accuracy"
    assert (folder.path / "model.pt").exists()


def test_a_seed_repeats_and_another_one_does_not(runs_dir: Path, beside: Path):
    first, again = in_one_go(runs_dir, *TRAIN), in_one_go(beside, *TRAIN)
    assert first == again
    assert first["weights"] != in_one_go(runs_dir, *TRAIN, "seed=1")["weights"]


ACCUMULATING, WITH_GENERATOR = ("+loop.accumulate=2",), ("+loop.own=true",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "more"),
    [(1, ()), (5, ()), (7, ()), (4, ACCUMULATING), (5, ACCUMULATING), (7, WITH_GENERATOR), (10, WITH_GENERATOR)],
)
def test_one_that_saves_resumes_bit_for_bit(runs_dir: Path, beside: Path, steps: int, more: tuple[str, ...]):
    folder = made(runs_dir, *TRAIN, *more)
    for attempt in (1, 2):
        with pytest.raises(Stopped, match="saved at step"):
            trial.run(folder, stop_after(steps))
        assert journal.read(folder.journal).durable == attempt * steps
    trial.run(folder)
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, steps, 2 * steps]
    assert outcome(folder) == undisturbed(beside, *TRAIN, *more)


HELD = ("torch", "numpy", "numpy of old", "python", "sampler")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [10, 13])
@pytest.mark.parametrize("kind", HELD)
def test_one_resumes_bit_for_bit_with_generators_of_its_loaders_parts(
    runs_dir: Path, beside: Path, kind: str, steps: int
):
    words = of("holding", f"+loop.kind={kind}")
    folder = made(runs_dir, *words)
    with pytest.raises(Stopped, match=f"saved at step {steps}"):
        trial.run(folder, stop_after(steps))
    assert trial.run(folder)["warnings"] == []
    assert outcome(folder) == undisturbed(beside, *words)


@pytest.mark.slow
@pytest.mark.parametrize(("taken", "told"), [(3, 0), (10, 1)])
def test_worker_processes_that_live_on_from_epoch_to_epoch_are_doubtful_after_a_resume(taken: int, told: int):
    loader = DataLoader(TensorDataset(torch.zeros(10)), num_workers=1, persistent_workers=True)
    before = LoaderBatches(loader, 10, torch.device("cpu"))
    assert len(list(islice(before.batches(), taken))) == taken
    resumed = LoaderBatches(loader, 10, torch.device("cpu"))
    next(resumed.batches(before.state()))
    assert len([line for line in resumed.warnings if "persistent_workers" in line]) == told


def test_a_generator_that_a_resumed_attempt_lacks_is_told():
    dataset = own_loops.Holding()
    before = LoaderBatches(DataLoader(dataset, 4), 10, torch.device("cpu"))
    assert len(list(islice(before.batches(), 10))) == 10
    state = before.state()
    dataset.transforms = []
    resumed = LoaderBatches(DataLoader(dataset, 4), 10, torch.device("cpu"))
    with pytest.raises(IndexError):
        next(resumed.batches(state))
    (line,) = resumed.warnings
    assert "dataset.transforms.0" in line


def test_a_checkpoint_with_the_generators_of_samplers_alone_goes_on_as_it_would_have():
    drawn, ours = torch.Generator().manual_seed(3), torch.device("cpu")
    loader = DataLoader(TensorDataset(torch.arange(40)), 4, shuffle=True, generator=drawn)
    whole = LoaderBatches(loader, 10, ours)
    batches = whole.batches()
    assert len(list(islice(batches, 13))) == 13
    state = whole.state()
    for name in ("at_start", "now"):
        state[name] = state[name] | {"of_loader": [state[name]["of_loader"]["generator"]]}
    expected = [batch for (batch,) in islice(batches, 20)]
    drawn.manual_seed(4)
    found = [batch for (batch,) in islice(LoaderBatches(loader, 10, ours).batches(state), 20)]
    assert torch.equal(torch.stack(found), torch.stack(expected))


class Bucketed(Sampler[list[int]]):
    """Batches whose order follows from the epoch alone."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch))
        yield from drawn.view(4, 2).tolist()


def around_a_sampler() -> Sampler[list[int]]:
    return BatchSampler(DistributedSampler(range(8), 1, 0), 2, drop_last=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Bucketed, around_a_sampler])
def test_a_batch_sampler_is_told_which_epoch_begins(make: Any):
    loader = DataLoader(range(8), batch_sampler=make())  # type: ignore[arg-type]
    drawn = [batch.tolist() for batch in islice(LoaderBatches(loader, None, torch.device("cpu")).batches(), 8)]
    again = make()
    for epoch in (0, 1):
        again.set_epoch(epoch) if make is Bucketed else again.sampler.set_epoch(epoch)
        assert drawn[4 * epoch : 4 * epoch + 4] == list(again)
    assert drawn[:4] != drawn[4:]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_processes_of_its_loader_that_are_stopped_with_it_are_no_failure(
    runs_dir: Path, beside: Path, asked: bool, monkeypatch: pytest.MonkeyPatch
):
    folder, ended, read = made(runs_dir, *TRAIN, "checkpoint_minutes=1e-9"), list[bool](), own_loops.Noisy.__getitem__
    reads = count()

    def killed(data: own_loops.Noisy, place: int) -> Any:
        if next(reads) == 50:
            ended.append(asked)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
        return read(data, place)

    monkeypatch.setattr(own_loops.Noisy, "__getitem__", killed)
    with pytest.raises(Stopped if asked else TrialFailed, match="pid 7"):
        trial.run(folder, lambda: any(ended))
    assert folder.state().status == ("waiting" if asked else "failed")
    trial.run(folder)
    assert journal.read(folder.journal).attempts[1].start == 12
    assert outcome(folder) == undisturbed(beside, *TRAIN)


def test_one_that_does_not_save_starts_again_and_says_so(runs_dir: Path, beside: Path):
    unsaved = (*TRAIN, "+loop.saves=false")
    folder = made(runs_dir, *unsaved)
    with pytest.raises(Stopped, match="start again"):
        trial.run(folder, stop_after(7))
    stopped = folder.state()
    assert stopped.status == "waiting" and "own_loops.train has saved nothing" in str(stopped.cause)
    assert folder.will_start_again()
    trial.run(folder)
    attempts = journal.read(folder.journal).attempts
    assert [attempt.start for attempt in attempts] == [0, 0]
    (line,) = attempts[1].notes
    assert "7 steps of an earlier attempt are lost" in line and "starts again" in line
    assert line in folder.log.read_text()
    entry = Entry(folder.signature, "train", {"policy": "onecycle", "seed": "0"})
    assert look(entry, folder).started_again == (line,)
    assert outcome(folder) == undisturbed(beside, *unsaved)


def test_a_change_of_its_code_starts_it_again(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changing_loop.py"
    module.write_text("from own_loops import train as train\n")
    folder = made(runs_dir, *LOOP, "loop._target_=changing_loop.train", "max_lr=0.1", "epochs=3")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(7))
    module.write_text("from own_loops import train as train\n# another version\n")
    assert made(runs_dir, *LOOP, "loop._target_=changing_loop.train", "max_lr=0.1", "epochs=3").path == folder.path
    trial.run(folder)
    (first, second) = journal.read(folder.journal).attempts
    assert (first.start, second.start) == (0, 0)
    assert "changing_loop.py" in second.notes[0]


MISTAKES = {
    "no steps": "run.steps",
    "stepped before": "before its first step",
    "two lengths": "either epochs or total_steps",
    "two epochs": "no steps_per_epoch, since its loader has a length",
    "no optimizer": "optimizer",
    "no length": "no length",
    "too short": "no batch left",
    "steps twice": "twice",
    "accumulates alone": "update_due",
    "no update": "did not step the optimizer in step 3",
    "zeroes before its updates": "in step 0 without a gradient: .*zero_grad.*after it",
    "two updates": "stepped the optimizer twice in step 3",
    "sets the rate": "changed the rate .* to 0.5 .* step 3",
    "sets the momentum": "changed the momentum .* to 0.5 .* step 3",
    "schedules": "changed the rate .* step 3",
    "no log": r"run.log\(loss\).* step 3",
    "logs twice": "twice in step 3",
    "logs all losses": "mean loss",
    "leaves": "left its loop after 4 of 10 steps",
    "stops early": "left its loop after 3 of 10 steps",
    "hides": "twice in step 3",
    "saves without restoring": "run.restore",
    "no evaluation": "run.evaluated .* step 4",
    "no headline": "the measure accuracy",
    "per cent": r"fraction in \[0, 1\]",
    "no number": "numbers",
    "odd name": "a measure's name must consist of .* got 'acc@5'",
    "evaluates twice": "twice after step 4",
    "goes on": "after its last step",
    "again": "twice",
    "logs after": "outside its loop",
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_that_names_the_function(runs_dir: Path, mistake: str):
    folder = made(runs_dir, *of("mistaken", f"+loop.mistake={mistake}"))
    with pytest.raises(TrialFailed) as failed:
        trial.run(folder)
    line = str(failed.value)
    assert re.search(MISTAKES[mistake], line), line
    assert mistake == "too short" or "own_loops.mistaken" in line
    assert "\n" not in line
    assert folder.state().status == "failed"


def test_a_function_that_raises_stop_iteration_fails_at_its_own_line(runs_dir: Path):
    with pytest.raises(TrialFailed, match=r"StopIteration.*own_loops\.py"):
        run(runs_dir, *of("mistaken", "+loop.mistake=stops"))


def test_nothing_is_left_of_a_function_that_failed(runs_dir: Path):
    step = torch.amp.GradScaler.step
    with pytest.raises(TrialFailed):
        run(runs_dir, *of("mistaken", "+loop.mistake=hides"))
    assert torch.amp.GradScaler.step is step


@pytest.mark.parametrize("what", ["array", "{a: 1}"])
def test_what_could_not_be_loaded_again_is_refused_when_it_is_first_saved(runs_dir: Path, what: str):
    cause = "history, a ndarray" if what == "array" else r"run.log\(loss\)"
    with pytest.raises(TrialFailed, match=cause):
        run(runs_dir, *of("saving", f"+loop.what={what}"))


WAYS = [
    *("closure", "subclass", "wrapped", "inner", "rate in a tensor", "later group", "scaled groups"),
    *("evaluates after its loop", "leaves its loop in the last step"),
]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_unusual_way_is_no_mistake(runs_dir: Path, way: str):
    policy = ("policy=linear",) if way == "closure" else ()
    folder, result = run(runs_dir, *of("unusual", f"+loop.way={way}", *policy))
    assert (result["status"], result["steps"], result["warnings"]) == ("finished", 12, [])
    assert series(folder, "val/accuracy")[0] == [5, 11]
    plan = (Linear if policy else OneCycle)(0.1, 12)
    assert series(folder, journal.LR)[1] == [plan(step).lr for step in range(12)]


def test_an_optimizer_whose_rate_does_not_follow_the_policy_is_told_once(runs_dir: Path):
    _, result = run(runs_dir, *of("unusual", "+loop.way=second optimizer"))
    (line,) = result["warnings"]
    assert "Adam of 2 tensors, 10 numbers, in 12 of 12 steps" in line and "policy" in line


def test_evaluations_before_the_update_of_their_step_are_told(runs_dir: Path):
    _, result = run(runs_dir, *of("unusual", "+loop.way=evaluates before its updates"))
    (line,) = result["warnings"]
    assert "run.evaluated was called 2 times before the update" in line


@pytest.mark.parametrize("logs_all", [True, False])
def test_a_step_of_several_batches_needs_the_loss_of_each(runs_dir: Path, logs_all: bool):
    folder = made(runs_dir, *TRAIN, "+loop.accumulate=4", f"+loop.logs_all={logs_all}")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(3))
    result = trial.run(folder)
    # Of the 10 batches of an epoch 2 do not fill a step.
    assert result["steps"] == 3 * 2
    assert any(line.startswith("in 6 of 6 steps run.log was not called") for line in result["warnings"]) is not logs_all


def test_updates_that_a_grad_scaler_skips_are_counted(runs_dir: Path):
    folder, result = run(runs_dir, *of("scaled", "policy=constant"))
    assert result["warnings"] == ["a GradScaler skipped 1 of 10 updates"]
    assert len(series(folder, journal.LR)[0]) == 10


@pytest.mark.parametrize("fails", [False, True])
def test_divergence_is_a_result_and_ends_its_loop(runs_dir: Path, fails: bool):
    folder, result = run(runs_dir, *of("exploding", f"+loop.fails={fails}", "policy=constant"))
    assert (result["status"], result["steps"]) == ("diverged", 5)
    assert "inf" in result["cause"]
    assert folder.state().status == "diverged"


RANGE = (*LOOP, "loop._target_=own_loops.blobs", "range_test.start_lr=1e-4", "range_test.end_lr=1e5")


def test_a_range_test_finds_its_rate_and_all_policies_share_it(runs_dir: Path):
    overrides = (*RANGE, "epochs=4", "policy=constant")
    one, other = planned(runs_dir, *overrides), planned(runs_dir, *overrides, "policy=step", "seed=1", "epochs=3")
    assert one.rate_from is not None and other.rate_from is not None
    assert one.rate_from.signature == other.rate_from.signature
    folder, _ = run(runs_dir, *overrides)
    test = TrialFolder(runs_dir / one.rate_from.signature)
    rates, losses = (series(test, name)[1] for name in (journal.LR, journal.TRAIN_LOSS))
    # It ended early, where its loss had diverged.
    assert rates[0] == 1e-4 and rates == sorted(rates) and len(rates) < 200
    assert max(losses) == max(losses[-20:]) > 4 * losses[0]
    verdict = (test.result() or {})["metrics"]["suggestion/max_lr"]
    assert (folder.resolved() or {})["max_lr"] == verdict
    assert set(series(folder, journal.LR)[1]) == {verdict}


def test_a_linear_range_test_has_its_evaluations_and_each_of_its_seeds(runs_dir: Path):
    test = ("task=range_test", "range_test.mode=linear", "range_test.steps=100", "range_test.end_lr=1")
    folder, result = run(runs_dir, *RANGE, *test, "range_test.seeds=[0,1]")
    rates = series(folder, journal.LR)[1]
    assert len(rates) == 200 and rates.count(rates[0]) == 2
    assert series(folder, "val/accuracy")[0] == list(range(4, 200, 5))
    assert result["verdict"]["word"] in ("confident", "ambiguous")


def test_a_range_test_that_was_stopped_starts_again(runs_dir: Path):
    folder = made(runs_dir, *LOOP, "loop._target_=own_loops.train", "task=range_test")
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(20))
    assert trial.run(folder)["status"] == "finished"


def test_a_loss_that_may_be_negative_is_trained_and_has_no_range_test(runs_dir: Path):
    density = ("loop=function", "loop.measure=loss", "loop.goal=min", "loop._target_=own_loops.density")
    _, result = run(runs_dir, *density, "max_lr=1", "epochs=2")
    assert result["status"] == "finished" and result["metrics"]["final/val_loss"] < 0
    with pytest.raises(TrialFailed, match=r"at least 0, got -.* add a constant"):
        run(runs_dir, *density, "task=range_test")


def test_a_loss_can_be_its_headline_and_a_file_of_a_parameter_counts_by_its_content(runs_dir: Path, tmp_path: Path):
    text = tmp_path / "book.txt"
    text.write_text("so we beat on, boats against the current " * 20)
    overrides = ("loop=function", "loop._target_=own_loops.language", "loop.measure=loss", "loop.goal=min")
    read = (*overrides, f"+loop.text={text}", "max_lr=0.01")
    folder, result = run(runs_dir, *read)
    assert result["metrics"]["best/val_loss"] == min(series(folder, "val/loss")[1])
    assert names(folder) >= {journal.LR, journal.MOMENTUM, "val/loss"}
    moved = text.rename(tmp_path / "same.txt")
    assert planned(runs_dir, *overrides, f"+loop.text={moved}", "max_lr=0.01").signature == folder.signature
    moved.write_text("another book " * 50)
    assert planned(runs_dir, *overrides, f"+loop.text={moved}", "max_lr=0.01").signature != folder.signature


def test_a_file_that_changes_after_the_trial_was_planned_fails_it(runs_dir: Path, tmp_path: Path):
    text = tmp_path / "book.txt"
    text.write_text("so we beat on, boats against the current " * 20)
    overrides = ("loop=function", "loop._target_=own_loops.language", "loop.measure=loss", "loop.goal=min")
    folder = made(runs_dir, *overrides, f"+loop.text={text}", "max_lr=0.01")
    text.write_text("another book " * 50)
    with pytest.raises(TrialFailed, match="changed since the trial was planned"):
        trial.run(folder)


def test_its_parameters_count_for_the_signature_and_what_does_not_reach_it_does_not(runs_dir: Path):
    plain = planned(runs_dir, *TRAIN)
    assert planned(runs_dir, *TRAIN, "+loop.width=9").signature != plain.signature
    assert planned(runs_dir, *TRAIN, "loop.goal=min").signature != plain.signature
    assert plain.config.keys().isdisjoint({"model", "data", "objective", "optimizer", "batch_size"})
    assert planned(runs_dir, *TRAIN, "target=0.9", "checkpoint_minutes=2").signature == plain.signature


def test_the_same_command_is_the_same_sweep_and_another_one_is_not(runs_dir: Path):
    asked, recorded = [request(runs_dir, *TRAIN)], [planned(runs_dir, *TRAIN).config]
    assert difference(asked, recorded) is None
    assert "loop.width" in (difference([request(runs_dir, *TRAIN, "+loop.width=9")], recorded) or "")


REFUSED = [
    ("batch_size=8", "batch_size"),
    ("model=resnet9", "model"),
    ("optimizer.momentum=0.5", "optimizer.momentum"),
    ("clip_norm=1", "clip_norm"),
    ("label_smoothing=0.1", "label_smoothing"),
    ("precision=bf16", "precision"),
    ("save_model=true", "run.folder"),
    ("+loop.widht=8", "loop.width"),
    ("loop._target_=own_loops.tarin", "train"),
    ("loop._target_=no_such_module.train", "no_such_module"),
    ("loop._target_=own_loops.without_parameters", "first parameter"),
    ("loop._target_=own_loops.yielding", "must be a plain function, got a generator function"),
    ("loop._target_=own_loops.waiting", "must be a plain function, got an async function"),
    ("loop.measure=val/acc", "measure"),
    ("loop.goal=best", "loop.goal"),
    ("target=95", "target"),
    ("+loop.run=1", "loop.run"),
]


@pytest.mark.parametrize(("override", "named"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_runs(runs_dir: Path, override: str, named: str):
    with pytest.raises(ConfigError) as refused:
        planned(runs_dir, *TRAIN, override)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_node_must_say_what_trials_are_compared_by(runs_dir: Path):
    with pytest.raises(ConfigError, match=r"loop\.goal"):
        planned(runs_dir, "loop=function", "loop._target_=own_loops.train", "loop.measure=accuracy")


@pytest.mark.slow
def test_the_programs_own_parts_reach_it_by_the_names_of_its_parameters(runs_dir: Path):
    overrides = of("with_nodes", "batch_size=256", "clip_norm=1", "model.channels=[4]", "optimizer=adamw")
    folder, result = run(runs_dir, *overrides)
    assert result["steps"] == 6
    losses = series(folder, journal.TRAIN_LOSS)[1]
    assert losses[-1] < losses[0]
    for changed in ("batch_size=128", "clip_norm=2", "model.channels=[8]", "optimizer.weight_decay=0.5"):
        assert planned(runs_dir, *overrides, changed).signature != folder.signature
    with pytest.raises(ConfigError, match="label_smoothing"):
        planned(runs_dir, *overrides, "label_smoothing=0.1")


def test_a_function_that_trains_for_other_epochs_than_were_asked_for_is_told_so(runs_dir: Path):
    _, result = run(runs_dir, *TRAIN, "+loop.its_epochs=2")
    assert [warning for warning in result["warnings"] if "epochs=3" in warning]


@pytest.mark.parametrize("early", [True, False])
def test_a_number_that_changes_after_it_was_saved_in_a_turn_is_noticed(runs_dir: Path, early: bool):
    folder = made(runs_dir, *of("counting", f"+loop.early={early}"))
    with pytest.raises(Stopped, match="saved at step 3"):
        trial.run(folder, stop_after(3))
    result = trial.run(folder)
    assert result["metrics"]["final/val_accuracy"] == (7 / 8 if early else 1)
    told = [line for line in result["warnings"] if "run.checkpoint" in line]
    assert len(told) == early and all(line.startswith("count changed") for line in told)


@pytest.mark.parametrize(("epochs", "told"), [(3, True), (DEFAULT_EPOCHS, False)])
def test_epochs_that_a_function_does_not_read_are_noticed(runs_dir: Path, epochs: int, told: bool):
    _, result = run(runs_dir, *of("scaled", "+loop.steps=12", f"epochs={epochs}"))
    lines = [line for line in result["warnings"] if "does not read run.epochs" in line]
    assert len(lines) == told and all(f"epochs={epochs}" in line and "12 steps" in line for line in lines)
