"""Values in a form that MLflow stores as they are: it drops, cuts or refuses the others."""

import heapq
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.journal import Block, Record

BATCH = 1000
PARAM_LENGTH, TAG_LENGTH = 6000, 8000


class Point(NamedTuple):
    """One value of a metric; `time` in ms."""

    step: int
    name: str
    value: float
    time: int


def milliseconds(seconds: float) -> int:
    """A time as MLflow counts it."""
    return round(seconds * 1000)


def storable(value: float) -> float:
    """The value, NaN for an infinite one: MLflow would store 1.8e308, which leaves a chart without a scale."""
    return float(value) if math.isfinite(value) else math.nan


def shortened(text: str, limit: int) -> str:
    """A text without credentials, and with a mark where MLflow would cut it without one."""
    text = redacted(text)
    mark = f" [... shortened from {len(text)} characters]"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values by their dotted keys, anything that is no text as JSON."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(values).items()}
    return {re.sub(r"[^\w\-. :/]", "_", key): shortened(text, PARAM_LENGTH) for key, text in texts.items()}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, the keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{key}.{rest}": inner for rest, inner in flat(value).items()}
        else:
            found[str(key)] = value
    return found


def as_tags(values: Mapping[str, str | None]) -> dict[str, str]:
    """The tags that have a value."""
    return {key: shortened(value, TAG_LENGTH) for key, value in values.items() if value}


def batches(record: Record, start: int, stop: int = sys.maxsize) -> Iterator[list[Point]]:
    """The points with start <= step < stop in order, as many whole steps at once as one request takes."""
    parts = [_points(block.between(start, stop)) for block in record.blocks]
    batch: list[Point] = []
    for _, points in groupby(heapq.merge(*parts, key=_step), key=_step):
        step = list(points)
        if len(batch) + len(step) > BATCH:
            yield batch
            batch = []
        batch += step
    if batch:
        yield batch


def _points(block: Block) -> Iterator[Point]:
    time = milliseconds(block.time)
    for offset in range(max(map(len, block.metrics.values()), default=0)):
        for name, values in block.metrics.items():
            if offset < len(values):
                yield Point(block.step + offset, name, storable(values[offset]), time)


def _step(point: Point) -> int:
    return point.step
