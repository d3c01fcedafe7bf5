"""What an evaluation measures, such as accuracy or loss: each measure has a name, a goal and a way to be written.

All names of metrics that a measure has are composed here.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

TRAIN, VAL = "train/", "val/"
MINUS = "\N{MINUS SIGN}"
# A measure is at chance if it has come at most this share of the way from chance to a perfect value.
AT_CHANCE = 0.05
# Values that went through float32 are within 2**-24 of their size of the exact ones, so the standard deviation of
# differences that are truly equal is at most 1.5 * 2**-23 of the values' size: nothing below this share is told apart.
ROUNDING = 2**-22
# Numbers of this size are written without powers of ten.
PLAIN_FROM, PLAIN_BELOW = 1e-4, 1e9


@dataclass(frozen=True)
class Measure:
    """A measure by its name, and whether a higher (`max`) or a lower (`min`) value is the better one.

    `is_fraction` says that values lie in [0, 1] and are shown in per cent.

    Raises ValueError for another goal, and for a name that cannot be part of the name of a metric or a file.
    """

    name: str
    goal: Literal["max", "min"]
    is_fraction: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"a measure's name must consist of letters, digits, '_', '.' and '-', got {self.name!r}")
        if self.goal not in ("max", "min"):
            raise ValueError(f"the goal of the measure {self.name} must be max or min, got {self.goal!r}")

    @property
    def train(self) -> str:
        """The name of the metric of the training batches since the last evaluation."""
        return f"{TRAIN}{self.name}"

    @property
    def val(self) -> str:
        """The name of the metric of each evaluation on the validation part."""
        return f"{VAL}{self.name}"

    @property
    def final_val(self) -> str:
        """The name of the metric of the last evaluation on the validation part."""
        return f"final/val_{self.name}"

    @property
    def best_val(self) -> str:
        """The name of the metric of the best evaluation on the validation part."""
        return f"best/val_{self.name}"

    @property
    def final_test(self) -> str:
        """The name of the metric of the one evaluation on the test part, after the training."""
        return f"final/test_{self.name}"

    @property
    def worst(self) -> float:
        """The worst value there is, with which a diverged trial counts."""
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
        """The best of the values, without those that are not a number; NaN if none is left."""
        known = [value for value in values if not math.isnan(value)]
        return (max if self.goal == "max" else min)(known, default=math.nan)

    def reaches(self, value: float, target: float) -> bool:
        """Whether `value` is as good as `target` or better, up to rounding."""
        if math.isclose(value, target, rel_tol=ROUNDING):
            return True
        return value >= target if self.goal == "max" else value <= target

    def above_chance(self, value: float, chance: float | None) -> float | None:
        """The share of the way from the value of the best constant prediction to a perfect one; None if unknown."""
        perfect = 0.0 if self.goal == "min" else 1.0 if self.is_fraction else None
        if chance is None or perfect is None or chance == perfect:
            return None
        return (value - chance) / (perfect - chance)

    def shown(self, value: float) -> float:
        """The value in the unit in which it is shown: fractions in per cent."""
        return 100 * value if self.is_fraction else value

    def number(self, value: float) -> str:
        """The value as it is written where its unit is known: `90.05`, or four significant digits."""
        return with_minus(f"{100 * value:.2f}") if self.is_fraction else four_digits(value)

    def with_deviation(self, mean: float, deviation: float) -> tuple[str, str]:
        """A mean and its standard deviation as they are written beside each other: to two digits of the deviation."""
        if self.is_fraction or not 0 < deviation < math.inf or not PLAIN_FROM <= abs(mean) < PLAIN_BELOW:
            return self.number(mean), self.number(deviation)
        # No more than six digits of the mean.
        decimals = max(0, min(1 - _magnitude(deviation), 5 - _magnitude(mean)))
        return with_minus(f"{mean:.{decimals}f}"), f"{deviation:.{decimals}f}"

    def text(self, value: float) -> str:
        """The value as it is written for people: `90.05 %`."""
        return self.number(value) + (" %" if self.is_fraction else "")


def four_digits(value: float) -> str:
    """A number in four significant digits; one from 10,000 to a thousand million is whole, not in powers of ten."""
    return with_minus(f"{value:.0f}" if 1e4 <= abs(value) < PLAIN_BELOW else f"{value:.4g}")


def with_minus(number: str) -> str:
    """The text of a number with a minus sign in place of the hyphen before it; a hyphen in an exponent stays."""
    return number.replace("-", MINUS, 1) if number.startswith("-") else number


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


ACCURACY = Measure("accuracy", "max", is_fraction=True)
LOSS = Measure("loss", "min")
F1 = Measure("f1", "max", is_fraction=True)
RMSE = Measure("rmse", "min")
MEAN_IOU = Measure("mean_iou", "max", is_fraction=True)
# The headline of each of the program's objectives, for modules that must not import torch.
HEADLINES = {
    "onecycle_sweeps.objectives.classification.Classification": ACCURACY,
    "onecycle_sweeps.objectives.multilabel.Multilabel": F1,
    "onecycle_sweeps.objectives.regression.Regression": RMSE,
    "onecycle_sweeps.objectives.language_model.LanguageModel": LOSS,
    "onecycle_sweeps.objectives.segmentation.Segmentation": MEAN_IOU,
}


def recorded(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """What each evaluation of a trial with these measures records: them and the loss, each once."""
    return tuple(dict.fromkeys((*measures, LOSS)))


def is_of_val(metric: str) -> bool:
    """Whether a metric is that of an evaluation on the validation part."""
    return metric.startswith(VAL)


def as_records(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """The measures of a trial, headline first, as its resolved.json has them; raises ValueError for equal names."""
    names = [measure.name for measure in (*measures, *([] if LOSS in measures else [LOSS]))]
    if len(set(names)) < len(names):
        raise ValueError(
            f"measures must have different names, and only the loss may be called `loss`, got {', '.join(names)}"
        )
    return [asdict(measure) for measure in measures]


def of_trial(resolved: Mapping[str, Any] | None) -> tuple[Measure, ...]:
    """The measures of a trial, headline first, from its resolved.json; accuracy alone where none are recorded.

    Raises ValueError for records that `as_records` cannot have made.
    """
    records = (resolved or {}).get("measures")
    if records is None:
        return (ACCURACY,)
    try:
        found = tuple(Measure(**record) for record in records)
    except TypeError as error:
        raise ValueError(f"measures: {error}") from error
    if not found:
        raise ValueError("measures: the list is empty")
    return found
