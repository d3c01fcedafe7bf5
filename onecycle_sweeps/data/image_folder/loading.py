"""From folders to a data set: which files are the images of which part and class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from onecycle_sweeps.data.image_folder import decoders
from onecycle_sweeps.data.image_folder.tree import Tree, look_into
from onecycle_sweeps.dataset import Source, Undecoded

# A file with such a name must be an image. One with another name is if Pillow finds that it is.
EXTENSIONS = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
# The usual names of part folders, in lower case.
ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
OFFICIAL = ("val", "test")
NO_IMAGE, NO_CLASS, LEFT_OUT = "no image", "in no class folder", "in a part that data.test_part leaves out"


def load(root: str, path: str, size: int, test_part: str | None = None, max_cached_gb: float = 8) -> Source:
    """The images of a folder or archive as RGB squares: uint8 (N, 3, size, size), classes in the order of their names.

    The shorter side is resized to `size` and the middle cut out (`decoding.square`). A part for validation or for
    testing is the official test part; where there are both, they are the source's val and test parts, unless
    `test_part` names the one to use. Above `max_cached_gb` of 1e9 bytes for all pixels the images are decoded in every
    epoch, and not kept.
    Raises FileNotFoundError where there is nothing at `path`, absolute or below `root`; ValueError, with the path, for
    folders that make no data set; reading the images raises ValueError for those that cannot be read.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, got {size!r}")
    if test_part not in (None, *OFFICIAL):
        raise ValueError(f"test_part must be null, val or test, got {test_part!r}")
    place = Path(root, path).expanduser().absolute()
    if not place.exists():
        raise FileNotFoundError(
            f"no folder or archive of images at {place}: set data.path to one, absolute or below data.root, "
            "which is ONECYCLE_DATA by default"
        )
    tree = look_into(place)
    images = decoders.images(tree, EXTENSIONS)
    tops = _tops(tree, images)
    used = {role: top for role, top in tops.items() if role == "train" or test_part in (None, role)}
    if test_part and test_part not in tops:
        found = ", ".join(_folder(top) for role, top in tops.items() if role != "train") or "none"
        raise ValueError(f"data.test_part={test_part} names no part of {place}, which has {found} beside train/")
    parts = {role: _classes(tree, top, images) for role, top in used.items()}
    class_names = _agreed(tree, list(parts.values()))
    pixels = 3 * size * size * sum(len(part.files) for part in parts.values())
    kept = pixels <= max_cached_gb * 1e9
    if tree.packed and not kept:
        raise ValueError(
            f"{place} must be a .tar that is not compressed: its images have {pixels / 1e9:.1f} GB of pixels, more "
            f"than data.max_cached_gb={max_cached_gb}, and are decoded in every epoch"
        )
    # The one part that is held against the training part is the official one, whichever it is.
    val = parts.pop("val") if {"val", "test"} <= parts.keys() else None
    train, test = [*parts.values(), Part("", class_names, [], [])][:2]
    return Source(
        _images(tree, train, size, kept),
        np.array(train.labels, int),
        _images(tree, test, size, kept),
        np.array(test.labels, int),
        class_names,
        val and _images(tree, val, size, kept),
        val and np.array(val.labels, int),
        _skipped(tree, images, tops, used, {*train.files, *test.files, *(val.files if val else ())}),
    )


@dataclass(frozen=True)
class Part:
    """The image files of one part in the order of their names, and the class of each."""

    top: str
    class_names: tuple[str, ...]
    files: list[str]
    labels: list[int]


def _tops(tree: Tree, images: Collection[str]) -> dict[str, str]:
    """The folder of each part by its role, the training part first; one alone where there are no parts.

    Raises ValueError, with what was found, where it is not clear which folders are parts and which are classes.
    """
    top = ""
    while len(below := tree.below[top]) == 1 and tree.below[f"{top}{below[0]}/"]:
        if (role := ROLES.get(below[0].lower())) in OFFICIAL:
            raise ValueError(f"{tree.path(top)} holds {_folder(below[0])} alone: there is no part to train on, train/")
        top = f"{top}{below[0]}/"
        if role == "train":
            _check_classes(tree, top)
            return {"train": top}
    named = {name: role for name in below if (role := ROLES.get(name.lower()))}
    here = f"{tree.path(top)} holds {', '.join(map(_folder, below))}"
    if not named:
        _check_undivided(tree, top, images)
        return {"train": top}
    for role in dict.fromkeys(named.values()):
        if len(same := [_folder(name) for name in named if named[name] == role]) > 1:
            raise ValueError(f"{here}: {' and '.join(same)} may both be the {role} part, only one can be there")
    roles = {role: f"{top}{name}/" for name, role in named.items()}
    with_images = {file.removeprefix(top).partition("/")[0] for file in images if file.startswith(top)}
    if others := [name for name in below if name in with_images and name not in named]:
        raise ValueError(
            f"{here}: is {_folder(others[0])} a part or a class? Parts are train/, val/ and test/, and classes that "
            "lie beside folders of such names must be put below train/"
        )
    if "train" not in roles:
        raise ValueError(f"{here}: there is no part to train on, train/")
    if len(roles) == 1:
        raise ValueError(f"{here}: there is no part to hold against {_folder(next(iter(named)))}, val/ or test/")
    for part in roles.values():
        _check_classes(tree, part)
    return {role: roles[role] for role in ("train", *OFFICIAL) if role in roles}


def _check_classes(tree: Tree, top: str) -> None:
    """Raise ValueError for a class folder that is divided into parts."""
    for name in tree.below[top]:
        roles = {ROLES.get(inner.lower()): inner for inner in tree.below[f"{top}{name}/"]}
        if "train" in roles and not roles.keys().isdisjoint(OFFICIAL):
            found = ", ".join(_folder(inner) for role, inner in roles.items() if role)
            raise ValueError(
                f"{tree.path(f'{top}{name}/')} holds {found}: parts must lie above the classes, train/{_folder(name)}"
            )


def _check_undivided(tree: Tree, top: str, images: Collection[str]) -> None:
    """Raise ValueError for folders that hold folders of the same names: either may be the classes."""
    _check_classes(tree, top)
    holders = {file.rpartition("/")[0] for file in images}
    divided: dict[tuple[str, ...], str] = {}
    for name in tree.below[top]:
        if f"{top}{name}" in holders:
            continue
        for pair in combinations([one for one in tree.below[f"{top}{name}/"] if f"{top}{name}/{one}" in holders], 2):
            if other := divided.get(pair):
                raise ValueError(
                    f"{tree.path(top)} holds {_folder(other)} and {_folder(name)}, and both hold "
                    f"{' and '.join(map(_folder, pair))}: are these the classes? Name parts train/, val/ and test/, or "
                    "put the classes below one folder train/"
                )
            divided[pair] = name


def _folder(name: str) -> str:
    return f"{name.rstrip('/').rpartition('/')[2]}/".encode(errors="backslashreplace").decode()


def _classes(tree: Tree, top: str, images: Collection[str]) -> Part:
    """The images of a part; raises ValueError for one without two classes that each have some."""
    numbers = {name: number for number, name in enumerate(tree.below[top])}
    files = [name for name in tree.files if name in images and name.startswith(top)]
    if len(numbers) < 2:
        found = f": {', '.join(numbers)}/" if numbers else ""
        raise ValueError(
            f"{tree.path(top)} must hold a folder for each of at least two classes, got {len(numbers)}{found}"
        )
    if loose := [name for name in files if "/" not in name.removeprefix(top)]:
        raise ValueError(f"{tree.path(loose[0])} lies in no class folder")
    labels = [numbers[name.removeprefix(top).partition("/")[0]] for name in files]
    for number in sorted(set(numbers.values()) - set(labels)):
        name = f"{top}{list(numbers)[number]}/"
        raise ValueError(f"the class folder {tree.path(name)} holds no image that Pillow can read")
    return Part(top, tuple(numbers), files, labels)


def _skipped(
    tree: Tree, images: Collection[str], tops: Mapping[str, str], used: Mapping[str, str], taken: Collection[str]
) -> dict[str, list[str]]:
    """The files that were passed over, by the reason; what is hidden is not counted."""
    left_out = tuple(top for role, top in tops.items() if role not in used)
    found: dict[str, list[str]] = {}
    for name in tree.files:
        if name not in taken:
            image = LEFT_OUT if left_out and name.startswith(left_out) else NO_CLASS
            reason = image if name in images else NO_IMAGE
            found.setdefault(reason, []).append(name.encode(errors="backslashreplace").decode())
    return found


def _agreed(tree: Tree, parts: Sequence[Part]) -> tuple[str, ...]:
    """The names of the classes, as they can be printed; raises ValueError for one that not all parts have."""
    for part, other in permutations(parts, 2):
        for name in sorted(set(part.class_names) - set(other.class_names)):
            raise ValueError(f"the class {name} is in {tree.path(part.top)} and not in {tree.path(other.top)}")
    return tuple(name.encode(errors="backslashreplace").decode() for name in parts[0].class_names)


def _images(tree: Tree, part: Part, size: int, kept: bool) -> Undecoded:
    return Undecoded((len(part.files), 3, size, size), kept, partial(decoders.read, tree, part.files, size))
