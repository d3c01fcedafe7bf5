"""A trial whose code fails says why in one line, and goes on once the code is mended."""

from pathlib import Path

import pytest

import users_code
from onecycle_sweeps import journal, trial
from onecycle_sweeps.trial import TrialFailed
from real_trials import SHORT, made


@pytest.mark.parametrize(
    ("override", "cause"),
    [
        (
            "model._target_=users_code.Impossible",
            r"RuntimeError: no room for 10 classes \(users_code.py:\d+ in __init__\)",
        ),
        ("optimizer._target_=users_code.Sulking", r"ArithmeticError: not today \(users_code.py:\d+ in step\)"),
        ("model.channels=[]", r"channels must name .* got \[\]"),
    ],
)
def test_a_trial_whose_code_fails_says_why_in_one_line(runs_dir: Path, override: str, cause: str):
    folder = made(runs_dir, *SHORT, override)
    with pytest.raises(TrialFailed, match=f"^{cause}$") as raised:
        trial.run(folder)
    failure = folder.failure()
    assert failure is not None
    assert (failure["cause"], failure["attempt"]) == (str(raised.value), 1)
    assert folder.result() is None
    attempt = journal.read(folder.journal).attempts[-1]
    assert (attempt.end, attempt.cause) == ("failed", str(raised.value))
    assert "Traceback" in folder.log.read_text()


def test_a_trial_that_failed_goes_on_from_its_checkpoint_once_its_code_is_mended(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def break_in_the_seventh_pass(passes: int) -> None:
        if passes == 7:
            raise RuntimeError("a stroke of bad luck")

    monkeypatch.setattr(users_code, "in_training", [break_in_the_seventh_pass])
    model = ("~model", "+model={_target_: users_code.WithDropout}")
    folder = made(runs_dir, *SHORT, *model, "checkpoint_minutes=1e-9")
    with pytest.raises(TrialFailed, match="a stroke of bad luck"):
        trial.run(folder)
    monkeypatch.setattr(users_code, "in_training", [])
    result = trial.run(folder)
    assert (result["status"], result["attempt"]) == ("finished", 2)
    assert [attempt.start for attempt in journal.read(folder.journal).attempts] == [0, 6]
    assert folder.failure() is None
