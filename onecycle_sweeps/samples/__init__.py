"""Samples of any kind but images: rows of tables and arrays, windows of a text, items of a torch Dataset.

Each kind has what its loader returns, its facts, and its batches. A trial reads them again through the loader. Nothing
here imports torch before `load`.
"""

from onecycle_sweeps.samples.items import Items
from onecycle_sweeps.samples.rows import Part, Rows
from onecycle_sweeps.samples.sample_facts import SampleFacts
from onecycle_sweeps.samples.windows import Text

__all__ = ["Items", "Part", "Rows", "SampleFacts", "Text"]
