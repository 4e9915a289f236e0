"""How large the page shows pictures, and where small ones of them are kept."""

from __future__ import annotations

import os
from pathlib import Path

from flows.thumbnails import small_webp
from schemas.config import MAX_PIXELS
from storage.thumbnails import Thumbnails

SMALL, LARGE = 320, 1400  # longest side in pixels
QUALITY = {SMALL: 75, LARGE: 85}


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
    return small_webp(data, side, QUALITY[side], max_pixels=MAX_PIXELS)
