"""The learning-rate range test of Smith (arXiv:1506.01186, section 3.3): its ramp, its end, and what its curve says."""

from onecycle_sweeps.range_test.curves import curve, smooth, until_diverged
from onecycle_sweeps.range_test.divergence import onset
from onecycle_sweeps.range_test.judge import OneSeed, judge, smoothed
from onecycle_sweeps.range_test.ramp import Ramp
from onecycle_sweeps.range_test.rules import lightning, peers, suggestions, torch_lr_finder
from onecycle_sweeps.range_test.verdict import Reading, Verdict

__all__ = [
    "OneSeed",
    "Ramp",
    "Reading",
    "Verdict",
    "curve",
    "judge",
    "lightning",
    "onset",
    "peers",
    "smooth",
    "smoothed",
    "suggestions",
    "torch_lr_finder",
    "until_diverged",
]
