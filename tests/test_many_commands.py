"""Three commands that are typed at once in a fresh folder, each with trials of its own and trials that others share."""

import json
import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from onecycle_sweeps import sweep
from onecycle_sweeps.terminal import invocation
from program import ask, points, recorded_points, runs_of, start, trials

pytestmark = pytest.mark.slow

# The first two are the same command, and the third shares a trial with them.
SEEDS = ("0,1", "0,1", "1,2")
COMMAND = ("policy=constant", "max_lr=0.1", "epochs=5", "hydra.launcher.workers=1", "-m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all commands have ended well."""
    here = tmp_path_factory.mktemp("many")
    with ExitStack() as stack:
        begun = [start(here, f"seed={seeds}", *COMMAND, fresh=False) for seeds in SEEDS]
        commands = [stack.enter_context(one) for one in begun]
        for command in commands:
            out, err = command.communicate(timeout=300)
            assert command.returncode == 0, err
            assert re.search(r"^constant +\S+ +2/2 ", out, re.MULTILINE)
            assert f"\n{invocation()} ui " in out
    return here


def test_no_trial_is_trained_twice(folder: Path):
    assert {signature: one.attempts() for signature, one in trials(folder).items()} == dict.fromkeys(trials(folder), 1)
    assert len(trials(folder)) == 3


def test_each_command_has_its_sweep(folder: Path):
    recorded = [json.loads(path.read_text())["command"] for path in folder.glob("runs/sweeps/*/sweep.json")]
    assert sorted(command[0] for command in recorded) == sorted({f"seed={seeds}" for seeds in SEEDS})


def test_mlflow_has_each_sweep_once_and_in_it_each_trial_once_with_each_of_its_points_once(folder: Path):
    made = [sweep.load(path.parent) for path in folder.glob("runs/sweeps/*/sweep.json")]
    parents = "SELECT s.value FROM tags s JOIN tags k USING (run_uuid) WHERE s.key = 'sweep' AND k.value = 'sweep'"
    assert sorted(ask(folder, parents)) == sorted((one.id,) for one in made)
    wanted = Counter((entry.signature, one.id) for one in made for entry in one.trials)
    found = [(signature, *row) for signature in trials(folder) for row in runs_of(folder, signature)]
    assert Counter((signature, of) for signature, _, _, of in found) == wanted
    for signature, run_id, status, _ in found:
        assert status == "FINISHED"
        assert points(folder, run_id) == recorded_points(trials(folder)[signature])


def test_no_experiment_is_made_twice(folder: Path):
    assert ask(folder, "SELECT name FROM experiments ORDER BY name") == [("Default",), ("onecycle_sweeps",)]
