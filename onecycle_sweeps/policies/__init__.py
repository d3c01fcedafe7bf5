"""Learning-rate policies: pure functions from a step to the learning rate and momentum of that step."""

from onecycle_sweeps.policies.clr import CLR
from onecycle_sweeps.policies.decay import Constant, Inv, Step
from onecycle_sweeps.policies.onecycle import OneCycle
from onecycle_sweeps.policies.policy import Compressed, Hyper, Policy, check_policy, checked, near_peak
from onecycle_sweeps.policies.warmup import Cosine, Linear, Wsd

__all__ = [
    "CLR",
    "Compressed",
    "Constant",
    "Cosine",
    "Hyper",
    "Inv",
    "Linear",
    "OneCycle",
    "Policy",
    "Step",
    "Wsd",
    "check_policy",
    "checked",
    "near_peak",
]
