"""The learning-rate range test of Smith (arXiv:1506.01186, section 3.3): its ramp, its end, and its verdict."""

from onecycle_sweeps.range_test.peers import curve, lightning, median_of_peers, peers, suggestions, torch_lr_finder
from onecycle_sweeps.range_test.ramp import Descent, Ramp, smooth, until_diverged
from onecycle_sweeps.range_test.verdict import Judgement, OneSeed, Reading, judge, onset, smoothed

__all__ = [
    "Descent",
    "Judgement",
    "OneSeed",
    "Ramp",
    "Reading",
    "curve",
    "judge",
    "lightning",
    "median_of_peers",
    "onset",
    "peers",
    "smooth",
    "smoothed",
    "suggestions",
    "torch_lr_finder",
    "until_diverged",
]
