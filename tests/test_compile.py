"""compile=true: the steps of a training use the net that torch.compile compiled."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from onecycle_sweeps import trial
from onecycle_sweeps.config import schema
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.trial.running import TrialFailed
from real_trials import SHORT, made, planned, series

COMPILED = ("data=digits", "model=mlp", *SHORT, "precision=fp32", "compile=true")


@pytest.mark.slow
def test_a_compiled_net_takes_the_same_steps_up_to_rounding(runs_dir: Path, device: str):
    from torch._dynamo.utils import counters

    counters.clear()
    compiled, plain = (made(runs_dir, *COMPILED, f"device={device}", f"compile={word}") for word in ("true", "false"))
    trial.run(plain)
    assert not counters["frames"]["ok"]
    trial.run(compiled)
    assert counters["frames"]["ok"]
    assert series(compiled, "schedule/lr") == series(plain, "schedule/lr")
    for name in ("train/loss", "val/loss"):
        assert series(compiled, name)[1] == pytest.approx(series(plain, name)[1], rel=1e-3)


@pytest.mark.slow
def test_a_net_that_cannot_be_compiled_ends_its_trial_in_one_line(runs_dir: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(TrialFailed, match=r"compile=true.*no such kernel") as failed:
        trial.run(made(runs_dir, *COMPILED, "device=cpu"))
    assert "\n" not in str(failed.value)


def test_results_from_before_there_was_the_key_are_reused(runs_dir: Path):
    def asked(*words: str) -> Trial:
        return planned(runs_dir, "data=digits", *words)

    config = dict(asked("compile=false").config)
    earlier = {key: value for key, value in config.items() if key != "compile"}
    assert schema.what_counts(config) == schema.what_counts(earlier)
    assert asked("compile=true").signature != asked("compile=false").signature
    compiled, plain = asked("compile=true", "max_lr=auto"), asked("compile=false", "max_lr=auto")
    assert compiled.rate_from and plain.rate_from and compiled.rate_from.signature == plain.rate_from.signature
