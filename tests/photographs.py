"""Small images for the tests: in idx files, class folders and archives, and decoded."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onecycle_sweeps.images import Source, Undecoded
from onecycle_sweeps.sources import decoding, image_folder

SIZE = 8


def picture(seed: int, width: int = 10, height: int = 8) -> Image.Image:
    """An RGB image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def laid(root: Path, files: Mapping[str, bytes]) -> Path:
    """Files in a folder, by their names in it; a name that ends with a slash is an empty folder."""
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def classes(*tops: str, each: int = 3, names: Iterable[str] = ("ants", "bees")) -> dict[str, bytes]:
    """Some images of each class below each folder, no two alike."""
    places = [f"{top}{name}/{number}.png" for top in tops for name in names for number in range(each)]
    return {place: encoded(picture(seed)) for seed, place in enumerate(places)}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes in Yann LeCun's idx format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def packed(path: Path, files: Mapping[str, bytes], mode: str = "w", prefix: str = "") -> Path:
    """A tar archive of these files."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def source(path: Path, size: int = SIZE, **options: Any) -> Source:
    """What the loader makes of a folder or archive."""
    return image_folder.load(str(path.parent), path.name, size, **options)


def pixels(images: Any, processes: int = 1) -> np.ndarray:
    """All images of a part, decoded."""
    assert isinstance(images, Undecoded)
    return next(images.read([np.arange(images.shape[0])], processes))


def square(content: bytes, size: int = SIZE) -> np.ndarray:
    """One image file as it is decoded, (3, size, size)."""
    image = decoding.square(io.BytesIO(content), size)
    assert image.mode == "RGB"
    return np.asarray(image).transpose(2, 0, 1)
