"""What lies in a folder or in a tar archive: folders, and files by where their bytes are; nothing is ever extracted."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from onecycle_sweeps.dataset.files import hidden, walk

# The path of a file, or its offset and length in an archive.
Place = str | tuple[int, int]
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Tree:
    """The folders and files below `root`, by their names in it; `packed` if it is an archive that is compressed."""

    root: Path
    folders: tuple[str, ...]
    files: Mapping[str, Place]
    packed: bool = False

    @cached_property
    def below(self) -> Mapping[str, list[str]]:
        """The names of the folders in each folder, whose own name ends with a slash, or is empty at the top."""
        found: dict[str, list[str]] = {"": [], **{f"{name}/": [] for name in self.folders}}
        for name in self.folders:
            above, slash, last = name.rpartition("/")
            found[above + slash].append(last)
        return found

    def path(self, name: str) -> str:
        """Where a file or folder lies, as a text that can be printed; a folder's ends with a slash if its name does."""
        slash = "/" if name.endswith("/") else ""
        return f"{self.root / name}{slash}".encode(errors="backslashreplace").decode()

    @contextmanager
    def archive(self) -> Iterator[int | None]:
        """An open descriptor that the places of an archive count in; None for a folder.

        A compressed archive is unpacked, as the one file it is, into a temporary file without a name.
        """
        if self.root.is_dir():
            yield None
        elif not self.packed:
            with self.root.open("rb") as file:
                yield file.fileno()
        else:
            with tempfile.TemporaryFile() as file:
                with _damage_named(self.root), tarfile.open(self.root) as tar:
                    assert tar.fileobj
                    tar.fileobj.seek(0)
                    while block := tar.fileobj.read(2**20):
                        file.write(block)
                file.flush()
                yield file.fileno()


def look_into(path: Path) -> Tree:
    """The tree of a folder or of a .tar, .tar.gz or .tar.xz, without what is hidden.

    Raises ValueError, with the path, for a file that is no archive, for a damaged one, and for one that holds anything
    but folders and files, each in its place; OSError for what cannot be read.
    """
    if path.is_dir():
        folders, files = walk(path)
        return Tree(path, tuple(folders), {name: str(path / name) for name in files})
    if not _is_archive(path):
        raise ValueError(f"{path} is neither a folder nor a .tar, .tar.gz or .tar.xz archive")
    with _damage_named(path), tarfile.open(path) as tar:
        return _tree(path, tar)


def _is_archive(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except EOFError:
        return False


def _tree(path: Path, tar: tarfile.TarFile) -> Tree:
    folders: set[str] = set()
    files: dict[str, Place] = {}
    for member in tar.getmembers():
        name = _checked(path, member)
        above = [str(folder) for folder in name.parents][:-1]
        if any(map(hidden, name.parts)):
            continue
        folders.update(above)
        if member.isfile():
            files[str(name)] = (member.offset_data, member.size)
        elif name.parts:
            folders.add(str(name))
    assert tar.fileobj
    tar.fileobj.seek(tar.offset)
    # tarfile takes a damaged header for the end.
    if (end := tar.fileobj.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no {'header' if end else 'end mark'} at byte {tar.offset}")
    packed = not isinstance(tar.fileobj, io.BufferedReader)
    return Tree(path, tuple(sorted(folders)), dict(sorted(files.items())), packed)


def _checked(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """A member's place below the archive's top; raises ValueError for one that is no folder or file there."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{path} is refused: its member {member.name!r} lies outside of it")
    if member.issparse() or not (member.isfile() or member.isdir()):
        kind = "link" if member.islnk() or member.issym() else "special file"
        raise ValueError(f"{path} is refused: its member {member.name!r} is a {kind}, where only files are read")
    return name


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
