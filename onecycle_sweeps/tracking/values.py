"""Values in a form that MLflow stores as they are: it drops, cuts or refuses the others."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from onecycle_sweeps.credentials import redacted
from onecycle_sweeps.journal import Block

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


def batches(blocks: Iterable[Block], figures: Iterable[Point] = (), *, room: int = BATCH) -> Iterator[list[Point]]:
    """The points of blocks in order, then the figures; as many whole steps at once as a request takes.

    The first batch has at most `room` points.
    """
    batch: list[Point] = []
    for points in chain(_in_order(blocks), [figures]):
        batch += points
        while len(batch) > room:
            cut = _whole_steps(batch, room)
            yield batch[:cut]
            batch, room = batch[cut:], BATCH
    if batch:
        yield batch


def _whole_steps(points: list[Point], room: int) -> int:
    """How many of the points, at most `room`, are whole steps."""
    cut = room
    while points[cut - 1].step == points[cut].step:
        cut -= 1
    return cut


def _in_order(blocks: Iterable[Block]) -> Iterator[list[Point]]:
    """The points of blocks that share steps at once, in order of steps, the rest after them."""
    group: list[Point] = []
    end = 0
    for block in blocks:
        if block.step >= end:
            yield sorted(group, key=_step)
            group = []
        end = max(end, block.end)
        time = milliseconds(block.time)
        for name, values in block.metrics.items():
            group += [Point(step, name, storable(value), time) for step, value in enumerate(values, block.step)]
    yield sorted(group, key=_step)


def _step(point: Point) -> int:
    return point.step
