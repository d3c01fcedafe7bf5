"""Images and labels from any source: decoded once into a cache, split, described, mapped, and drawn in batches.

Nothing here imports torch before `load`, so that a set which is already cached can be described at once.
"""

from onecycle_sweeps.dataset.batches import Dataset, Split, batches, evaluation_batches
from onecycle_sweeps.dataset.facts import Facts, prepare
from onecycle_sweeps.dataset.files import walk
from onecycle_sweeps.dataset.loading import load
from onecycle_sweeps.dataset.progress import progress
from onecycle_sweeps.dataset.source import Source, Undecoded

__all__ = [
    "Dataset",
    "Facts",
    "Source",
    "Split",
    "Undecoded",
    "batches",
    "evaluation_batches",
    "load",
    "prepare",
    "progress",
    "walk",
]
