"""A trial's state follows from its records; an unusable record is named, and nothing is claimed or reused from it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hand_made
from onecycle_sweeps import journal, report, sweep, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import UnknownFormat
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.preflight import Preflight
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.outcome import look
from onecycle_sweeps.progress import Progress
from onecycle_sweeps.trial_folder import Busy, EarlierVersion, Superseded, TrialFolder, TrialState
from real_trials import SHORT as QUICK
from real_trials import made, outcome, request, undisturbed

KEPT = (*QUICK, "save_model=true")
VERSION_0 = Path(__file__).parent / "golden" / "version_0"
FILES = ("result.json", "resolved.json", "config.yaml", "journal/0001.jsonl")
FOREIGN = {"config.yaml": "format: 7\ntask: train\n"}


@pytest.fixture
def pair(tmp_path: Path) -> sweep.Sweep:
    return hand_made.two_policies(tmp_path)


def launched(runs_dir: Path) -> list[str]:
    """The signatures of the trials that a command has still to run."""
    asked = request(runs_dir, *KEPT)
    session = Session(asked.config, Preflight(preflight.in_this_process), single=True, ships=False)
    seen: list[str] = []

    def note(whole: sweep.Sweep, todo: Any):
        seen.extend(entry.signature for entry in todo)
        yield from ()

    session.launch([asked], note)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    made = TrialFolder(tmp_path / "runs" / "trial")
    made.create({"task": "train"})
    return made


def attempt(folder: TrialFolder, end: str | None = None, cause: str | None = None) -> None:
    book = Journal(folder.journal, folder.attempts() + 1, 0)
    if end:
        book.end(end, cause)


def test_a_trial_without_an_attempt_is_waiting(folder: TrialFolder):
    assert folder.state() == TrialState("waiting")


def test_a_trial_that_stopped_after_a_checkpoint_is_waiting_and_says_where(folder: TrialFolder):
    attempt(folder, "stopped", "saved at step 3 of 10")
    assert folder.state() == TrialState("waiting", "saved at step 3 of 10")


def test_a_locked_trial_is_running(folder: TrialFolder):
    attempt(folder, "failed", "a bug")
    with folder.lock():
        assert folder.state() == TrialState("running")
    assert folder.state() == TrialState("failed", "a bug")


def test_a_trial_with_a_result_has_the_status_of_its_result(folder: TrialFolder):
    folder.write("failure", {"cause": "an older attempt's", "attempt": 1, "time": 0.0})
    Journal(folder.journal, 1, 0).end("diverged")
    folder.write("resolved", {"max_lr": 0.1, "total_steps": 10})
    folder.write("result", hand_made.a_result(status="diverged", cause="the loss is nan at step 3"))
    with folder.lock():
        assert folder.state() == TrialState("diverged", "the loss is nan at step 3")


def test_a_failed_trial_tells_the_cause(folder: TrialFolder):
    attempt(folder)
    folder.write("failure", {"cause": "out of luck", "attempt": 1, "time": 0.0})
    assert folder.state() == TrialState("failed", "out of luck")


def test_a_trial_whose_attempt_did_not_end_is_lost(folder: TrialFolder):
    attempt(folder, "stopped")
    attempt(folder)
    lost = folder.state()
    assert lost.status == "lost"
    assert lost.cause is not None
    assert lost.cause.startswith("attempt 2 on ")
    assert lost.cause.endswith(" ended without recording a result or a reason")


def test_following_a_trial_reads_what_its_journal_has_gained_and_sees_what_a_fresh_look_sees(
    folder: TrialFolder, monkeypatch: pytest.MonkeyPatch
):
    follower = folder.follower()
    assert follower.progress() is None
    folder.write("resolved", {"max_lr": 0.1, "total_steps": 10**6})
    book = Journal(folder.journal, 1, 0)
    book.append(0, {"schedule/lr": [0.1] * 10_000, "train/loss": [2.0] * 10_000})
    book.append(9_999, {"val/accuracy": [0.5]})
    for step in range(10_000, 90_000, 10_000):
        book.append(step, {"schedule/lr": [0.1] * 10_000, "train/loss": [2.0] * 10_000})
    assert follower.progress() == folder.progress()
    size = book.path.stat().st_size
    book.append(90_000, {"schedule/lr": [0.1], "train/loss": [1.5]})
    fresh = folder.progress()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_last_lines", lambda *_: pytest.fail("the whole file was searched"))
        before = bytes_read()
        seen = follower.progress()
        assert bytes_read() - before < 4096 < size / 100
    assert seen is not None and seen == fresh
    assert (seen.step, seen.loss, seen.val) == (90_000, 1.5, 0.5)
    # Half of a line is read once it is whole.
    line = b'{"time":1.0,"step":90001,"metrics":{"schedule/lr":[0.2],"train/loss":[1.25]}}\n'
    with book.path.open("ab") as file:
        file.write(line[:30])
        file.flush()
        assert follower.progress() == seen
        file.write(line[30:])
    book.append(90_001, {"val/accuracy": [0.75]})
    seen = follower.progress()
    assert seen is not None and (seen.loss, seen.val) == (1.25, 0.75)
    second = Journal(folder.journal, 2, 90_000)
    assert follower.progress() is None
    second.append(90_000, {"schedule/lr": [0.3], "train/loss": [1.0]})
    assert follower.progress() == folder.progress() != seen


def bytes_read() -> int:
    """How much this process has read so far."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_progress_is_the_last_step_in_the_journal(folder: TrialFolder):
    assert folder.progress() is None
    folder.write("resolved", {"max_lr": 0.1, "total_steps": 100})
    book = Journal(folder.journal, 1, 20)
    assert folder.progress() is None
    book.append(20, {"schedule/lr": [0.1, 0.2], "train/loss": [2.0, 1.5]})
    book.append(21, {"val/loss": [1.0], "val/accuracy": [0.5]})
    seen = folder.progress()
    assert seen is not None
    assert (seen.step, seen.total_steps, seen.lr, seen.loss, seen.first_step) == (21, 100, 0.2, 1.5, 20)


def test_the_time_left_follows_the_pace_of_this_attempt():
    done = Progress(step=29, total_steps=100, lr=0.1, loss=1.0, started=1000.0, first_step=20, time=1005.0)
    assert done.seconds_left == pytest.approx(0.5 * 70)
    assert replace(done, time=1000.0).seconds_left is None
    assert replace(done, step=99).seconds_left == 0


def test_trials_without_journals_are_failures_and_do_not_miss_the_target(pair: sweep.Sweep):
    for signature in ("onecycle0", "onecycle1"):
        os.truncate(pair.trial(signature).journal / "0001.jsonl", 0)
    comparison = report.compare(pair)
    assert "never reached" not in " ".join(report.remarks(comparison))
    assert [name.partition(" ")[0] for name, _ in comparison.failures] == ["onecycle", "onecycle"]
    assert all("journal" in cause for _, cause in comparison.failures)
    assert comparison.claims.claims[0].difference is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 7}', "\0" * 40])
def test_an_unusable_record_is_named_and_the_other_trials_are_reported(pair: sweep.Sweep, name: str, content: str):
    path = pair.trial("onecycle1").path / name
    path.write_text(FOREIGN.get(name, content) if "7" in content else content)
    outcomes = {outcome.entry.signature: outcome for outcome in report.compare(pair).outcomes}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        **dict.fromkeys(("constant0", "constant1", "onecycle0"), "finished"),
        "onecycle1": "lost",
    }
    assert str(path.parent) in str(outcomes["onecycle1"].cause)
    assert report.compare(pair).claims.claims[0].difference is not None


@pytest.mark.parametrize("name", ["config.yaml", "resolved.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "\0" * 40, "[" * 100_000])
def test_a_finished_trial_with_a_missing_or_damaged_record_is_lost(pair: sweep.Sweep, name: str, content: str | None):
    folder = pair.trial("onecycle1")
    assert folder.state().status == "finished"
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_text(content)
    stands = folder.state()
    assert stands.status == look(pair.trials[0], folder).status == "lost" and stands.is_unreadable
    assert str(folder.path / name) in str(stands.cause)
    assert (folder.unusable() is None) == (name == "config.yaml"), "the sweep's command writes a config again"


@pytest.mark.parametrize(("before", "after"), [("steps", "st\0ps"), ("- 2", "- 3"), ("", "cut")])
def test_a_config_that_is_damaged_in_its_middle_is_noticed_also_where_it_can_be_parsed(
    tmp_path: Path, before: str, after: str
):
    folder = TrialFolder(tmp_path / "a")
    folder.create({"task": "train", "deeper": [1, 2], "policy": {"_target_": "x", "steps": 30}, "last": 1})
    path = folder.path / "config.yaml"
    assert folder.state().status == "waiting"
    whole = path.read_text()
    path.write_text(whole.replace(before, after) if before else "".join(whole.splitlines(keepends=True)[:-1]))
    stands = folder.state()
    assert stands.status == "lost" and stands.is_unreadable
    assert str(path) in str(stands.cause)
    folder.write_config({"task": "train"})
    assert folder.state().status == "waiting"


@pytest.mark.parametrize("name", ["failure.json", "job.json"])
def test_of_a_trials_files_only_the_damaged_replaceable_one_is_set_aside(
    runs_dir: Path, name: str, capfd: pytest.CaptureFixture[str]
):
    folder = made(runs_dir, *KEPT)
    (folder.path / name).write_text("{")
    folder.checkpoint.write_text("kept")
    assert str(folder.path / name) in str(folder.state().cause)
    assert launched(runs_dir) == [folder.signature]
    assert str(folder.path / name) in capfd.readouterr().err
    assert folder.checkpoint.read_text() == "kept"
    assert not (folder.path / name).exists() and len(list(folder.path.glob(f"before-*/{name}"))) == 1
    assert folder.state().status == "waiting"


@pytest.mark.parametrize("name", ["sweep.json", "config.yaml"])
def test_a_record_of_a_later_version_is_not_overwritten(runs_dir: Path, name: str, capfd: pytest.CaptureFixture[str]):
    folder = made(runs_dir, *KEPT)
    launched(runs_dir)
    path = next(runs_dir.glob("sweeps/*/sweep.json")) if name == "sweep.json" else folder.path / name
    later = path.read_text().replace("format: 1", "format: 7").replace('"format": 1', '"format": 7')
    path.write_text(later)
    if name == "sweep.json":
        with pytest.raises(ConfigError, match="format 7"):
            launched(runs_dir)
    else:
        assert launched(runs_dir) == []
        assert "format 7" in capfd.readouterr().err
    assert path.read_text() == later


@pytest.mark.parametrize("key", ["train/loss", "val/accuracy"])
def test_a_trial_whose_journal_lacks_a_line_is_lost(pair: sweep.Sweep, key: str):
    path = pair.trial("onecycle1").journal / "0001.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if key not in line))
    assert [outcome.status for outcome in report.compare(pair).outcomes][-1] == "lost"


@pytest.mark.parametrize(
    ("field", "edited"),
    [("status", "done"), ("metrics", {}), *(("metrics", {"final/val_accuracy": value}) for value in (None, "0.9"))],
)
def test_a_trial_whose_result_was_edited_into_none_is_lost(pair: sweep.Sweep, field: str, edited: Any):
    path = pair.trial("onecycle1").path / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: edited}))
    outcome = report.compare(pair).outcomes[-1]
    assert outcome.status == "lost" and str(path) in str(outcome.cause)


def test_a_journal_of_an_unknown_format_is_not_called_damaged(pair: sweep.Sweep):
    path = pair.trial("onecycle1").journal / "0001.jsonl"
    path.write_text(path.read_text().replace('{"format":1', '{"format":7', 1))
    assert isinstance(pair.trial("onecycle1").unusable(), UnknownFormat)
    assert "format 7" in str(pair.trial("onecycle1").state().cause)


def test_records_without_a_format_are_shown_and_not_reused(tmp_path: Path):
    shutil.copytree(VERSION_0, tmp_path / "runs")
    whole = sweep.find(tmp_path / "runs")
    comparison = report.compare(whole)
    assert [round(outcome.metrics["final/val_accuracy"], 3) for outcome in comparison.outcomes] == [0.875, 0.794]
    assert comparison.claims.claims
    assert all(isinstance(whole.trial(entry.signature).unusable(), EarlierVersion) for entry in whole.trials)
    with pytest.raises(trial.TrialFailed, match="earlier version"):
        trial.run(whole.trial(whole.trials[0].signature))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["format", "empty"])
def test_a_result_that_cannot_be_reused_is_made_again_with_a_remark(
    runs_dir: Path, beside: Path, capfd: pytest.CaptureFixture[str], spoil: str
):
    folder = made(runs_dir, *KEPT)
    trial.run(folder)
    path = folder.path / "result.json"
    told = json.loads(path.read_text())
    assert told.pop("format") == 1
    path.write_text(json.dumps(told) if spoil == "format" else "")
    assert launched(runs_dir) == [folder.signature]
    assert folder.result() is None and folder.attempts() == 0
    assert ("earlier version" if spoil == "format" else str(path)) in capfd.readouterr().err
    trial.run(folder)
    assert outcome(folder) == undisturbed(beside, *KEPT)


def test_a_lock_whose_file_was_removed_locks_nothing(tmp_path: Path):
    folder = TrialFolder(tmp_path)
    with folder.lock():
        assert folder.is_locked()
        folder.break_lock()
        assert not folder.is_locked()
        with folder.lock():
            with pytest.raises(Busy), folder.lock():
                pass
            assert folder.is_locked()


def test_an_attempt_superseded_between_its_check_and_its_rename_replaces_nothing(tmp_path: Path):
    folder = TrialFolder(tmp_path)
    folder.create({})
    Journal(folder.journal, 1, 0)
    folder.put("checkpoint.pt", "kept", 1)
    check = folder.check_current

    def overtaken(attempt: int) -> None:
        check(attempt)
        if folder.attempts() == 1:
            Journal(folder.journal, 2)
            folder.remove_temporary()

    folder.check_current = overtaken
    with pytest.raises(Superseded):
        folder.put("checkpoint.pt", "late", 1)
    assert folder.checkpoint.read_text() == "kept"
