"""The verbs on sweeps that were started before; those that need no process are called in this one."""

import csv
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

import hand_made
from onecycle_sweeps import cli, command_line
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.terminal import invocation
from program import QUICK, ask, points, recorded_points, run, runs_of, start, sweep_of, trials, wait_until, with_store


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep 5weeb1d0 in the working folder, whose trials stand in every way."""
    monkeypatch.chdir(tmp_path)
    return hand_made.mixed(tmp_path)


def rows(text: str) -> dict[str, str]:
    """The status of each trial by its name."""
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0].strip(): row[2].strip() for row in cells if len(row) >= 3}


def test_status_says_how_each_trial_stands(mixed: Sweep, capsys: pytest.CaptureFixture[str]):
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
    assert out.splitlines()[-1] == f"report: {mixed.report / 'report.html'}, and {len(files) - 1} files beside it"
    with (mixed.report / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(mixed.trials)


@pytest.mark.parametrize("name", [[], ["5weeb1d0"], ["5wee"], ["runs/sweeps/5weeb1d0"], ["runs/sweeps/5weeb1d0/"]])
def test_a_sweep_is_the_latest_or_an_id_or_a_prefix_or_a_path(
    mixed: Sweep, name: list[str], capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["status", *name]) == 0
    assert "sweep 5weeb1d0" in capsys.readouterr().out


def test_runs_dir_says_where_sweeps_are(
    mixed: Sweep, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert cli.main(["status", f"runs_dir={mixed.runs_dir}"]) == 0
    assert cli.main(["status"]) == 2


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["stat"], "unknown verb 'stat'; did you mean status? The verbs are status, cancel, report, sync, "),
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


@pytest.mark.parametrize(("verb", "takes"), [*((verb, "[SWEEP]") for verb in cli.VERBS), ("doctor", "[--probe]")])
def test_each_verb_explains_itself(verb: str, takes: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"python -m onecycle_sweeps {verb} {takes} [overrides]: ")


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
def test_a_sweep_whose_store_was_away_is_brought_to_another_by_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    uri = f"http://127.0.0.1:{unused_port()}"
    done = run(tmp_path, *QUICK, "seed=0,1", f"tracking.uri={uri}", "-m")
    made = sweep_of(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "constant    2/2" in done.stdout
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("not all of it is in MLflow: ")]
    assert f"the MLflow store {uri} cannot be used: " in told
    assert told.endswith(f"; later: {invocation()} sync {made.id} tracking.uri={uri}")

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
            address = server.stdout.readline().removeprefix("MLflow: ").strip()
            assert int(address.removeprefix("http://127.0.0.1:")) > 5000
            wait_until(lambda: answers(address) or server.poll() is not None, f"{address} answers")
            assert answers(address)
            assert os.getpgid(server.pid) == server.pid
            server.terminate()
            server.communicate(timeout=30)
            assert not answers(address)
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["pgrep", "-g", str(server.pid)], check=True, capture_output=True)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as page:
            return page.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_the_line_to_type_names_the_python_that_has_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invocation() == f"{sys.executable} -m onecycle_sweeps"
    (tmp_path / "python").symlink_to(sys.executable)
    assert invocation() == f"{sys.executable} -m onecycle_sweeps"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    (tmp_path / "python").unlink()
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    assert invocation() == "python -m onecycle_sweeps"
