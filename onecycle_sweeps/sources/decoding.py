"""A decoding process: for each line of places that it reads, it writes the images there as squares of RGB bytes.

It runs as a script and imports only Pillow, so that it starts fast and stays small.
"""

import functools
import io
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import IO, cast

from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's formats except those that can run programs (EPS, WMF), whose values are not colours (FITS, SPIDER), that
# Pillow identifies but cannot decode, or that the start of a file does not identify (IPTC, PCD, IM, IMT).
FORMATS = (
    *("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX"),
    *("GBR", "ICNS", "ICO", "JPEG2000", "MSP", "PCX", "PIXAR", "PSD", "QOI", "SGI", "SUN", "TGA", "XBM", "XPM"),
    "XVTHUMB",
)
# No image within Pillow's limit of 89 million pixels needs more.
MAX_BYTES = 10**9

Place = str | tuple[int, int]


def square(file: IO[bytes], size: int) -> Image.Image:
    """The middle square of an image, as RGB of `size` x `size` pixels, its shorter side resized to `size`.

    Resized with Pillow's antialiasing bilinear filter and rotated as EXIF says; transparency is put on white, 16-bit
    values keep their upper byte, and only the first of several frames counts.
    Raises ValueError or Pillow's errors for a file that is not an image, is truncated, or has too many pixels.
    """
    with Image.open(file, formats=_known()) as opened:
        image = _rgb(ImageOps.exif_transpose(opened))
    shorter, longer = sorted(image.size)
    if shorter != size:
        # Rounded as torchvision does.
        stretched = size * longer // shorter
        if size * stretched > (Image.MAX_IMAGE_PIXELS or 0):
            raise ValueError(
                f"{image.width} x {image.height} pixels would become {size} x {stretched}, more than Pillow's limit of "
                f"{Image.MAX_IMAGE_PIXELS} pixels"
            )
        upright = image.width < image.height
        image = image.resize((size, stretched) if upright else (stretched, size), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


@functools.cache
def _known() -> tuple[str, ...]:
    """The formats that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def is_image(file: IO[bytes]) -> bool:
    """Whether a file starts like an image; it may still be damaged."""
    try:
        with Image.open(file, formats=_known()):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:
        # It starts like an image; decoding it will show what is wrong.
        return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = image.convert("I")
        low, high = cast(tuple[int, int], image.getextrema())
        if low < 0 or high >= 2**16:
            raise ValueError(f"its values must be between 0 and 65535, got {low}..{high}")
        return image.point([value >> 8 for value in range(2**16)], "L").convert("RGB")
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers, whose value for white is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def opened(place: Place, archive: int | None) -> IO[bytes]:
    """The bytes at a place: the path of a file, or offset and length in an open archive."""
    length = os.stat(place).st_size if isinstance(place, str) else place[1]
    if not length:
        raise ValueError("the file is empty")
    if length > MAX_BYTES:
        raise ValueError(f"the file has {length} bytes, more than the limit of {MAX_BYTES}")
    if isinstance(place, str):
        return Path(place).open("rb")
    assert archive is not None
    return io.BytesIO(os.pread(archive, length, place[0]))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def decode(places: list[Place], size: int, archive: int | None) -> tuple[list[tuple[int, str]], list[bytes]]:
    """The indices of unreadable images with the reasons, and the planes of all images; unreadable ones are black."""
    problems, squares = [], []
    for number, place in enumerate(places):
        try:
            with opened(place, archive) as file:
                squares.append(b"".join(plane.tobytes() for plane in square(file, size).split()))
        except Exception as error:
            problems.append((number, _reason(error)))
            squares.append(bytes(3 * size * size))
    return problems, squares


def main(size: int, archive: int | None) -> None:
    """Decode the places of each line on standard input until it ends."""
    # The process ends silently if nobody reads its output.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    for line in sys.stdin.buffer:
        problems, squares = decode(json.loads(line), size, archive)
        sys.stdout.buffer.write(json.dumps(problems).encode() + b"\n")
        sys.stdout.buffer.writelines(squares)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
