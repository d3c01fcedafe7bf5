"""What the program keeps on disk: whole, locked, of a known format; and a record that is not so claims nothing."""

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hand_made
from onecycle_sweeps import files, report, sweep, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.files import Damaged, UnknownFormat
from onecycle_sweeps.journal import Journal
from onecycle_sweeps.launching import commands, places, rehearsal
from onecycle_sweeps.launching.rehearsal import Rehearsals
from onecycle_sweeps.launching.session import Session
from onecycle_sweeps.loop import Totals
from onecycle_sweeps.outcome import look
from onecycle_sweeps.trial import train
from onecycle_sweeps.trial_folder import Busy, EarlierVersion, Superseded, TrialFolder
from program import run, with_store
from real_trials import SHORT as QUICK
from real_trials import made, outcome, request, undisturbed

KEPT = (*QUICK, "save_model=true")
VERSION_0 = Path(__file__).parent / "golden" / "version_0"
FILES = ("result.json", "resolved.json", "config.yaml", "journal/0001.jsonl")
FOREIGN = {"config.yaml": "format: 7\ntask: train\n"}


@pytest.fixture
def pair(tmp_path: Path) -> sweep.Sweep:
    """Two policies with two seeds each, all of which reached their target."""
    entries = [hand_made.entry(f"{p}{s}", p, s, target=0.5) for p in ("constant", "onecycle") for s in range(2)]
    whole = hand_made.sweep(tmp_path, *entries)
    for seed, one in enumerate(entries):
        hand_made.training(whole.trial(one.signature), accuracy={4: 0.9 + seed / 100})
    return whole


def launched(runs_dir: Path) -> list[str]:
    """The signatures of the trials that a command has still to run."""
    asked = request(runs_dir, *KEPT)
    session = Session(asked.config, Rehearsals(rehearsal.here), single=True, ships=False)
    seen: list[str] = []

    def note(whole: sweep.Sweep, todo: Any):
        seen.extend(entry.signature for entry in todo)
        yield from ()

    session.launch([asked], note)
    return seen


def test_trials_without_their_journals_are_no_trials_that_never_arrived(pair: sweep.Sweep):
    for signature in ("onecycle0", "onecycle1"):
        os.truncate(pair.trial(signature).journal / "0001.jsonl", 0)
    comparison = report.compare(pair)
    assert "never reached" not in " ".join(report.remarks(comparison))
    assert [name.partition(" ")[0] for name, _ in comparison.failures] == ["onecycle", "onecycle"]
    assert all("journal" in cause for _, cause in comparison.failures)
    assert comparison.claims.claims[0].difference is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 7}', "\0" * 40])
def test_a_record_that_cannot_be_used_is_named_and_the_rest_goes_on(pair: sweep.Sweep, name: str, content: str):
    path = pair.trial("onecycle1").path / name
    path.write_text(FOREIGN.get(name, content) if "7" in content else content)
    outcomes = {outcome.entry.signature: outcome for outcome in report.read(pair)}
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        **dict.fromkeys(("constant0", "constant1", "onecycle0"), "finished"),
        "onecycle1": "lost",
    }
    assert str(path.parent) in str(outcomes["onecycle1"].cause)
    assert report.compare(pair, tuple(outcomes.values())).claims.claims[0].difference is not None


@pytest.mark.parametrize("name", ["config.yaml", "resolved.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "\0" * 40, "[" * 100_000])
def test_a_finished_trial_is_lost_to_every_verb_where_a_record_is_gone_or_damaged(
    pair: sweep.Sweep, name: str, content: str | None
):
    folder = pair.trial("onecycle1")
    assert folder.state().status == "finished"
    (folder.path / name).unlink()
    if content is not None:
        (folder.path / name).write_text(content)
    stands = folder.state()
    assert stands.status == look(pair.trials[0], folder).status == "lost" and stands.is_unreadable
    assert str(folder.path / name) in str(stands.cause)
    assert (folder.unusable() is None) == (name == "config.yaml"), "the sweep's command writes a config again"


@pytest.mark.parametrize("name", ["failure.json", "job.json"])
def test_what_a_trial_goes_on_without_is_put_aside_alone(runs_dir: Path, name: str, capfd: pytest.CaptureFixture[str]):
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


def test_a_keyboard_interrupt_that_no_signal_has_raised_is_a_mistake_of_the_users_code(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
):
    session: Any = SimpleNamespace(close=lambda: None, sweep=None)
    before = signal.getsignal(signal.SIGINT)
    said: list[Any] = []
    with pytest.raises(SystemExit) as left, commands._ending_in_a_line(), commands._interruptible(session, said.append):
        raise KeyboardInterrupt
    assert left.value.code == 2 and "test_records.py" in capsys.readouterr().err and said == []
    with pytest.raises(SystemExit) as left, commands._ending_in_a_line(), commands._interruptible(session, said.append):
        signal.raise_signal(signal.SIGINT)
    assert left.value.code == 130 and said == [None]
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("key", ["train/loss", "val/accuracy"])
def test_a_line_that_is_gone_from_a_journal_is_missed(pair: sweep.Sweep, key: str):
    path = pair.trial("onecycle1").journal / "0001.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if key not in line))
    assert [outcome.status for outcome in report.read(pair)][-1] == "lost"


def test_a_journal_of_another_format_is_no_damage(pair: sweep.Sweep):
    path = pair.trial("onecycle1").journal / "0001.jsonl"
    path.write_text(path.read_text().replace('{"format":1', '{"format":7', 1))
    assert isinstance(pair.trial("onecycle1").unusable(), UnknownFormat)
    assert "format 7" in str(pair.trial("onecycle1").state().cause)


@pytest.mark.parametrize("content", ["", '{"format": 7}', '{"format": 1, "trials": 3}'])
def test_the_latest_sweep_that_can_be_read_is_found(pair: sweep.Sweep, content: str):
    other = pair.folder.with_name("0ther")
    other.mkdir()
    files.write(other / "sweep.json", content)
    told: list[str] = []
    assert sweep.find(pair.runs_dir, None, told.append).id == pair.id
    assert len(told) == 1 and str(other) in told[0]
    with pytest.raises(files.Unreadable, match="0ther"):
        sweep.find(pair.runs_dir, "0ther")


def test_what_was_recorded_before_there_were_formats_is_shown_and_not_reused(tmp_path: Path):
    shutil.copytree(VERSION_0, tmp_path / "runs")
    whole = sweep.find(tmp_path / "runs")
    assert [round(outcome.metrics["final/val_accuracy"], 3) for outcome in report.read(whole)] == [0.875, 0.794]
    assert report.compare(whole).claims.claims
    assert all(isinstance(whole.trial(entry.signature).unusable(), EarlierVersion) for entry in whole.trials)
    with pytest.raises(trial.TrialFailed, match="earlier version"):
        trial.run(whole.trial(whole.trials[0].signature))


@pytest.mark.parametrize("spoil", ["format", "empty"])
def test_a_result_that_cannot_be_reused_is_made_again_and_that_is_said(
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


def test_writers_of_one_file_that_share_a_pid_neither_tear_nor_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path, failed = tmp_path / "file.json", []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                files.write_json(path, {"text": str(number) * 5000})
                assert files.read_json(path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == [] and [each.name for each in tmp_path.iterdir()] == ["file.json"]


def test_a_lock_on_a_file_that_lost_its_name_is_no_lock(tmp_path: Path):
    folder = TrialFolder(tmp_path)
    with folder.lock():
        assert folder.is_locked()
        folder.break_lock()
        assert not folder.is_locked()
        with folder.lock():
            with pytest.raises(Busy), folder.lock():
                pass
            assert folder.is_locked()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_place_without_locks_is_refused_in_one_line(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    asked = request(runs_dir, *KEPT)
    session = Session(asked.config, Rehearsals(rehearsal.here), single=True, ships=False)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(files.NoLocks, match="runs_dir"):
        files.lock(runs_dir / "lock")
    assert places.runs_dir(runs_dir, on_nodes=False).word == "FAILS"
    with pytest.raises(ConfigError, match="cannot be locked"):
        session.launch([asked], lambda *_: iter(()))  # pyright: ignore[reportArgumentType]


def test_an_attempt_that_is_overtaken_between_its_check_and_its_rename_replaces_nothing(tmp_path: Path):
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


def test_a_disk_that_fills_after_the_result_costs_nothing(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    folder = made(runs_dir, *KEPT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for owner, name in ((Journal, "saved"), (Journal, "end"), (TrialFolder, "remove")):
        monkeypatch.setattr(owner, name, full if name != "remove" else lambda *_: None)
    monkeypatch.setattr(train, "save", full)
    assert trial.run(folder)["status"] == "finished"
    assert folder.state().status == "finished" and folder.failure() is None


def test_only_the_generator_of_the_trials_own_gpu_is_saved_and_restored(monkeypatch: pytest.MonkeyPatch):
    mine, other = torch.device("cuda:1"), torch.get_rng_state()
    restored: list[tuple[Any, Any]] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: restored.append((value, device)))
    learner: Any = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        data=SimpleNamespace(device=mine, check=lambda: None),
    )
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
    saved: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: other if device == mine else None)
    monkeypatch.setattr(files, "with_format", lambda data: saved.update(data) or data)
    nothing = SimpleNamespace(sync=lambda: None, saved=lambda step: None, put=lambda *_: None)
    attempt: Any = SimpleNamespace(journal=nothing, trial=nothing, number=1)
    train.save(attempt, learner, train.TrainingState(train.DivergenceCheck(5), Totals()))
    train.restore(learner, saved)
    assert [device for _, device in restored] == [mine] and torch.equal(restored[0][0], other)


def test_a_terminal_and_a_locale_of_ascii_are_enough(tmp_path: Path):
    folder = tmp_path / "caf\u00e9"
    folder.mkdir()
    with_store(tmp_path).joinpath("mlflow.db").rename(folder / "mlflow.db")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    asked = ("policy=constant", "max_lr=0.1", "epochs=1", "seed=0,1", "-m")
    done = run(folder, *asked, **plain)
    assert done.returncode == 0, done.stderr
    assert "+-" in done.stdout
    assert run(folder, "report", **plain).returncode == 0


def test_damage_is_what_no_version_writes(tmp_path: Path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Damaged, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")
