"""A photograph comes out as people see it, whatever it was saved as, and what is no photograph is refused by name."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from onecycle_sweeps.sources import decoding
from photographs import encoded, picture, square

ORIENTED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("size", [1, 7, 8, 30])
@pytest.mark.parametrize("shape", [(8, 8), (31, 17), (17, 31), (8, 13), (9, 8), (3, 200), (64, 63)])
def test_the_middle_square_of_the_resized_image_equals_torchvisions(shape, size):
    content = encoded(picture(0, *shape), "JPEG")
    theirs = Compose([Resize(size), CenterCrop(size), PILToTensor()])(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(square(content, size), torch.as_tensor(theirs).numpy())


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_supported_format_has_pillows_own_pixels(kind):
    content = encoded(picture(1, 8, 8), kind)
    np.testing.assert_array_equal(square(content).transpose(1, 2, 0), Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_a_camera_that_was_turned_is_turned_back(orientation, kind):
    upright, exif = picture(2, 12, 8), Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    turned = encoded(upright.transpose(ORIENTED[orientation]), kind, exif=exif, **options)
    np.testing.assert_array_equal(square(turned), square(encoded(upright)))


def not_of_bytes(value: object) -> str:
    """What a test is called by: not the bytes of its image."""
    return "" if isinstance(value, bytes) else str(value)


def of_one_colour(mode: str, colour, **options) -> bytes:
    return encoded(Image.new(mode, (9, 8), colour), **options)


def with_palette(*colours: tuple[int, int, int], **options) -> bytes:
    image = Image.new("P", (9, 8), 1)
    image.putpalette([value for colour in colours for value in colour])
    return encoded(image, **options)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (of_one_colour("L", 77), (77, 77, 77)),
        (of_one_colour("1", 1), (255, 255, 255)),
        (of_one_colour("L", 77, kind="JPEG"), (77, 77, 77)),
        (with_palette((1, 2, 3), (40, 50, 60)), (40, 50, 60)),
        (with_palette((1, 2, 3), (40, 50, 60), kind="GIF"), (40, 50, 60)),
        (with_palette((1, 2, 3), (40, 50, 60), transparency=1), (255, 255, 255)),
        (with_palette((1, 2, 3), (40, 50, 60), transparency=bytes([255, 51])), (212, 214, 216)),
        (with_palette((1, 2, 3), (40, 50, 60), transparency=0), (40, 50, 60)),
        (of_one_colour("RGBA", (255, 0, 100, 255)), (255, 0, 100)),
        (of_one_colour("RGBA", (255, 0, 100, 0)), (255, 255, 255)),
        (of_one_colour("RGBA", (255, 0, 100, 51)), (255, 204, 224)),
        (of_one_colour("LA", (100, 51)), (224, 224, 224)),
        (of_one_colour("RGB", (9, 8, 7), transparency=(9, 8, 7)), (255, 255, 255)),
        (of_one_colour("RGB", (9, 8, 7), transparency=(7, 8, 9)), (9, 8, 7)),
        (of_one_colour("L", 9, transparency=9), (255, 255, 255)),
        (of_one_colour("I;16", 0x8040), (128, 128, 128)),
        (of_one_colour("I;16", 0xFFFF), (255, 255, 255)),
        (of_one_colour("I;16", 0x00FF), (0, 0, 0)),
        (of_one_colour("I;16", 0x8040, kind="TIFF"), (128, 128, 128)),
        (of_one_colour("I;16", 0x8040, kind="PPM"), (128, 128, 128)),
        (of_one_colour("I;16", 0x8040, transparency=0x8040), (128, 128, 128)),
        (of_one_colour("CMYK", (255, 0, 0, 0), kind="TIFF"), (0, 255, 255)),
        (of_one_colour("CMYK", (0, 0, 0, 255), kind="TIFF"), (0, 0, 0)),
        (of_one_colour("YCbCr", (76, 85, 255), kind="TIFF"), (254, 0, 0)),
    ],
    ids=not_of_bytes,
)
def test_grey_palette_transparent_16_bit_and_cmyk_images_have_the_colours_that_people_see(content, expected):
    np.testing.assert_array_equal(square(content)[:, 4, 4], expected)


def test_a_cmyk_jpeg_has_its_colours():
    content = of_one_colour("CMYK", (255, 0, 0, 0), kind="JPEG", quality=100)
    np.testing.assert_allclose(square(content)[:, 4, 4], (0, 255, 255), atol=2)


def test_the_first_of_several_frames_is_decoded():
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(square(content)[:, 4, 4], (255, 0, 0))


def png_of(width: int, height: int) -> bytes:
    """A few bytes that claim to be an image of any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "Pillow"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "Pillow"),
        (encoded(picture(3, 99, 99), "JPEG")[:-2000], "truncated"),
        (encoded(picture(3), "JPEG")[:40], ""),
        (encoded(picture(3, 99, 99))[:-2000], "truncated"),
        (encoded(picture(3, 99, 99), "WEBP")[:-2000], ""),
        (encoded(picture(3, 99, 99), "TIFF")[:-2000], ""),
        (encoded(picture(3, 99, 99), "BMP")[:-2000], "truncated"),
        (png_of(100_000, 100_000), r"10000000000 pixels\) exceeds limit of 178956970"),
        (png_of(10_000, 9_000), r"90000000 pixels\) exceeds limit of 89478485"),
        (encoded(Image.new("L", (1, 60_000)), "PNG"), "1 x 60000 pixels.*64.*89478485"),
        (encoded(Image.new("F", (9, 8), 0.5), "TIFF"), "floating-point"),
        (encoded(Image.new("I", (9, 8), 70_000), "TIFF"), r"65535.*70000\.\.70000"),
        (encoded(Image.new("I", (9, 8), -1), "TIFF"), r"65535.*-1\.\.-1"),
    ],
    ids=not_of_bytes,
)
def test_an_unreadable_image_is_reported_with_the_reason_and_the_others_are_decoded(tmp_path: Path, content, reason):
    bad, good = tmp_path / "bad.jpg", tmp_path / "good.png"
    bad.write_bytes(content)
    good.write_bytes(encoded(picture(4)))
    problems, squares = decoding.decode([str(good), str(bad), str(good)], 64, None)
    assert [number for number, _ in problems] == [1]
    assert re.search(reason, problems[0][1])
    assert squares[1] == bytes(3 * 64 * 64)
    np.testing.assert_array_equal(np.frombuffer(squares[2], np.uint8).reshape(3, 64, 64), square(good.read_bytes(), 64))


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), os.mkfifo, Path.mkdir])
def test_a_path_that_is_not_a_file_is_reported_at_once(tmp_path: Path, make):
    make(tmp_path / "odd.jpg")
    problems, _ = decoding.decode([str(tmp_path / "odd.jpg")], 8, None)
    assert [number for number, _ in problems] == [0]


def test_a_file_too_large_for_any_image_is_not_read(tmp_path: Path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(10**9 + 1)
    problems, _ = decoding.decode([str(tmp_path / "large.jpg")], 8, None)
    ((number, reason),) = problems
    assert number == 0 and "1000000001" in reason and "1000000000" in reason
