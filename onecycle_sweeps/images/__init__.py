"""Images and labels from any source: decoded once into a cache, split, described, mapped, and drawn in batches.

torch is imported only by `load`, so that a cached data set can be described without it.
"""

from onecycle_sweeps.images.arrays import Source, Undecoded
from onecycle_sweeps.images.batches import ImageBatches, Split, batches, evaluation_batches, load
from onecycle_sweeps.images.facts import Facts, prepare

__all__ = [
    "Facts",
    "ImageBatches",
    "Source",
    "Split",
    "Undecoded",
    "batches",
    "evaluation_batches",
    "load",
    "prepare",
]
