"""A trial that was interrupted, anywhere and however often, ends as one that was not: to the last bit."""

import os
from pathlib import Path

import pytest
import torch

from onecycle_sweeps import checkpoint, journal, trial
from onecycle_sweeps.trial import Stopped
from onecycle_sweeps.trial_folder import Superseded, TrialFolder
from real_trials import SHORT, made, outcome, stop_after, undisturbed

KEPT = (*SHORT, "save_model=true")
STEPS = 10
EVERY_STEP = "checkpoint_minutes=1e-9"


def interrupted(runs_dir: Path, *overrides: str, after: int) -> TrialFolder:
    """A trial that was asked to leave after so many steps of its first attempt."""
    folder = made(runs_dir, *KEPT, *overrides)
    with pytest.raises(Stopped, match=f"saved at step {after} of {STEPS}"):
        trial.run(folder, stop_after(after))
    return folder


def starts(folder: TrialFolder) -> list[int]:
    return [attempt.start for attempt in journal.read(folder.journal).attempts]


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_trial_stopped_at_any_step_ends_as_one_that_was_not(runs_dir: Path, beside: Path, step: int):
    folder = interrupted(runs_dir, after=step)
    assert folder.checkpoint.exists()
    assert journal.read(folder.journal).durable == step
    trial.run(folder)
    assert starts(folder) == [0, step]
    assert outcome(folder) == undisturbed(beside, *KEPT)
    assert not folder.checkpoint.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("evaluations_per_epoch=3",),
        ("optimizer=adamw", "max_lr=0.01"),
        ("precision=bf16",),
        ("~model", "+model={_target_: users_code.WithDropout}"),
        ("~model", "+model={_target_: users_code.WithDraws}"),
        ("~model", "+model={_target_: users_code.WithGenerator}"),
        ("policy=clr", "clip_norm=0.5", "label_smoothing=0.1"),
        ("policy=constant", "data.val_fraction=0.2"),
        ("policy=constant", "max_lr=10", "epochs=1"),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_a_trial_stopped_at_every_step_ends_as_one_that_was_not(
    runs_dir: Path, beside: Path, overrides: tuple[str, ...]
):
    folder = made(runs_dir, *KEPT, *overrides)
    attempts = 0
    while folder.result() is None:
        attempts += 1
        try:
            trial.run(folder, stop_after(1))
        except Stopped:
            assert journal.read(folder.journal).durable == attempts
    assert attempts == journal.read(folder.journal).series("train/loss")[0][-1] + 1 >= 4
    assert starts(folder) == list(range(attempts))
    assert outcome(folder) == undisturbed(beside, *KEPT, *overrides)


def test_dropout_draws_the_numbers_that_it_would_have_drawn(
    runs_dir: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without the state of the random numbers a resume would differ: the test above can fail."""
    model = ("~model", "+model={_target_: users_code.WithDropout}")
    folder = interrupted(runs_dir, *model, after=3)
    monkeypatch.setattr(torch, "set_rng_state", lambda _: None)
    trial.run(folder)
    assert outcome(folder)["weights"] != undisturbed(beside, *KEPT, *model)["weights"]


def test_seconds_go_on_counting_from_the_checkpoint(runs_dir: Path):
    folder = interrupted(runs_dir, after=3)
    state = checkpoint.load(folder.checkpoint)
    assert state is not None
    checkpoint.save(folder.checkpoint, state | {"seconds": 1000.0})
    assert 1000 < trial.run(folder)["metrics"]["seconds"] < 1100


def test_an_attempt_that_is_asked_to_leave_at_its_last_step_finishes(runs_dir: Path):
    folder = made(runs_dir, *KEPT)
    assert trial.run(folder, stop_after(STEPS))["status"] == "finished"


@pytest.mark.slow
def test_what_was_written_after_the_checkpoint_is_made_again(
    runs_dir: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = interrupted(runs_dir, after=3)
    kept = folder.checkpoint.read_bytes()
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(4))
    folder.checkpoint.write_bytes(kept)
    assert journal.read(folder.journal).series("train/loss")[0] == list(range(7))
    trial.run(folder)
    assert starts(folder) == [0, 3, 3]
    assert outcome(folder) == undisturbed(beside, *KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_torn_checkpoint_is_said_and_survived(runs_dir: Path, beside: Path, share: float):
    folder = interrupted(runs_dir, after=6)
    os.truncate(folder.checkpoint, int(folder.checkpoint.stat().st_size * share))
    trial.run(folder)
    assert "checkpoint.pt cannot be read as a checkpoint" in folder.log.read_text()
    assert "starts again from step 0" in folder.log.read_text()
    assert starts(folder) == [0, 0]
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_line_torn_after_the_checkpoint_is_said_and_costs_nothing(runs_dir: Path, beside: Path):
    folder = interrupted(runs_dir, after=6)
    with (folder.journal / "0001.jsonl").open("a") as file:
        file.write('{"time":1.0,"step":6,"metr')
    trial.run(folder)
    assert "WARNING 1 lines of the journal" in folder.log.read_text()
    assert starts(folder) == [0, 6]
    assert outcome(folder) == undisturbed(beside, *KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train/loss", "val/accuracy"])
def test_a_line_torn_before_the_checkpoint_is_said_and_its_steps_are_made_again(
    runs_dir: Path, beside: Path, name: str
):
    folder = interrupted(runs_dir, after=6)
    path = folder.journal / "0001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    torn = next(i for i, line in enumerate(lines) if name in line)
    path.write_text("".join([*lines[:torn], lines[torn][: len(lines[torn]) // 2] + "\n", *lines[torn + 1 :]]))
    trial.run(folder)
    assert "WARNING 1 lines of the journal" in folder.log.read_text()
    assert "journal lacks values before step 6" in folder.log.read_text()
    assert "starts again from step 0" in folder.log.read_text()
    assert starts(folder) == [0, 0]
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_journal_file_that_is_gone_is_said_and_its_steps_are_made_again(runs_dir: Path, beside: Path):
    folder = interrupted(runs_dir, after=3)
    with pytest.raises(Stopped):
        trial.run(folder, stop_after(3))
    (folder.journal / "0001.jsonl").unlink()
    trial.run(folder)
    assert "the journal lacks values before step 6" in folder.log.read_text()
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_checkpoint_without_its_journal_starts_again(runs_dir: Path, beside: Path):
    folder = interrupted(runs_dir, after=3)
    (folder.journal / "0001.jsonl").unlink()
    trial.run(folder)
    assert starts(folder) == [0]
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_checkpoint_that_outlived_its_result_is_no_new_attempt_and_does_not_stay(runs_dir: Path):
    folder = interrupted(runs_dir, after=3)
    kept = folder.checkpoint.read_bytes()
    result = trial.run(folder)
    folder.checkpoint.write_bytes(kept)
    assert trial.run(folder) == result
    assert not folder.checkpoint.exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, STEPS])
def test_an_attempt_that_was_superseded_replaces_nothing(runs_dir: Path, beside: Path, at: int):
    folder = interrupted(runs_dir, after=2)
    kept = folder.checkpoint.read_bytes()
    steps = iter(range(3, STEPS + 1))

    def taken_over() -> bool:
        """Another host without this one's locks begins the third attempt."""
        if next(steps) == at:
            (folder.journal / "0003.jsonl").write_text(
                '{"format":1,"attempt":3,"from":2,"time":0.0,"host":"elsewhere"}\n'
            )
            return at < STEPS
        return False

    with pytest.raises(Superseded, match="attempt 3 has taken over from attempt 2"):
        trial.run(folder, taken_over)
    assert folder.checkpoint.read_bytes() == kept
    assert folder.result() is None
    assert not (folder.path / "model.pt").exists()
    assert journal.read(folder.journal).attempts[1].end == "superseded"
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_checkpoints_are_written_as_often_as_asked(runs_dir: Path, beside: Path):
    often, seldom = made(runs_dir, *KEPT, EVERY_STEP), made(runs_dir, *KEPT, "seed=1")
    trial.run(often)
    trial.run(seldom)
    saves = [folder.journal.joinpath("0001.jsonl").read_text().count('"saved"') for folder in (often, seldom)]
    assert saves == [STEPS, 1]
    assert outcome(often) == undisturbed(beside, *KEPT)
