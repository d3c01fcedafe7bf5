"""A trial: one config, trained once; `run` starts or resumes it in its folder, and returns its result."""

from onecycle_sweeps import torch_internals
from onecycle_sweeps.trial.running import TrialFailed as TrialFailed
from onecycle_sweeps.trial.running import run as run
from onecycle_sweeps.trial.together import run_together as run_together
from onecycle_sweeps.trial.train import Stopped as Stopped

torch_internals.defer_compiler()
