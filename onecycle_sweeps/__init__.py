"""Sweeps that find out which learning-rate policy, and which maximum rate, is best for a model on its data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onecycle_sweeps.images import Source
    from onecycle_sweeps.max_lr import find_max_lr
    from onecycle_sweeps.policies import CLR, Constant, Cosine, Hyper, Inv, Linear, OneCycle, Policy, Step, Wsd
    from onecycle_sweeps.scheduler import PolicyScheduler
    from onecycle_sweeps.watching import watch

__version__ = "0.4.0"

__all__ = [
    "CLR",
    "Constant",
    "Cosine",
    "Hyper",
    "Inv",
    "Linear",
    "OneCycle",
    "Policy",
    "PolicyScheduler",
    "Source",
    "Step",
    "Wsd",
    "find_max_lr",
    "watch",
]

# The modules of the public names that are not policies. They are imported on use, because torch takes seconds to load.
DEFINED_IN = {"Source": "images", "PolicyScheduler": "scheduler", "find_max_lr": "max_lr", "watch": "watching"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{DEFINED_IN.get(name, 'policies')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
