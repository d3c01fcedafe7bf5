"""From folders to a data set: which files are the images of which part and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np

from onecycle_sweeps.data.image_folder import decoders
from onecycle_sweeps.data.image_folder.tree import Tree, look_into
from onecycle_sweeps.dataset import Source, Undecoded

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
OFFICIAL = ("val", "test")


def load(root: str, path: str, size: int, test_part: str | None = None, max_cached_gb: float = 8) -> Source:
    """The images of a folder or archive as RGB squares: uint8 (N, 3, size, size), classes in the order of their names.

    The shorter side is resized to `size` and the middle cut out (`decoding.square`). What lies in val/ or test/ is the
    official test part; `test_part` says which, where there are both. Above `max_cached_gb` of 1e9 bytes for all pixels
    the images are decoded in every epoch, and not kept.
    Raises FileNotFoundError where there is nothing at `path`, absolute or below `root`; ValueError, with the path, for
    folders that make no data set; reading the images raises ValueError for those that cannot be read.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, got {size!r}")
    if test_part not in (None, *OFFICIAL):
        raise ValueError(f"test_part must be null, val or test, got {test_part!r}")
    place = Path(root, path).absolute()
    if not place.exists():
        raise FileNotFoundError(
            f"no folder or archive of images at {place}: set data.path to one, absolute or below data.root, "
            "which is ONECYCLE_DATA by default"
        )
    tree = look_into(place)
    parts = [_classes(tree, top) for top in _tops(tree, test_part)]
    class_names = _agreed(tree, parts)
    pixels = 3 * size * size * sum(len(part.files) for part in parts)
    kept = pixels <= max_cached_gb * 1e9
    if tree.packed and not kept:
        raise ValueError(
            f"{place} must be a .tar that is not compressed: its images have {pixels / 1e9:.1f} GB of pixels, more "
            f"than data.max_cached_gb={max_cached_gb}, and are decoded in every epoch"
        )
    train, test = [*parts, Part("", class_names, [], [])][:2]
    return Source(
        _images(tree, train, size, kept),
        np.array(train.labels, int),
        _images(tree, test, size, kept),
        np.array(test.labels, int),
        class_names,
    )


@dataclass(frozen=True)
class Part:
    """The image files of one part in the order of their names, and the class of each."""

    top: str
    class_names: tuple[str, ...]
    files: list[str]
    labels: list[int]


def _tops(tree: Tree, test_part: str | None) -> list[str]:
    """The folder of each part, the training part first; one alone where the classes are not divided into parts."""
    top = ""
    while len(below := _below(tree, top)) == 1 and _below(tree, f"{top}{below[0]}/"):
        top = f"{top}{below[0]}/"
    official = [part for part in OFFICIAL if part in below]
    here = f"{tree.path(top)} holds {', '.join(f'{name}/' for name in below)}"
    if "train" not in below:
        if official:
            raise ValueError(f"{here}: the part to train on must be train/")
        return [top]
    if not official:
        raise ValueError(f"{here}: the part held against train/ must be val/ or test/")
    if test_part is None and len(official) > 1:
        raise ValueError(f"{here}: data.test_part must be val or test, to say which is held against train/")
    if test_part not in (None, *official):
        raise ValueError(f"{here}: data.test_part must be one of them, got {test_part}")
    return [f"{top}train/", f"{top}{test_part or official[0]}/"]


def _below(tree: Tree, top: str) -> list[str]:
    """The names of the folders in a folder, whose own name ends with a slash or is empty."""
    names = (name.removeprefix(top) for name in tree.folders if name.startswith(top))
    return [name for name in names if "/" not in name]


def _classes(tree: Tree, top: str) -> Part:
    """The images of a part; raises ValueError for one without two classes that each have some."""
    numbers = {name: number for number, name in enumerate(_below(tree, top))}
    files = [name for name in tree.files if name.startswith(top) and name.lower().endswith(EXTENSIONS)]
    if len(numbers) < 2:
        found = f": {', '.join(numbers)}/" if numbers else ""
        raise ValueError(
            f"{tree.path(top)} must hold a folder for each of at least two classes, got {len(numbers)}{found}"
        )
    if loose := [name for name in files if "/" not in name.removeprefix(top)]:
        raise ValueError(f"{tree.path(loose[0])} lies in no class folder")
    labels = [numbers[name.removeprefix(top).partition("/")[0]] for name in files]
    for number in sorted(set(numbers.values()) - set(labels)):
        name = f"{top}{list(numbers)[number]}"
        raise ValueError(f"the class folder {tree.path(name)} holds no image: none of {', '.join(EXTENSIONS)}")
    return Part(top, tuple(numbers), files, labels)


def _agreed(tree: Tree, parts: Sequence[Part]) -> tuple[str, ...]:
    """The names of the classes, as they can be printed; raises ValueError for one that not all parts have."""
    for part, other in permutations(parts, 2):
        for name in sorted(set(part.class_names) - set(other.class_names)):
            raise ValueError(f"the class {name} is in {tree.path(part.top)} and not in {tree.path(other.top)}")
    return tuple(name.encode(errors="backslashreplace").decode() for name in parts[0].class_names)


def _images(tree: Tree, part: Part, size: int, kept: bool) -> Undecoded:
    return Undecoded((len(part.files), 3, size, size), kept, partial(decoders.read, tree, part.files, size))
