"""The verbs on recorded sweeps, and what `resume` reads from their records; most run in-process."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hand_made
from onecycle_sweeps import cli, command_line, report, usage
from onecycle_sweeps.config import paths, schema
from onecycle_sweeps.launching import commands, session
from onecycle_sweeps.launching.slurm import options
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.terminal import invocation
from program import (
    QUICK,
    ask,
    planned,
    points,
    recorded_points,
    run,
    runs_of,
    start,
    sweep_of,
    trials,
    wait_until,
    with_store,
)
from recorded import attempt, finish


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep 5weeb1d0 in the working folder, with trials of every status."""
    monkeypatch.chdir(tmp_path)
    return hand_made.mixed(tmp_path)


def rows(text: str) -> dict[str, str]:
    """The status of each trial by its name."""
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0].strip(): row[2].strip() for row in cells if len(row) >= 3}


def test_status_shows_the_status_of_each_trial(mixed: Sweep, capsys: pytest.CaptureFixture[str]):
    (waiting,) = [entry for entry in mixed.trials if entry.signature == "wsd0"]
    mixed.trial(waiting.signature).create({"task": "train"})
    with mixed.trial("wsd1").lock():
        assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == {
        "trial": "status",
        "range test": "finished",
        "clr max_lr=0.3 seed=0": "finished",
        "clr max_lr=0.3 seed=1": "diverged",
        "clr max_lr=0.3 seed=2": "failed",
        "onecycle max_lr=0.3 seed=0": "finished",
        "onecycle max_lr=0.3 seed=1": "finished",
        "onecycle max_lr=0.3 seed=2": "finished",
        "step max_lr=0.3 seed=0": "finished",
        "wsd seed=0": "waiting",
        "wsd max_lr=0.3 seed=1": "running",
    }
    assert "the disk is full" in out
    assert "sweep 5weeb1d0: 6 finished, 1 diverged, 1 failed, 1 waiting, 1 running" in out


@pytest.mark.slow
def test_report_writes_its_files_and_prints_the_table(mixed: Sweep, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report"]) == 0
    out = capsys.readouterr().out
    assert "failed: clr max_lr=0.3 seed=2: the disk is full" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("onecycle ", "step ", "clr "))]
    files = {path.name for path in mixed.report.iterdir()}
    assert files >= {"report.html", "trials.csv", "trajectories.png", "val_accuracy.png", "val_loss.png"}
    assert out.splitlines()[-1] == f"report (with {len(files) - 1} files beside it): {mixed.report / 'report.html'}"
    with (mixed.report / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(mixed.trials)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [[], ["5weeb1d0"], ["5wee"], ["runs/sweeps/5weeb1d0"], ["runs/sweeps/5weeb1d0/"], ["lr=0.1/5weeb1d0"]]
)
def test_a_sweep_is_the_latest_or_an_id_or_a_prefix_or_a_path(
    mixed: Sweep, name: list[str], capsys: pytest.CaptureFixture[str]
):
    Path("lr=0.1").symlink_to("runs/sweeps")
    assert cli.main(["status", *name, f"tracking.experiment={'long' * 80}"]) == 0
    assert "sweep 5weeb1d0" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_printed_all_the_same(mixed: Sweep, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(mixed.report, ignore_errors=True)
    mixed.report.write_text("")
    assert cli.main(["report"]) == 2
    printed = capsys.readouterr()
    assert "final val accuracy" in printed.out and str(mixed.report) in printed.err


def test_runs_dir_locates_sweeps(
    mixed: Sweep, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert cli.main(["status", f"runs_dir={mixed.runs_dir}"]) == 0
    assert cli.main(["status"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["stat"], "unknown verb 'stat'; did you mean status? The verbs are list, status, cancel, report, "),
        (["status", "nope"], "no sweep begins with nope in "),
        (["status", "5"], "several sweeps begin with 5: 5ecret, 5weeb1d0"),
        (["status", "5weeb1d0", "5ecret"], "status takes one sweep, got 2: 5weeb1d0 5ecret"),
        (["status", "runs_dri=x"], "unknown key runs_dri; did you mean runs_dir?"),
        (["report", "policy=nope"], "policy=nope: there is no such choice; the choices are clr, constant, "),
        (["sync", "+foo=1"], "unknown key foo"),
        (["status", "seed=0,1"], "seed=0,1 is several values: one is needed here"),
        (["cancel", "epochs=${nope}"], "epochs cannot be resolved: there is no key nope"),
        (["ui", "tracking.uri=http://me:hunter2@host:1"], "http://host:1 is an MLflow server"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    mixed: Sweep, typed: list[str], line: str, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(mixed.folder, mixed.folder.with_name("5ecret"))
    assert cli.main(typed) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"onecycle_sweeps: {line}")
    assert err.count("\n") == 1
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("verb", "takes"),
    [*((verb, "[SWEEP]") for verb in cli.VERBS), ("doctor", "[--probe]"), ("list", "[KEY=VALUE ...]")],
)
def test_each_verb_has_a_help_text(verb: str, takes: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {invocation()} {verb} {takes}")
    assert f"{invocation()} {verb}" in shown.partition("examples:")[2]
    assert cli.main(["help", verb]) == 0
    assert capsys.readouterr().out == shown


def test_the_programs_help_has_every_verb_and_every_choice_also_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "my" / "policy").mkdir(parents=True)
    (tmp_path / "my" / "policy" / "own_one.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert cli.show_help(["--config-dir", "my", "--help"]) == 0
    shown = capsys.readouterr().out
    choices = {path.stem for group in usage.GROUPS for path in (command_line.CONF / group).glob("*.yaml")}
    words = set(re.findall(r"[\w.-]+", shown))
    assert {*choices, "own_one", *cli.VERBS, "list", "doctor"} <= words


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("--help", True),
        ("policy=clr -h", True),
        ("help", True),
        ("help status", False),
        ("status --help", False),
        ("--hydra-help", False),
        ("policy=clr -m", False),
    ],
)
def test_help_is_the_programs_own_but_after_a_verb(typed: str, wanted: bool):
    assert command_line.asks_for_help(typed.split()) is wanted


def test_list_shows_the_sweeps_of_a_folder_the_latest_first_with_what_leads(
    mixed: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    earlier = replace(mixed, id="0ld", choices={"data": "digits", "model": "lenet"})
    earlier.save()
    os.utime(earlier.folder / "sweep.json", (1.0, 1.0))
    assert cli.main(["list"]) == 0
    latest, first = capsys.readouterr().out.splitlines()[2:]
    assert latest.split()[0] == mixed.id
    assert {"0ld", "digits", "lenet"} <= set(first.split())
    answer = report.compare(mixed).answer
    assert answer in latest and answer.replace("simple_cnn", "lenet") in first
    assert cli.main(["list", f"runs_dir={tmp_path}/none"]) == 0
    assert f"{tmp_path}/none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "verb"),
    [
        ("status", True),
        ("nope", True),
        ("a=b", False),
        ("-m", False),
        ("--help", False),
        ("+a=b", False),
        ("~a", False),
    ],
)
def test_a_first_argument_is_a_verb_unless_it_is_hydras(first: str, verb: bool):
    assert command_line.is_verb(first) is verb


def unused_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_sync_brings_a_sweep_whose_store_did_not_answer_to_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    uri = f"http://127.0.0.1:{unused_port()}"
    done = run(tmp_path, *QUICK, "seed=0,1", f"tracking.uri={uri}", "-m")
    made = sweep_of(tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^constant +0.1 +2/2 ", done.stdout, re.MULTILINE)
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("MLflow upload incomplete (")]
    assert f"the MLflow store {uri} cannot be used: " in told
    assert f"\n{invocation()} sync {made.id} tracking.uri={uri}\n" in done.stdout

    assert cli.main(["sync"]) == 2
    with_store(tmp_path)
    assert cli.main(["sync", "tracking.uri=sqlite:///mlflow.db", "tracking.experiment=later"]) == 0
    assert capsys.readouterr().out.startswith(f"sweep {made.id} is in MLflow: http://127.0.0.1:5000/#/experiments/")
    assert ask(tmp_path, "SELECT count(*) FROM experiments WHERE name = 'later'") == [(1,)]
    for signature, trial in trials(tmp_path).items():
        ((run_id, status, of),) = runs_of(tmp_path, signature)
        assert (status, of) == ("FINISHED", made.id)
        assert points(tmp_path, run_id) == recorded_points(trial)


@pytest.mark.slow
def test_ui_serves_on_this_machine_on_the_first_free_port_until_it_is_terminated(tmp_path: Path):
    with_store(tmp_path)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        except OSError:
            pass  # somebody else has it: all the same to this test
        with start(tmp_path, "ui") as server:
            assert server.stdout
            # The last line is the link alone, once it can be opened.
            address = next(line.strip() for line in server.stdout if line.startswith("http"))
            assert answers(address)
            assert int(address.removeprefix("http://127.0.0.1:")) > 5000
            wait_until(lambda: answers(address) or server.poll() is not None, f"{address} answers")
            assert answers(address)
            assert os.getpgid(server.pid) == server.pid
            server.terminate()
            server.communicate(timeout=30)
            assert not answers(address)
    alive = ["pgrep", "-g", str(server.pid)]
    wait_until(lambda: subprocess.run(alive, capture_output=True).returncode == 1, "its processes to end")


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as page:
            return page.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_suggested_commands_name_the_python_that_has_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invocation() == f"{sys.executable} -m onecycle_sweeps"
    (tmp_path / "python").symlink_to(sys.executable)
    assert invocation() == f"{sys.executable} -m onecycle_sweeps"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    (tmp_path / "python").unlink()
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    assert invocation() == "python -m onecycle_sweeps"


LOCAL = {"workers": 1, "jobs_per_gpu": 1, "packed": 1}
SLURM = {"timeout_min": 60, "partition": "long", "wait": True}


@pytest.fixture
def taken_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sweep, Any]]:
    """The sweeps that would be resumed, and by which launcher; nothing is run."""
    found: list[tuple[Sweep, Any]] = []

    def resume(which: Sweep, launcher: Mapping[str, Any] | None, _: Path) -> int:
        found.append((which, launcher))
        return 0

    monkeypatch.setattr(commands, "resume", resume)
    return found


def waiting(folder: Path, *, typed: str = "", launcher: Mapping[str, Any] | None = None, **rest: Any) -> Sweep:
    """A sweep of two waiting trials; `typed` is its command."""
    folder.mkdir(exist_ok=True)
    made, _ = planned(folder, *([*QUICK, "policy=step", "policy.gamma=0.5", f"seed={seed}"] for seed in (0, 1)))
    command = tuple(typed.split()) or (*QUICK, "policy=step", "policy.gamma=0.5", "seed=0,1", "-m")
    made = replace(made, command=command, launcher=dict(launcher or LOCAL), **rest)
    made.save()
    return made


@pytest.mark.slow
def test_resume_trains_the_recorded_trials_in_the_folder_that_the_sweep_was_moved_to(
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
    shutil.move(with_store(tmp_path) / "mlflow.db", tmp_path / "new")
    assert cli.main(["resume", moved, f"tracking.uri=sqlite:///{tmp_path}/new/mlflow.db"]) == 0
    said = capsys.readouterr()
    assert "policy.gamma=0.2 where the sweep has 0.5" in said.err
    assert "3 trials where the sweep has 2" in said.err
    assert f" ui {made.id} {moved}" in said.out, "it is typed in another folder than the sweep's"
    now = sweep_of(tmp_path / "new")
    assert [entry.signature for entry in now.trials] == [entry.signature for entry in made.trials]
    assert {now.trial(entry.signature).config()["policy"]["gamma"] for entry in now.trials} == {0.5}
    assert [now.trial(entry.signature).attempts() for entry in now.trials] == [1, 1]
    assert (now.trial(now.trials[0].signature).result() or {})["steps"] == 11, "what had finished is kept"
    assert now.cwd == str(tmp_path / "new")
    assert not (tmp_path / "old").exists()


@pytest.mark.slow
def test_the_commands_that_resume_suggests_work_in_the_folder_that_it_was_typed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path / "a=b")
    shutil.move(with_store(tmp_path) / "mlflow.db", tmp_path / "a=b")
    typed_in: list[Path] = []
    monkeypatch.setattr(commands, "resume", lambda which, launcher, folder: typed_in.append(folder) or 0)
    for folder, told in ((tmp_path, f""" 'runs_dir="{made.runs_dir}"'"""), (tmp_path / "a=b", "")):
        monkeypatch.chdir(folder)
        assert cli.main(["resume", f'runs_dir="{made.runs_dir}"']) == 0
        assert Path.cwd() == Path(made.cwd), "resume goes on in the folder of the sweep"
        session.say_how_to_resume(made, typed_in[-1])
        assert capsys.readouterr().out.endswith(f" resume {made.id}{told}\n")
        # The same command would have a sequential sweeper choose other trials.
        session.say_how_to_continue(replace(made, sequential=True), typed_in[-1])
        assert f" resume {made.id}{told}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_resume_says_nothing_if_nothing_differs(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path)
    with_store(tmp_path)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert capsys.readouterr().err == ""
    assert taken_up == [(made, LOCAL)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("policy=gone seed=0,1 -m", "cannot be composed"),
        ("--config-dir nowhere seed=0,1 -m", "cannot be composed"),
        ("seed=0,1,2 max_lr=0.1 epochs=1 policy=step policy.gamma=0.5 -m", "3 trials where the sweep has 2"),
        ("seed=0,1 max_lr=0.1 epochs=2 policy=step -m", "epochs=2 where the sweep has 1"),
    ],
)
def test_resume_says_what_differs_from_the_sweeps_command(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], typed: str, said: str, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path, typed=typed)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert taken_up == [(made, LOCAL)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recorded", "typed", "launcher"),
    [
        (SLURM, [], SLURM),
        (SLURM, ["hydra.launcher.timeout_min=90"], SLURM | {"timeout_min": 90}),
        (SLURM, ["hydra/launcher=local"], {"workers": "auto", "jobs_per_gpu": 1, "packed": 1}),
        (LOCAL, ["hydra.launcher.workers=3"], LOCAL | {"workers": 3}),
    ],
)
def test_resume_uses_the_recorded_launcher_with_the_typed_changes(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], recorded: Any, typed: list[str], launcher: Any
):
    made = waiting(tmp_path, launcher=recorded)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}", *typed]) == 0
    assert taken_up[0][1].items() >= launcher.items()


@pytest.mark.slow
def test_a_key_that_the_launcher_did_not_have_when_the_sweep_was_recorded_gets_its_default(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]]
):
    made = waiting(tmp_path, launcher={key: value for key, value in SLURM.items() if key != "qos"})
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    settings = taken_up[0][1]
    assert settings["qos"] is None
    schema.check_launcher(settings, options.KEYS)


@pytest.mark.slow
def test_a_sweep_recorded_without_its_launcher_has_that_of_its_command(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]]
):
    made = waiting(tmp_path, typed="hydra.launcher.workers=2 max_lr=0.1 epochs=1 policy=step seed=0,1 -m")
    told = json.loads((made.folder / "sweep.json").read_text())
    del told["launcher"], told["sequential"]
    (made.folder / "sweep.json").write_text(json.dumps(told))
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert taken_up[0][1] == {"workers": 2, "jobs_per_gpu": 1, "packed": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "word"), [("epochs=3", "epochs"), ("policy=clr", "policy"), ("+rerun=true", "rerun"), ("seed=1", "seed")]
)
def test_resume_refuses_overrides_that_would_change_trials(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], typed: str, word: str, capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path)
    typed = typed.lstrip("+")
    assert cli.main(["resume", f"runs_dir={made.runs_dir}", typed]) == 2
    assert f"which {word}=" in capsys.readouterr().err
    assert not taken_up


@pytest.mark.slow
def test_resume_says_that_a_search_goes_no_further(
    tmp_path: Path, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = waiting(tmp_path, sequential=True)
    assert cli.main(["resume", f"runs_dir={made.runs_dir}"]) == 0
    assert "sweeper" in capsys.readouterr().err
    assert taken_up


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "", "format: 7\n"])
def test_resume_names_the_missing_config_of_a_trial(
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


def test_files_that_were_moved_with_the_sweep_are_found(tmp_path: Path):
    before, now = tmp_path / "before", tmp_path / "now"
    (now / "data").mkdir(parents=True)
    config = {"runs_dir": "runs", "data": {"root": f"{before}/data"}, "model": {"weights_file": f"{before}/w.pt"}}
    found = paths.moved(config, before, now)
    assert found["data"]["root"] == f"{now}/data"
    assert found["model"]["weights_file"] == f"{before}/w.pt", "it is in neither place"
    assert config["data"]["root"] == f"{before}/data"
    assert paths.moved({"data": {"root": str(before)}}, before, now)["data"]["root"] == str(now)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["sync", "ui", "resume"])
def test_a_missing_database_is_named_and_not_created(
    tmp_path: Path, verb: str, taken_up: list[tuple[Sweep, Any]], capsys: pytest.CaptureFixture[str]
):
    made = hand_made.sweep(there := tmp_path / "a, ü")
    gone = tmp_path / "gone" / "mlflow.db"
    replace(made, tracking_uri=f"sqlite:///{gone}").save()
    (there / "mlflow.db").write_bytes(b"")
    assert cli.main([verb, f'runs_dir="{made.runs_dir}"']) == 2
    line = capsys.readouterr().err
    assert str(gone) in line and f"'tracking.uri=\"sqlite:///{there}/mlflow.db\"'" in line
    assert not gone.parent.exists()
    gone.parent.mkdir()
    known = {f"sqlite:///{gone}": {"onecycle_sweeps": {"token": "t", "experiment": "1"}}}
    replace(made, tracking_uri=f"sqlite:///{gone}", experiment="onecycle_sweeps").save()
    (made.folder / "tracking.json").write_text(json.dumps(known))
    assert cli.main([verb, f'runs_dir="{made.runs_dir}"']) == 2
    assert str(gone) in capsys.readouterr().err
