"""`resume` goes on with the sweep as it was recorded: not with what its command would ask for today."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hand_made
from onecycle_sweeps import cli
from onecycle_sweeps.config import paths, schema
from onecycle_sweeps.launching import commands, conclusion
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.sweep import Sweep
from program import QUICK, planned, sweep_of, with_store
from recorded import attempt, finish

LOCAL = {"workers": 1, "jobs_per_gpu": 1}
SLURM = {"timeout_min": 60, "partition": "long", "wait": True}


@pytest.fixture
def taken_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sweep, Any]]:
    """What is resumed and by which launcher; nothing is run."""
    found: list[tuple[Sweep, Any]] = []

    def resume(which: Sweep, launcher: Mapping[str, Any] | None, _: Path) -> int:
        found.append((which, launcher))
        return 0

    monkeypatch.setattr(commands, "resume", resume)
    return found


def waiting(folder: Path, *, typed: str = "", launcher: Mapping[str, Any] | None = None, **rest: Any) -> Sweep:
    """Two trials of a sweep that wait; `typed` are the words of its command."""
    folder.mkdir(exist_ok=True)
    made, _ = planned(folder, *([*QUICK, "policy=step", "policy.gamma=0.5", f"seed={seed}"] for seed in (0, 1)))
    command = tuple(typed.split()) or (*QUICK, "policy=step", "policy.gamma=0.5", "seed=0,1", "-m")
    made = replace(made, command=command, launcher=dict(launcher or LOCAL), **rest)
    made.save()
    return made


@pytest.mark.slow
def test_it_trains_what_was_asked_for_in_the_folder_that_the_sweep_was_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path / "old", typed=f"{' '.join(QUICK)} policy=step policy.gamma=0.2 seed=0,1,2 rerun=true -m")
    done = made.trial(made.trials[0].signature)
    attempt(done, 0, 11, end="finished", config=done.config())
    finish(done, metrics={"final/val_accuracy": 0.5, "final/val_loss": 1.0, "seconds": 1.0}, steps=11)
    shutil.move(tmp_path / "old", tmp_path / "new")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = f"runs_dir={tmp_path}/new/runs"
    assert cli.main(["resume", moved]) == 2
    assert str(tmp_path / "old" / "mlflow.db") in capsys.readouterr().err
    with_store(tmp_path / "new")
    assert cli.main(["resume", moved, f"tracking.uri=sqlite:///{tmp_path}/new/mlflow.db"]) == 0
    said = capsys.readouterr()
    assert "policy.gamma=0.2 where the sweep has 0.5" in said.err
    assert "3 trials where the sweep has 2" in said.err
    assert f" report {made.id} {moved}" in said.out, "it is typed in another folder than the sweep's"
    now = sweep_of(tmp_path / "new")
    assert [entry.signature for entry in now.trials] == [entry.signature for entry in made.trials]
    assert {now.trial(entry.signature).config()["policy"]["gamma"] for entry in now.trials} == {0.5}
    assert [now.trial(entry.signature).attempts() for entry in now.trials] == [1, 1]
    assert (now.trial(now.trials[0].signature).result() or {})["steps"] == 11, "what had finished is kept"
    assert now.cwd == str(tmp_path / "new")
    assert not (tmp_path / "old").exists()


def test_the_commands_that_it_suggests_find_the_sweep_from_the_folder_that_it_was_typed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path / "project")
    with_store(tmp_path / "project")
    typed_in: list[Path] = []
    monkeypatch.setattr(commands, "resume", lambda which, launcher, folder: typed_in.append(folder) or 0)
    for folder, told in ((tmp_path, f" runs_dir={made.runs_dir}"), (tmp_path / "project", "")):
        monkeypatch.chdir(folder)
        assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
        assert Path.cwd() == Path(made.cwd), "resume goes on in the folder of the sweep"
        conclusion.say_how_to_resume(made, typed_in[-1])
        assert capsys.readouterr().out.endswith(f" resume {made.id}{told}\n")


def test_it_says_nothing_where_nothing_differs(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path)
    with_store(tmp_path)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert capsys.readouterr().err == ""
    assert taken_up == [(made, LOCAL)]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("policy=gone seed=0,1 -m", "cannot be composed"),
        ("--config-dir nowhere seed=0,1 -m", "cannot be composed"),
        ("seed=0,1,2 max_lr=0.1 epochs=1 policy=step policy.gamma=0.5 -m", "3 trials where the sweep has 2"),
        ("seed=0,1 max_lr=0.1 epochs=2 policy=step -m", "epochs=2 where the sweep has 1"),
    ],
)
def test_it_says_what_differs_today(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], typed: str, said: str, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path, typed=typed)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert taken_up == [(made, LOCAL)]


@pytest.mark.parametrize(
    ("recorded", "typed", "launcher"),
    [
        (SLURM, [], SLURM),
        (SLURM, ["hydra.launcher.timeout_min=90"], SLURM | {"timeout_min": 90}),
        (SLURM, ["hydra/launcher=local"], {"workers": "auto", "jobs_per_gpu": 1}),
        (LOCAL, ["hydra.launcher.workers=3"], LOCAL | {"workers": 3}),
    ],
)
def test_it_runs_where_the_sweep_ran_but_for_what_is_typed(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], recorded: Any, typed: list[str], launcher: Any
):
    made = waiting(tmp_path, launcher=recorded)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}", *typed]) == 0
    assert taken_up[0][1].items() >= launcher.items()


def test_a_key_that_the_launcher_did_not_have_when_the_sweep_was_recorded_gets_its_default(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]]
):
    made = waiting(tmp_path, launcher={key: value for key, value in SLURM.items() if key != "qos"})
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    settings = taken_up[0][1]
    assert settings["qos"] is None
    schema.check_launcher(settings, options.KEYS)


def test_a_sweep_recorded_without_its_launcher_has_that_of_its_command(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]]
):
    made = waiting(tmp_path, typed="hydra.launcher.workers=2 max_lr=0.1 epochs=1 policy=step seed=0,1 -m")
    told = json.loads((made.folder / "sweep.json").read_text())
    del told["launcher"], told["sequential"]
    (made.folder / "sweep.json").write_text(json.dumps(told))
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert taken_up[0][1] == {"workers": 2, "jobs_per_gpu": 1}


@pytest.mark.parametrize(
    ("typed", "word"), [("epochs=3", "epochs"), ("policy=clr", "policy"), ("+rerun=true", "rerun"), ("seed=1", "seed")]
)
def test_it_takes_nothing_that_would_make_other_trials(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], typed: str, word: str, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path)
    typed = typed.lstrip("+")
    assert cli.main(["resume", f"runs_dir={made.runs_dir}", typed]) == 2
    assert f"which {word}=" in capsys.readouterr().err
    assert not taken_up


def test_a_search_goes_no_further_and_that_is_said(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path, sequential=True)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert "sweeper" in capsys.readouterr().err
    assert taken_up


@pytest.mark.parametrize("content", [None, "", "format: 7\n"])
def test_a_trial_without_its_config_is_named(
    tmp_path: Path, content: str | None, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path)
    path = made.trial(made.trials[1].signature).path / "config.yaml"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 2
    assert str(path) in capsys.readouterr().err
    assert not taken_up


def test_what_was_moved_with_the_sweep_is_found_in_its_new_place(tmp_path: Path):
    before, now = tmp_path / "before", tmp_path / "now"
    (now / "data").mkdir(parents=True)
    config = {"runs_dir": "runs", "data": {"root": f"{before}/data"}, "model": {"weights_file": f"{before}/w.pt"}}
    found = paths.moved(config, before, now)
    assert found["data"]["root"] == f"{now}/data"
    assert found["model"]["weights_file"] == f"{before}/w.pt", "it is in neither place"
    assert config["data"]["root"] == f"{before}/data"


@pytest.mark.parametrize("verb", ["sync", "ui", "resume"])
def test_a_database_that_is_gone_is_named_and_not_made_again(
    tmp_path: Path, verb: str, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = hand_made.sweep(tmp_path)
    gone = tmp_path / "gone" / "mlflow.db"
    replace(made, tracking_uri=f"sqlite:///{gone}").save()
    (tmp_path / "mlflow.db").write_bytes(b"")
    assert cli.main([verb, f"runs_dir={made.runs_dir}"]) == 2
    line = capsys.readouterr().err
    assert str(gone) in line and f"tracking.uri=sqlite:///{tmp_path}/mlflow.db" in line
    assert not gone.parent.exists()
    gone.parent.mkdir()
    known = {f"sqlite:///{gone}": {"onecycle_sweeps": {"token": "t", "experiment": "1"}}}
    replace(made, tracking_uri=f"sqlite:///{gone}", experiment="onecycle_sweeps").save()
    (made.folder / "tracking.json").write_text(json.dumps(known))
    assert cli.main([verb, f"runs_dir={made.runs_dir}"]) == 2
    assert str(gone) in capsys.readouterr().err
