"""torch's settings of the whole process or thread, which code that trains may change: kept from trial to trial."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
# What the contexts that are open will restore.
_KEPT: list[dict[str, Any]] = []


@contextmanager
def kept() -> Iterator[None]:
    """A context after which torch's settings are as before it, but for those that an import in it has changed."""
    before = _values()
    _KEPT.append(before)
    try:
        yield
    finally:
        _KEPT.pop()
        _restore(before)


@contextmanager
def importing() -> Iterator[None]:
    """A context for the import of a user's module, whose settings stay, since later trials do not import it again."""
    before = _values()
    try:
        yield
    finally:
        changed = {name: value for name, value in _values().items() if name in before and value != before[name]}
        for values in _KEPT:
            values.update(changed)


def _restore(before: dict[str, Any]) -> None:
    settings = _settings()
    for name, value in _values().items():
        if name in before and value != before[name]:
            settings[name][1](before[name])


def _values() -> dict[str, Any]:
    """The settings of a torch that is loaded; those that this version of torch cannot tell are left out."""
    found: dict[str, Any] = {}
    for name, (read, _) in _settings().items() if "torch" in sys.modules else ():
        try:
            found[name] = read()
        except (AttributeError, RuntimeError):
            continue
    return found


@cache
def _settings() -> dict[str, Setting]:
    """How each setting is read and set."""
    torch: Any = sys.modules["torch"]
    found: dict[str, Setting] = {
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "default device": (torch.get_default_device, lambda device: torch.set_default_device(_explicit(device))),
        "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
        "float32 matmul": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "anomaly": (
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda values: torch.autograd.set_detect_anomaly(*values),
        ),
        "deterministic": (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda values: torch.use_deterministic_algorithms(values[0], warn_only=values[1]),
        ),
        "autocast cache": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    }
    for device in ("cpu", "cuda"):
        found[f"autocast {device}"] = (
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
        )
        found[f"autocast dtype {device}"] = (
            partial(torch.get_autocast_dtype, device),
            partial(torch.set_autocast_dtype, device),
        )
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        cudnn = torch.backends.cudnn
        found[f"cudnn {name}"] = (partial(getattr, cudnn, name), partial(setattr, cudnn, name))
    return found


def _explicit(device: Any) -> Any:
    """None for the CPU, torch's default without a setting, which costs nothing."""
    return None if device.type == "cpu" else device
