"""What an evaluation measures, such as accuracy or loss: each measure has a name, a goal and a way to be written."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Measure:
    """A measure by its name, and whether a higher (`max`) or a lower (`min`) value is the better one.

    `is_fraction` says that values lie in [0, 1] and are shown in per cent.
    """

    name: str
    goal: Literal["max", "min"]
    is_fraction: bool = False

    @property
    def train(self) -> str:
        """The metric of the training batches since the last evaluation."""
        return f"train/{self.name}"

    @property
    def val(self) -> str:
        """The metric of each evaluation on the validation part."""
        return f"val/{self.name}"

    @property
    def final_val(self) -> str:
        """The metric of the last evaluation on the validation part."""
        return f"final/val_{self.name}"

    @property
    def best_val(self) -> str:
        """The metric of the best evaluation on the validation part."""
        return f"best/val_{self.name}"

    @property
    def final_test(self) -> str:
        """The metric of the one evaluation on the test part, after the training."""
        return f"final/test_{self.name}"

    @property
    def worst(self) -> float:
        """The worst value there is, which a trial that diverged counts with."""
        if self.is_fraction:
            return 0.0 if self.goal == "max" else 1.0
        return -math.inf if self.goal == "max" else math.inf

    @property
    def label(self) -> str:
        """The name with its unit, for an axis or a column: `accuracy (%)`."""
        return f"{self.name} (%)" if self.is_fraction else self.name

    def better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`, and not equal to it."""
        return value > other if self.goal == "max" else value < other

    def best(self, values: Iterable[float]) -> float:
        """The best of the values."""
        return max(values) if self.goal == "max" else min(values)

    def reaches(self, value: float, target: float) -> bool:
        """Whether `value` is as good as `target` or better."""
        return value >= target if self.goal == "max" else value <= target

    def shown(self, value: float) -> float:
        """The value in the unit in which it is shown: fractions in per cent."""
        return 100 * value if self.is_fraction else value

    def text(self, value: float) -> str:
        """The value as it is written for people: `90.05 %`, or four significant digits."""
        return f"{100 * value:.2f} %" if self.is_fraction else f"{value:.4g}"

    def as_record(self) -> dict[str, Any]:
        """The measure as it is kept in resolved.json."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """The measure that `as_record` gave; raises ValueError for a goal that is none."""
        if record["goal"] not in ("max", "min"):
            raise ValueError(f"goal must be max or min, got {record['goal']!r}")
        return cls(record["name"], record["goal"], record["is_fraction"])


ACCURACY = Measure("accuracy", "max", is_fraction=True)
LOSS = Measure("loss", "min")


def headline(resolved: Mapping[str, Any] | None) -> Measure:
    """The headline measure of a trial, from its resolved.json; accuracy where no other is recorded."""
    record = (resolved or {}).get("headline")
    return Measure.of_record(record) if record else ACCURACY
