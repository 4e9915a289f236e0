"""JPEG files by libjpeg-turbo, where the result is what Pillow would have given; all others are left to Pillow."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile


def is_plain_jpeg(opened: Image.Image) -> bool:
    """Whether a picture that Pillow opened is a JPEG in colour or grey. Those of four channels are Pillow's."""
    return isinstance(opened, JpegImageFile) and opened.mode in ("RGB", "L")


def decode_jpeg(data: bytes, size: tuple[int, int], *, shrink: int = 1) -> NDArray[np.uint8] | None:
    """Return pixels_HWC, RGB, as they lie in the file, or None where it is not sound to the last byte.

    A decoder that warns has made up pixels; whether such a file is truncated, damaged or still good is for Pillow to
    say.

    Args:
        data: a file of which `is_plain_jpeg` holds.
        size: width and height in its header.
        shrink: 1, 2, 4 or 8: decode to this part of the size, which leaves out the finest detail. It is faster than
            decoding everything, and not exact.
    """
    width, height = size
    shape = -(-height // shrink), -(-width // shrink), 3
    try:
        pixels_HWC = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=False, fastupsample=False, min_height=shape[0], min_width=shape[1], strict=True
        )
    except ValueError:
        return None
    return pixels_HWC if pixels_HWC.shape == shape else None
