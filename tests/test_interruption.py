"""Commands that are stopped in every way: nothing is left running, nothing is lost, and results are the same."""

import fcntl
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import nodes_code
import real_trials
from onecycle_sweeps import __main__, trial
from onecycle_sweeps.terminal import invocation
from onecycle_sweeps.trial_folder import TrialFolder
from program import MODULE, helpers, points, recorded_points, run, runs_of, start, trials, wait_until, with_store

pytestmark = pytest.mark.slow

LONG = ("~model", "+model={_target_: nodes_code.Slow}", "policy=onecycle", "max_lr=0.1", "epochs=20", "batch_size=32")
LONG += ("save_model=true", "checkpoint_minutes=0.003")
SWEEP = (*LONG, "seed=0,1", "-m")
TO_CONTINUE = f"stopped; what had been done is saved. To continue:\n{invocation()} "
INTERRUPTED = 130
# How far an attempt gets before it is stopped, of the 900 steps of a trial.
STEPS = 60
# Seconds that a command's steps wait, so that they take as long on any machine.
PAUSE = 0.006


@dataclass
class Story:
    """How a command behaved that was stopped several times."""

    folder: Path
    seconds_to_leave: float = 0.0
    ends: dict[str, tuple[int, str]] = field(default_factory=dict)
    left_running: dict[str, list[int]] = field(default_factory=dict)
    status: str = ""


@pytest.fixture(scope="module", autouse=True)
def slow_steps() -> Iterator[None]:
    """The environment of commands whose steps wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(nodes_code.__file__).parent), prepend=os.pathsep)
        patch.setenv("NODES_PAUSE", str(PAUSE))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, decoded: Path) -> dict[str, Any]:
    """The outcome of each trial without interruptions, by its signature."""
    runs = tmp_path_factory.mktemp("undisturbed")
    (runs / "data").symlink_to(decoded)
    made = [real_trials.made(runs, *LONG, f"seed={seed}") for seed in (0, 1)]
    for one in made:
        trial.run(one)
    return {one.signature: real_trials.outcome(one) for one in made}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A sweep whose launching process is killed, then interrupted by Ctrl-C, then by SIGTERM, and then resumed."""
    story = Story(with_store(tmp_path_factory.mktemp("swept")))
    with start(story.folder, *SWEEP, fresh=False) as launcher:
        wait_for_step(story.folder, 1)
        launcher.kill()
        since = time.monotonic()
        wait_until(lambda: not helpers(story.folder), "the workers leave")
        story.seconds_to_leave = time.monotonic() - since
    story.ends["Ctrl-C"] = stopped_by_ctrl_c(story.folder, 2)
    story.left_running["Ctrl-C"] = helpers(story.folder)
    story.ends["SIGTERM"] = stopped_by_sigterm(story.folder, 3, SWEEP)
    story.left_running["SIGTERM"] = helpers(story.folder)
    story.status = run(story.folder, "status").stdout
    done = run(tmp_path_factory.mktemp("elsewhere"), "resume", f"runs_dir={story.folder}/runs")
    story.ends["resume"] = done.returncode, done.stdout + done.stderr
    return story


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A trial without -m that gets SIGTERM, and is then run to its end."""
    story = Story(with_store(tmp_path_factory.mktemp("alone")))
    story.ends["SIGTERM"] = stopped_by_sigterm(story.folder, 1, LONG)
    story.left_running["SIGTERM"] = helpers(story.folder)
    story.status = run(story.folder, "status").stdout
    done = run(story.folder, *LONG)
    story.ends["again"] = done.returncode, done.stdout + done.stderr
    return story


def wait_for_step(folder: Path, attempt: int) -> None:
    """Return once there are trials and that attempt of each has taken some steps."""

    def reached(one: TrialFolder) -> bool:
        seen = one.progress() if one.attempts() == attempt else None
        return seen is not None and seen.step >= seen.first_step + STEPS

    def ready() -> bool:
        found = trials(folder).values()
        return bool(found) and all(map(reached, found))

    wait_until(ready, f"attempt {attempt} of each trial takes {STEPS} steps", 120.0)


def stopped_by_sigterm(folder: Path, attempt: int, command: tuple[str, ...]) -> tuple[int, str]:
    """Run a command and send it SIGTERM during that attempt of its trials; returns its exit status and output."""
    with start(folder, *command, fresh=False) as process:
        wait_for_step(folder, attempt)
        process.terminate()
        out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def stopped_by_ctrl_c(folder: Path, attempt: int) -> tuple[int, str]:
    """Run SWEEP in a terminal and type Ctrl-C during that attempt; returns its exit status and output."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*MODULE, *SWEEP],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(follower)
        wait_for_step(folder, attempt)
        os.write(leader, b"\x03")
        said = b"".join(everything_from(leader)).decode()
        os.close(leader)
        return process.wait(120), said.replace("\r\n", "\n")


def everything_from(leader: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(leader, 65536):
            yield chunk
    except OSError:  # the last process at the other end has gone
        return


def test_workers_leave_within_seconds_of_the_death_of_the_process_that_launched_them(swept: Story):
    assert swept.seconds_to_leave < 20


@pytest.mark.parametrize(
    ("name", "stop", "typed"), [("swept", "Ctrl-C", SWEEP), ("swept", "SIGTERM", SWEEP), ("alone", "SIGTERM", LONG)]
)
def test_a_command_that_is_stopped_says_how_to_continue_and_leaves_nothing_running(
    name: str, stop: str, typed: tuple[str, ...], request: pytest.FixtureRequest
):
    story: Story = request.getfixturevalue(name)
    status, said = story.ends[stop]
    assert status == INTERRUPTED, said
    assert said.count(TO_CONTINUE) == 1
    assert f"{TO_CONTINUE}{shlex.join(typed)}\n" in said
    assert "Traceback" not in said
    assert story.left_running[stop] == []


def test_a_trial_that_was_stopped_waits(swept: Story, alone: Story):
    assert "2 waiting" in swept.status
    assert "1 waiting" in alone.status


def test_resume_from_another_folder_and_the_same_command_again_finish_the_trials(swept: Story, alone: Story):
    for status, said in (swept.ends["resume"], alone.ends["again"]):
        assert status == 0, said
    assert re.search(r"^onecycle +0.1 +2/2 ", swept.ends["resume"][1], re.MULTILINE)
    assert {one.attempts() for one in trials(swept.folder).values()} == {4}
    assert {one.attempts() for one in trials(alone.folder).values()} == {2}


@pytest.mark.parametrize("name", ["swept", "alone"])
def test_the_result_is_bit_for_bit_that_of_a_trial_that_was_never_stopped(
    name: str, undisturbed: dict[str, Any], request: pytest.FixtureRequest
):
    story: Story = request.getfixturevalue(name)
    found = {signature: real_trials.outcome(one) for signature, one in trials(story.folder).items()}
    assert found
    assert found == {signature: undisturbed[signature] for signature in found}


@pytest.mark.parametrize("name", ["swept", "alone"])
def test_mlflow_has_one_finished_run_of_each_trial_and_each_point_once(name: str, request: pytest.FixtureRequest):
    story: Story = request.getfixturevalue(name)
    for signature, one in trials(story.folder).items():
        ((run_id, status, _),) = runs_of(story.folder, signature)
        assert status == "FINISHED"
        assert points(story.folder, run_id) == recorded_points(one)


def test_cancel_from_another_shell_ends_running_and_waiting_trials_of_a_background_job(tmp_path: Path):
    """A shell's background job ignores Ctrl-C."""
    folder = with_store(tmp_path)
    words = (*LONG, "epochs=200", "seed=0,1,2", "hydra.launcher.workers=1", "-m")
    with start(folder, *words, background=True, fresh=False) as launcher:
        wait_until(lambda: any(one.progress() for one in trials(folder).values()), "the first steps")
        launcher.send_signal(signal.SIGINT)
        done = run(folder, "cancel")
        assert launcher.wait(60) == 1
        assert launcher.stdout
        launcher.stdout.close()
        assert launcher.stderr
        launcher.stderr.close()
    assert "3 of 3 trials are cancelled" in done.stdout
    assert run(folder, "status").stdout.rstrip().endswith("3 cancelled")
    assert sorted(one.attempts() for one in trials(folder).values()) == [0, 0, 1]


def test_ctrl_c_before_anything_has_begun_exits_silently(monkeypatch: pytest.MonkeyPatch):
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "one_trial", interrupted)
    monkeypatch.setattr(sys, "argv", ["onecycle-sweeps", "policy=onecycle"])
    with pytest.raises(SystemExit) as left:
        __main__.main()
    assert left.value.code == INTERRUPTED
