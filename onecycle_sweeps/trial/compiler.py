"""torch's compiler, which every optimizer of torch imports and few trials use, left alone until one does.

Importing `torch._dynamo` takes as long as importing torch, and 80 MB, all before a first step. What optimizers ask of
it is to keep out of graphs that are being compiled; while nothing is compiled there is nothing to keep out of.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


def postpone() -> None:
    """Let `torch._dynamo` be imported by the first that wants more of it than optimizers do."""
    if NAME in sys.modules or not (spec := find_spec(NAME)):
        return
    import torch

    module = _Postponed(NAME)
    module.__spec__, module.__file__ = spec, spec.origin
    sys.modules[NAME] = torch._dynamo = module  # pyright: ignore[reportAttributeAccessIssue]


class _Postponed(ModuleType):
    """The module before its code has run, which any name but these two makes it do, in this very object."""

    def disable(self, fn: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        return fn

    def graph_break(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec and spec.loader
        # Without a path until here, so that an import of what lies below comes by as well.
        self.__dict__["__path__"] = spec.submodule_search_locations
        object.__setattr__(self, "__class__", ModuleType)
        spec.loader.exec_module(self)
        return getattr(self, name)
