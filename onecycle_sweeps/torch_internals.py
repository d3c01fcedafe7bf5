"""torch's private interfaces: only this module uses them.

Tested with torch 2.14. Where another version has changed them, optimizers stay as torch made them.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

Method = Callable[..., Any]


def defer_compiler() -> None:
    """Let torch's optimizers do without torch's compiler until something else has imported it.

    The first optimizer that is made, and the first step of one, import the compiler only to tell it what not to trace.
    That import takes 1.5 seconds and 80 MB in each process.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = getattr(Optimizer, name, None)
        if method and (inner := getattr(method, "__wrapped__", None)):
            setattr(Optimizer, name, _until_compiler(method, inner))
    for kind in vars(torch.optim).values():
        step = vars(kind).get("step") if isinstance(kind, type) and issubclass(kind, Optimizer) else None
        # torch has wrapped the step once more if the class has instances already.
        if step and (inner := getattr(step, "__wrapped__", None)) and not hasattr(step, "hooked"):
            kind.step = _until_compiler(step, _without_graph(inner))


def _without_graph(inner: Method) -> Method:
    """A step that keeps its update out of the autograd graph, unless the optimizer is differentiable."""

    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            return inner(self, *args, **kwargs)

    return step


def _until_compiler(usual: Method, plain: Method) -> Method:
    @functools.wraps(usual)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (usual if "torch._dynamo" in sys.modules else plain)(*args, **kwargs)

    return call
