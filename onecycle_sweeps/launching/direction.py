"""Which way a sweeper searches, as far as the keys of its config tell."""

from collections.abc import Mapping
from typing import Any

# The key that says it, the value that minimises, and the one that maximises: Optuna's, Ax's and Nevergrad's.
SAID = {"direction": ("minimize", "maximize"), "minimize": (True, False), "maximize": (False, True)}


def minimising(node: Any, place: str = "hydra.sweeper") -> str | None:
    """The override that would turn a sweeper which minimises into one that maximises; None where there is none."""
    if not isinstance(node, Mapping):
        return None
    for key, value in node.items():
        minimal, maximal = SAID.get(str(key), (None, None))
        # Optuna's direction is a word, or one of an enumeration by that name.
        if minimal is not None and getattr(value, "name", value) == minimal:
            return f"{place}.{key}={str(maximal).lower()}"
        if deeper := minimising(value, f"{place}.{key}"):
            return deeper
    return None
