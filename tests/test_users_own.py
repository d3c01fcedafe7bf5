"""A user's own policy, net and data set: Python in the working folder, in that of the configs, and in a group of it."""

from pathlib import Path

import pytest

from onecycle_sweeps import journal
from program import MODULE, SCRIPT, run, sweep_of, trials, with_store, write

STAIRS = """
from dataclasses import dataclass

from onecycle_sweeps.policies import Hyper


@dataclass(frozen=True)
class Stairs:
    max_lr: float
    total_steps: int
    height: int

    def __call__(self, step):
        return Hyper(self.max_lr / (1 + step // self.height))
"""
FLAT = """
from torch import nn


class Flat(nn.Sequential):
    def __init__(self, in_channels, num_classes, width):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * 16, width), nn.ReLU(), nn.Linear(width, num_classes))
"""
CODE = """
import numpy as np

from onecycle_sweeps.images import Source


def stripes(samples):
    def drawn(count):
        labels = np.arange(count) % 2
        images = np.random.default_rng(0).integers(0, 99, (count, 1, 4, 4), dtype=np.uint8)
        images[labels == 1, :, 1] += 150
        return images, labels
    return Source(*drawn(samples), *drawn(64), ("plain", "striped"))
"""
FILES = {
    "mine.py": CODE,
    "my_conf/rates.py": STAIRS,
    "my_conf/model/nets.py": FLAT,
    "my_conf/policy/stairs.yaml": "_target_: rates.Stairs\nmax_lr: ${max_lr}\nheight: 4\n",
    "my_conf/model/flat.yaml": "_target_: nets.Flat\nwidth: 8\n",
    "my_conf/data/stripes.yaml": (
        "_target_: mine.stripes\nsamples: 256\nfiles: []\nval_fraction: 0\nsplit_seed: 0\nclasses: null\n"
    ),
}
COMMAND = (
    *("--config-dir", "./my_conf", "policy=stairs,onecycle", "model=flat", "data=stripes", "seed=0"),
    *("max_lr=0.1", "epochs=3", "batch_size=32", "-m"),
)


@pytest.mark.slow
def test_a_sweep_takes_them_from_where_they_are(tmp_path: Path):
    with_store(write(tmp_path, FILES))
    done = run(tmp_path, *COMMAND, program=SCRIPT)
    assert done.returncode == 0, done.stderr
    made = sweep_of(tmp_path)
    of_policy = {entry.varies["policy"]: made.trial(entry.signature) for entry in made.trials}
    assert set(of_policy) == {"stairs", "onecycle"}
    rates = journal.read(of_policy["stairs"].journal).series(journal.LR)[1]
    assert rates == [0.1 / (1 + step // 4) for step in range(24)]
    for trial in of_policy.values():
        assert (trial.result() or {})["metrics"]["final/val_accuracy"] == 1
    code = (of_policy["stairs"].resolved() or {})["code"]
    assert "not found" not in {code[name] for name in ("rates.Stairs", "nets.Flat", "mine.stripes")}

    write(tmp_path, {"mine.py": CODE + "\n# another version\n"})
    again = run(tmp_path, *COMMAND, program=MODULE)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 results were there already" in again.stderr
    assert "2 of 2 results were made by other code or versions: rerun=true repeats them" in again.stdout
    assert {trial.attempts() for trial in trials(tmp_path).values()} == {1}
