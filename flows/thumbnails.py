"""Small pictures for pages: pixels of a file encoded anew as WebP, so that nothing else of it reaches a browser."""

from __future__ import annotations

import io

from PIL import Image

from clipdecoder.encoders.images import decode_image

_EFFORT = 4  # WebP's own middle


def small_webp(data: bytes, side: int, quality: int, *, max_pixels: int) -> bytes:
    """Return a picture as WebP whose longest side is at most `side`.

    Raises:
        SampleError: it cannot be decoded, or has more than `max_pixels`.
    """
    return encode_small(decode_image(data, max_pixels=max_pixels), side, quality)


def encode_small(picture: Image.Image, side: int, quality: int) -> bytes:
    """Return a decoded picture as WebP whose longest side is at most `side`; a smaller one is not enlarged.

    Args:
        picture: stays as it is.
        side: in pixels.
        quality: of WebP, 0 to 100.
    """
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=_EFFORT)
    return buffer.getvalue()
