"""A trial: one config, trained once; `run` brings its folder to a result, whatever earlier attempts left there."""

from onecycle_sweeps.trial.running import TrialFailed as TrialFailed
from onecycle_sweeps.trial.running import run as run
from onecycle_sweeps.trial.train import Stopped as Stopped
