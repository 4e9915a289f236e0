"""Cheap statistics of a picture: how bright, how sharp, and a hash that copies of it share. numpy and Pillow alone.

All are of the luma (ITU-R 601) of the upright picture, transparent parts over white, with its longer side made `SIDE`
pixels, be it larger or smaller: so that pictures of all sizes compare, as a person would compare previews.

Shapes: H W pixels, S side of the square that is hashed, F frequencies of it that count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from clipdecoder.encoders.images import damage_refused, load_upright, open_image, orientation_of
from clipdecoder.encoders.jpeg import is_plain_jpeg

SIDE = 256
FLAT = 0.01  # contrast below which a picture has no features to hash, but noise
_HASHED_SIDE, _FREQUENCIES = 32, 8
_PARTS = (8, 4, 2)  # of its size that a JPEG can be decoded to


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStatistics:
    """What `image_statistics` says of a picture.

    brightness: mean luma, 0 (black) to 1 (white).
    contrast: standard deviation of luma, 0 (one colour) to 0.5 (half black, half white).
    sharpness: variance of the Laplacian of luma in 0..255, as OpenCV's `Laplacian(grey, CV_64F).var()`: 0 where nothing
        changes, below some 100 where the preview looks blurred, a few thousand where it is full of detail.
    phash: 64 bits, as `imagehash.phash` defines them: copies that were resized or compressed anew differ in a few of
        them, other pictures in about 32. None of a picture that is flat: its bits would be noise.
    """

    brightness: float
    contrast: float
    sharpness: float
    phash: int | None


def image_statistics(data: bytes, *, max_pixels: int) -> ImageStatistics:
    """Return the statistics of an image file.

    JPEGs are decoded at a half, quarter or eighth of their size where that leaves `SIDE` or more.

    Raises:
        SampleError: the picture cannot be decoded, or has more pixels than `max_pixels`.
    """
    return statistics_of(_luma(data, max_pixels))


def statistics_of(luma: Image.Image) -> ImageStatistics:
    """Return the statistics of a picture of 8-bit luma (mode `L`), of any size."""
    ratio = SIDE / max(luma.size)
    size = max(1, round(luma.width * ratio)), max(1, round(luma.height * ratio))
    preview = luma.resize(size, Image.Resampling.BICUBIC)
    luma_HW = np.asarray(preview, np.float32)
    contrast = float(luma_HW.std()) / 255
    return ImageStatistics(
        brightness=float(luma_HW.mean()) / 255,
        contrast=contrast,
        sharpness=_sharpness(luma_HW),
        phash=_phash(preview) if contrast >= FLAT else None,
    )


def _luma(data: bytes, max_pixels: int) -> Image.Image:
    with damage_refused(data):
        image = open_image(data, max_pixels=max_pixels)
        # A JPEG's luma is in it as it is. What is turned by EXIF is left to Pillow, as is what is not sound.
        if is_plain_jpeg(image) and orientation_of(image) == 1:
            luma_HW = _jpeg_luma(data, image.size)
            if luma_HW is not None:
                return Image.fromarray(luma_HW)
        return load_upright(image).convert("L")


def _jpeg_luma(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the luma of a JPEG, at a part of its size; None where it is not sound to the last byte."""
    part = next((part for part in _PARTS if max(size) >= part * SIDE), 1)
    width, height = (-(-side // part) for side in size)
    try:
        luma_HW1 = simplejpeg.decode_jpeg(data, "GRAY", min_height=height, min_width=width, strict=True)
    except ValueError:
        return None
    return np.asarray(luma_HW1[..., 0])


def _sharpness(luma_HW: NDArray[np.float32]) -> float:
    padded = np.pad(luma_HW, 1, mode="reflect" if min(luma_HW.shape) > 1 else "edge")
    laplacian_HW = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * luma_HW
    return float(laplacian_HW.var())


def _cosines() -> NDArray[np.float64]:
    """Return the first rows of the discrete cosine transform (type 2) of a side of the hashed square."""
    frequency, place = np.arange(_FREQUENCIES)[:, None], np.arange(_HASHED_SIDE)
    return np.asarray(np.cos(math.pi * frequency * (2 * place + 1) / (2 * _HASHED_SIDE)))


_COSINES_FS = _cosines()


def _phash(luma: Image.Image) -> int:
    square = luma.resize((_HASHED_SIDE, _HASHED_SIDE), Image.Resampling.LANCZOS)
    low_FF = _COSINES_FS @ np.asarray(square, np.float64) @ _COSINES_FS.T
    bits = (low_FF > np.median(low_FF)).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
