"""A trial's append-only record on disk: one file an attempt, whole lines of JSON, stitched by the reader.

A file begins with the attempt and the step that it continues from. After it come blocks of consecutive steps, marks
that say up to which step a durable checkpoint reaches, and at the end how the attempt ended.
"""

from onecycle_sweeps.journal.coverage import evaluation_points, is_evaluation_point, lacks
from onecycle_sweeps.journal.lines import attempt_files
from onecycle_sweeps.journal.reading import durable, read
from onecycle_sweeps.journal.record import (
    LR,
    MOMENTUM,
    SMOOTHED_LOSS,
    TRAIN_ACCURACY,
    TRAIN_LOSS,
    VAL_ACCURACY,
    VAL_LOSS,
    Attempt,
    Block,
    Record,
)
from onecycle_sweeps.journal.seeking import attempts, blocks, end_of, latest, newest_head
from onecycle_sweeps.journal.writing import Journal

__all__ = [
    "LR",
    "MOMENTUM",
    "SMOOTHED_LOSS",
    "TRAIN_ACCURACY",
    "TRAIN_LOSS",
    "VAL_ACCURACY",
    "VAL_LOSS",
    "Attempt",
    "Block",
    "Journal",
    "Record",
    "attempt_files",
    "attempts",
    "blocks",
    "durable",
    "end_of",
    "evaluation_points",
    "is_evaluation_point",
    "lacks",
    "latest",
    "newest_head",
    "read",
]
