"""The transforms once more, as plain as can be: one image and one pixel at a time, with whole numbers of any size."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Words:
    """The words that one sample has for one transform in one epoch, as whole numbers from 0 to 2**64 - 1."""

    values: tuple[int, ...]

    def __getitem__(self, number: int) -> int:
        return self.values[number] % 2**64

    def below(self, number: int, bound: int) -> int:
        return (self[number] >> 32) * bound >> 32

    def fraction(self, number: int) -> float:
        return (self[number] >> 11) / 2**53


def flip(image: np.ndarray, words: Words) -> np.ndarray:
    return image[:, :, ::-1] if words[0] >> 63 else image


def pad_crop(image: np.ndarray, words: Words, padding: int, mode: str) -> np.ndarray:
    height, width = image.shape[1:]
    around = ((0, 0), (padding, padding), (padding, padding))
    padded = np.pad(image, around, "reflect") if mode == "reflect" else np.pad(image, around)
    top, left = words.below(0, 2 * padding + 1), words.below(1, 2 * padding + 1)
    return padded[:, top : top + height, left : left + width]


def cutout(image: np.ndarray, words: Words, size: int, colour: tuple[int, ...]) -> np.ndarray:
    image = image.copy()
    height, width = image.shape[1:]
    top, left = words.below(0, height) - size // 2, words.below(1, width) - size // 2
    for y in range(max(top, 0), min(top + size, height)):
        for x in range(max(left, 0), min(left + size, width)):
            image[:, y, x] = colour
    return image


def cutout_inside(image: np.ndarray, words: Words, size: int, colour: tuple[int, ...]) -> np.ndarray:
    image = image.copy()
    height, width = image.shape[1:]
    top, left = words.below(0, height + 1 - size), words.below(1, width + 1 - size)
    image[:, top : top + size, left : left + size] = np.array(colour)[:, None, None]
    return image


def box(
    words: Words, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width: torchvision's RandomResizedCrop.get_params with these words for its draws."""
    for attempt in range(10):
        area = height * width * (scale[0] + words.fraction(attempt) * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        shape = math.exp(low + words.fraction(10 + attempt) * (high - low))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return words.below(20, height - h + 1), words.below(21, width - w + 1), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image: np.ndarray, top: int, left: int, height: int, width: int, size: int) -> np.ndarray:
    """The box of an image, bilinear, at places rounded to 1/256 of a pixel (halves up), as are the values to 1."""
    out = np.empty((image.shape[0], size, size), np.uint8)
    for row in range(size):
        y, dy = divmod(_place(row, height, size), 256)
        for column in range(size):
            x, dx = divmod(_place(column, width, size), 256)
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            for channel in range(image.shape[0]):
                part = image[channel, top : top + height, left : left + width].tolist()
                upper = part[y][x] * (256 - dx) + part[y][right] * dx
                lower = part[down][x] * (256 - dx) + part[down][right] * dx
                out[channel, row, column] = (upper * (256 - dy) + lower * dy + 2**15) >> 16
    return out


def _place(pixel: int, length: int, size: int) -> int:
    centre = math.floor((2 * pixel + 1) * length * 128 / size + 0.5) - 128
    return min(max(centre, 0), 256 * (length - 1))
