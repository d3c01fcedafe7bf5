"""Photographs in class folders: <path>/train/CLASS/* beside val/ or test/, or <path>/CLASS/*, in a folder or a .tar.

`load` finds the images of each part and class, `Tree` locates their bytes (an archive is never extracted), and `_read`
decodes them in several processes, one batch ahead.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations, islice, permutations
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from onecycle_sweeps import machine
from onecycle_sweeps.fingerprints import is_hidden, walk
from onecycle_sweeps.images import Source, Undecoded
from onecycle_sweeps.sources import decoding
from onecycle_sweeps.terminal import counting

# A file with one of these extensions must be an image; any other file is an image if Pillow recognises it.
EXTENSIONS = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
# The part that a folder of this name (in lower case) holds.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
OFFICIAL = ("val", "test")
NO_IMAGE, NO_CLASS, LEFT_OUT = "no image", "in no class folder", "in a part that data.test_part leaves out"
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
# Each decoding process takes about 30 MB; 16 of them keep up with any disk.
MOST_PROCESSES = 16
# An error message names at most this many unreadable images.
NAMED = 5


def load(root: str, path: str, size: int, test_part: str | None = None, max_cached_gb: float = 8) -> Source:
    """The images of a folder or archive as RGB squares: uint8 (N, 3, size, size), classes in the order of their names.

    The shorter side is resized to `size` and the centre cropped (`decoding.square`). A val or a test folder alone is
    the official test part; if there are both, they are the source's val and test parts, unless `test_part` names the
    one to use. If all pixels take more than `max_cached_gb` (of 1e9 bytes), the images are not cached but decoded in
    every epoch.
    Raises FileNotFoundError if nothing is at `path` (absolute, or below `root`), ValueError, with the path, if the
    folders are not a data set. Reading the images raises ValueError if some cannot be decoded.
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, got {size!r}")
    if test_part not in (None, *OFFICIAL):
        raise ValueError(f"test_part must be null, val or test, got {test_part!r}")
    place = Path(root, path).expanduser().absolute()
    if not place.exists():
        raise FileNotFoundError(
            f"there is no folder or archive of images at {place}: set data.path to one, as an absolute path or below "
            "data.root (by default ONECYCLE_DATA)"
        )
    tree = read_tree(place)
    images = _image_names(tree)
    folders = _part_folders(tree, images)
    if test_part and test_part not in folders:
        found = ", ".join(_shown(top) for part, top in folders.items() if part != "train") or "no other part"
        raise ValueError(f"data.test_part={test_part} is not a part of {place}, which has {found} beside train/")
    used = {part: top for part, top in folders.items() if part == "train" or test_part in (None, part)}
    parts = {part: _labelled(tree, top, images) for part, top in used.items()}
    class_names = _common_classes(tree, list(parts.values()))
    pixels = 3 * size * size * sum(len(part.files) for part in parts.values())
    kept = pixels <= max_cached_gb * 1e9
    if tree.packed and not kept:
        raise ValueError(
            f"{place} must be a .tar that is not compressed, because its images take {pixels / 1e9:.1f} GB, more than "
            f"data.max_cached_gb={max_cached_gb}, and are decoded in every epoch: decompress it or raise the limit"
        )
    # A single part beside the training part is the official test part, whether it is named val or test.
    val = parts.pop("val") if {"val", "test"} <= parts.keys() else None
    train, test = [*parts.values(), LabelledFiles("", class_names, [], [])][:2]
    taken = {*train.files, *test.files, *(val.files if val else ())}
    return Source(
        _images(tree, train, size, kept),
        np.array(train.labels, int),
        _images(tree, test, size, kept),
        np.array(test.labels, int),
        class_names,
        val and _images(tree, val, size, kept),
        val and np.array(val.labels, int),
        _skipped(tree, images, set(folders.values()) - set(used.values()), taken),
    )


@dataclass(frozen=True)
class LabelledFiles:
    """The image files of one part in the order of their names, and the class of each."""

    top: str
    class_names: tuple[str, ...]
    files: list[str]
    labels: list[int]


def _part_folders(tree: Tree, images: Collection[str]) -> dict[str, str]:
    """The folder of each part, the training part first; only that one if there are no parts.

    Raises ValueError, naming the folders, if it is unclear which of them are parts and which are classes.
    """
    top = ""
    while len(below := tree.below[top]) == 1 and tree.below[f"{top}{below[0]}/"]:
        if (part := PARTS.get(below[0].lower())) in OFFICIAL:
            raise ValueError(f"{tree.path(top)} has only {_shown(below[0])}: add a part to train on, train/")
        top = f"{top}{below[0]}/"
        if part == "train":
            _check_classes(tree, top)
            return {"train": top}
    named = {name: part for name in below if (part := PARTS.get(name.lower()))}
    here = f"{tree.path(top)} has {', '.join(map(_shown, below))}"
    if not named:
        _check_undivided(tree, top, images)
        return {"train": top}
    for part in dict.fromkeys(named.values()):
        if len(same := [_shown(name) for name in named if named[name] == part]) > 1:
            raise ValueError(f"{here}: {' and '.join(same)} are both names of the {part} part, keep only one of them")
    folders = {part: f"{top}{name}/" for name, part in named.items()}
    with_images = {file.removeprefix(top).partition("/")[0] for file in images if file.startswith(top)}
    if others := [name for name in below if name in with_images and name not in named]:
        raise ValueError(
            f"{here}: {_shown(others[0])} may be a part or a class. Name parts train/, val/ and test/, and put "
            "classes beside folders of such names into train/"
        )
    if "train" not in folders:
        raise ValueError(f"{here}: add a part to train on, train/")
    if len(folders) == 1:
        raise ValueError(f"{here}: add a part to evaluate on beside {_shown(next(iter(named)))}, val/ or test/")
    for folder in folders.values():
        _check_classes(tree, folder)
    return {part: folders[part] for part in ("train", *OFFICIAL) if part in folders}


def _check_classes(tree: Tree, top: str) -> None:
    """Raise ValueError for a class folder that is divided into parts."""
    for name in tree.below[top]:
        parts = {PARTS.get(inner.lower()): inner for inner in tree.below[f"{top}{name}/"]}
        if "train" in parts and not parts.keys().isdisjoint(OFFICIAL):
            found = ", ".join(_shown(inner) for part, inner in parts.items() if part)
            raise ValueError(
                f"{tree.path(f'{top}{name}/')} has {found}: put parts above the classes: train/{_shown(name)}"
            )


def _check_undivided(tree: Tree, top: str, images: Collection[str]) -> None:
    """Raise ValueError if two folders have subfolders of the same names: either level may be the classes."""
    _check_classes(tree, top)
    holders = {file.rpartition("/")[0] for file in images}
    divided: dict[tuple[str, ...], str] = {}
    for name in tree.below[top]:
        if f"{top}{name}" in holders:
            continue
        for pair in combinations([one for one in tree.below[f"{top}{name}/"] if f"{top}{name}/{one}" in holders], 2):
            if other := divided.get(pair):
                raise ValueError(
                    f"{tree.path(top)} has {_shown(other)} and {_shown(name)}, and both have "
                    f"{' and '.join(map(_shown, pair))}, so either may be the classes: name parts train/, val/ and "
                    "test/, or put all classes into one folder train/"
                )
            divided[pair] = name


def _shown(name: str) -> str:
    """The printable last part of a folder's name."""
    return f"{name.rstrip('/').rpartition('/')[2]}/".encode(errors="backslashreplace").decode()


def _labelled(tree: Tree, top: str, images: Collection[str]) -> LabelledFiles:
    """The images of a part; raises ValueError unless it has at least two classes, each with an image."""
    numbers = {name: number for number, name in enumerate(tree.below[top])}
    files = [name for name in tree.files if name in images and name.startswith(top)]
    if len(numbers) < 2:
        found = f": {', '.join(numbers)}/" if numbers else ""
        raise ValueError(
            f"{tree.path(top)} must have a folder for each of at least two classes, got {len(numbers)}{found}"
        )
    if loose := [name for name in files if "/" not in name.removeprefix(top)]:
        raise ValueError(f"{tree.path(loose[0])} is not in a class folder")
    labels = [numbers[name.removeprefix(top).partition("/")[0]] for name in files]
    present = set(labels)
    for name, number in numbers.items():
        if number not in present:
            raise ValueError(f"the class folder {tree.path(f'{top}{name}/')} has no image that Pillow can read")
    return LabelledFiles(top, tuple(numbers), files, labels)


def _skipped(
    tree: Tree, images: Collection[str], left_out: Collection[str], used: Collection[str]
) -> dict[str, list[str]]:
    """The files that are not `used`, by reason; `left_out` are the folders of parts that are not."""
    found: dict[str, list[str]] = {}
    for name in tree.files:
        if name not in used:
            image = LEFT_OUT if name.startswith(tuple(left_out)) else NO_CLASS
            reason = image if name in images else NO_IMAGE
            found.setdefault(reason, []).append(name.encode(errors="backslashreplace").decode())
    return found


def _common_classes(tree: Tree, parts: Sequence[LabelledFiles]) -> tuple[str, ...]:
    """The printable names of the classes; raises ValueError for a class that a part lacks."""
    for part, other in permutations(parts, 2):
        for name in sorted(set(part.class_names) - set(other.class_names)):
            raise ValueError(f"the class {name} is in {tree.path(part.top)} but not in {tree.path(other.top)}")
    return tuple(name.encode(errors="backslashreplace").decode() for name in parts[0].class_names)


def _images(tree: Tree, part: LabelledFiles, size: int, kept: bool) -> Undecoded:
    return Undecoded((len(part.files), 3, size, size), kept, partial(_read, tree, part.files, size))


@dataclass(frozen=True)
class Tree:
    """The folders and files below `root`, by their paths in it; `packed` if `root` is a compressed archive."""

    root: Path
    folders: tuple[str, ...]
    files: Mapping[str, decoding.Place]
    packed: bool = False

    @cached_property
    def below(self) -> Mapping[str, list[str]]:
        """The names of each folder's subfolders; a key ends with a slash, and the top folder's is empty."""
        found: dict[str, list[str]] = {"": [], **{f"{name}/": [] for name in self.folders}}
        for name in self.folders:
            above, slash, last = name.rpartition("/")
            found[above + slash].append(last)
        return found

    def path(self, name: str) -> str:
        """The printable path of a file or folder; it ends with a slash if the name does."""
        slash = "/" if name.endswith("/") else ""
        return f"{self.root / name}{slash}".encode(errors="backslashreplace").decode()

    @contextmanager
    def archive(self) -> Iterator[int | None]:
        """A descriptor of the archive that the files' offsets refer to; None for a folder.

        A compressed archive is decompressed into an unnamed temporary file.
        """
        if self.root.is_dir():
            yield None
        elif not self.packed:
            with self.root.open("rb") as file:
                yield file.fileno()
        else:
            with tempfile.TemporaryFile() as file:
                with _damage_reported(self.root), tarfile.open(self.root) as tar:
                    assert tar.fileobj
                    tar.fileobj.seek(0)
                    while block := tar.fileobj.read(2**20):
                        file.write(block)
                file.flush()
                yield file.fileno()


def read_tree(path: Path) -> Tree:
    """The tree of a folder or of a .tar, .tar.gz or .tar.xz, without hidden files.

    Raises ValueError, with the path, for a file that is not an archive, a damaged archive, and one with a link, a
    special file or a file outside it; OSError if something cannot be read.
    """
    if path.is_dir():
        folders, files = walk(path)
        return Tree(path, tuple(folders), {name: str(path / name) for name in files})
    if not _is_archive(path):
        raise ValueError(f"{path} is neither a folder nor a .tar, .tar.gz or .tar.xz archive")
    with _damage_reported(path), tarfile.open(path) as tar:
        return _tree(path, tar)


def _is_archive(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:
        return False


def _tree(path: Path, tar: tarfile.TarFile) -> Tree:
    folders: set[str] = set()
    files: dict[str, decoding.Place] = {}
    for member in tar.getmembers():
        name = _checked(path, member)
        above = [str(folder) for folder in name.parents][:-1]
        if any(map(is_hidden, name.parts)):
            continue
        folders.update(above)
        if member.isfile():
            files[str(name)] = (member.offset_data, member.size)
        elif name.parts:
            folders.add(str(name))
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    # tarfile mistakes a damaged header for the end of the archive.
    if (end := tar.fileobj.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no {'header' if end else 'end mark'} at byte {tar.offset}")
    packed = not isinstance(tar.fileobj, io.BufferedReader)
    return Tree(path, tuple(sorted(folders)), dict(sorted(files.items())), packed)


def _checked(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """A member's path in the archive; raises ValueError for a link, a special file or a path outside the archive."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{path} cannot be used: its member {member.name!r} lies outside of the archive")
    if member.issparse() or not (member.isfile() or member.isdir()):
        kind = "link" if member.islnk() or member.issym() else "special file"
        raise ValueError(f"{path} cannot be used: its member {member.name!r} is a {kind}, not a file or folder")
    return name


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _image_names(tree: Tree) -> set[str]:
    """The paths of a tree's images: files with an image's extension, and others that Pillow recognises."""
    images = {name for name in tree.files if name.lower().endswith(EXTENSIONS)}
    if others := [name for name in tree.files if name not in images]:
        with tree.archive() as archive, counting("checking files with other extensions", len(others), "files") as count:
            for name in others:
                count(1)
                with suppress(OSError, ValueError), decoding.opened(tree.files[name], archive) as file:
                    if decoding.is_image(file):
                        images.add(name)
    return images


def _read(
    tree: Tree, names: Sequence[str], size: int, batches: Iterable[np.ndarray], processes: int | None
) -> Iterator[np.ndarray]:
    """The decoded images, uint8 (n, 3, size, size), of each array of positions in `names`.

    Raises ValueError naming the unreadable images: all of them if `batches` has a length, else those of the batch.
    """
    count = processes or min(machine.cores(), MOST_PROCESSES)
    problems: list[str] = []
    with _decoders(tree, size, count) as decoders:
        shares = ([names[int(i)] for i in share] for batch in batches for share in np.array_split(batch, count))
        pending = deque(decoder.send(share) for decoder, share in zip(decoders, shares, strict=False))
        while pending:
            whole = np.empty((sum(len(share) for _, share in islice(pending, count)), 3, size, size), np.uint8)
            start = 0
            for _ in range(count):
                decoder, share = pending.popleft()
                problems += decoder.receive(share, whole[start : start + len(share)])
                start += len(share)
                pending.extend(decoder.send(following) for following in islice(shares, 1))
            if not problems:
                yield whole
            elif not isinstance(batches, Sized):
                break
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        number = "" if len(problems) == 1 else f"{len(problems)} images: "
        raise ValueError(f"cannot read {number}{'; '.join(problems[:NAMED])}{more}")


@dataclass(frozen=True)
class Decoder:
    """A decoding process, whose standard error goes to the file `errors`."""

    tree: Tree
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def send(self, names: list[str]) -> tuple[Decoder, list[str]]:
        """Send the process the files to decode; returns the decoder and the files, to be received later."""
        assert self.process.stdin
        places = [self.tree.files[name] for name in names]
        try:
            self.process.stdin.write(json.dumps(places).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self, names

    def receive(self, names: list[str], pixels: np.ndarray) -> list[str]:
        """Fill `pixels` with the images of the files sent; returns each unreadable file with the reason."""
        stream = self.process.stdout
        assert isinstance(stream, io.BufferedReader)
        line = stream.readline()
        if not line or stream.readinto(pixels.reshape(-1).data) < pixels.size:
            raise self._ended()
        return [f"{self.tree.path(names[number])}: {reason}" for number, reason in json.loads(line)]

    def _ended(self) -> ValueError:
        """The error for a process that ended too early, with the last line of its standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        cause = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"status {code}"
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return ValueError(": ".join([f"a decoding process ended with {cause}{hint}", *last]))


@contextmanager
def _decoders(tree: Tree, size: int, count: int) -> Iterator[Sequence[Decoder]]:
    """Decoding processes, which are ended when the context is left."""
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        archive = stack.enter_context(tree.archive())
        descriptors = () if archive is None else (archive,)
        # -P keeps the script's folder off the path, so that no module there can shadow one that Pillow imports.
        command = [sys.executable, "-P", str(Path(decoding.__file__)), str(size), *map(str, descriptors)]
        decoders = []
        for _ in range(count):
            # A session of its own, so that Ctrl-C reaches only this process.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=descriptors,
                start_new_session=True,
            )
            stack.callback(_end, process)
            decoders.append(Decoder(tree, process, errors))
        yield decoders


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # Closing flushes, but the process may have ended already.
    with suppress(BrokenPipeError), process:
        pass
