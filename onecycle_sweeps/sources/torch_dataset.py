"""Any map-style Dataset of torch."""

from collections.abc import Callable
from typing import Any

from onecycle_sweeps.samples import Items
from onecycle_sweeps.validation import require, whole


def load(
    dataset: Any,
    val_dataset: Any = None,
    test_dataset: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    label: str | None = None,
    workers: int = 0,
) -> Items:
    """Datasets that the config's nodes of these names made; without `val_dataset` a part of `dataset` is held out."""
    require("workers", workers, whole(0))
    return Items(dataset, val_dataset, test_dataset, collate, label, workers)
