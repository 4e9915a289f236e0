"""Pictures as the page shows them: decoded and encoded anew, so that nothing but pixels of a file reaches a browser."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from clipdecoder.encoders.images import decode_image
from schemas.config import MAX_PIXELS
from storage.thumbnails import Thumbnails

SMALL, LARGE = 320, 1400  # longest side in pixels
_QUALITY = {SMALL: 75, LARGE: 85}


def open_thumbnails(cache: Path | None = None) -> Thumbnails:
    """Return the thumbnails of this user, or those in a folder."""
    return Thumbnails(cache or cache_folder(), small_picture)


def cache_folder() -> Path:
    """Return where this user's thumbnails lie: `CLIPDECODER_CACHE`, else the system's folder for caches."""
    from platformdirs import user_cache_path

    own = os.environ.get("CLIPDECODER_CACHE")
    return Path(own) if own else user_cache_path("clipdecoder") / "thumbnails"


def small_picture(data: bytes, side: int) -> bytes:
    """Return a picture as WebP whose longest side is at most `side`.

    Raises:
        SampleError: it cannot be decoded.
    """
    return encoded(decode_image(data, max_pixels=MAX_PIXELS), side)


def encoded(picture: Image.Image, side: int) -> bytes:
    """Return a decoded picture as WebP."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY.get(side, 80), method=2)
    return buffer.getvalue()
