"""Made-up pictures like photographs: soft shapes, a gradient, a hard edge, grain; and files of every flavour."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.nasty import encoded

_ORIENTATION_TAG = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture that depends on its size and the seed alone."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    soft_HWC = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain_HW1 = rng.normal(0, 8, (height, width, 1))
    gradient_W1 = np.linspace(0, 70, width)[:, None]
    edge_W1 = (np.arange(width)[:, None] > width * 0.6) * 40.0
    return Image.fromarray(np.clip(soft_HWC * 0.6 + gradient_W1 + edge_W1 + grain_HW1, 0, 255).astype(np.uint8))


def oriented(image: Image.Image, orientation: int) -> bytes:
    """Return a JPEG whose EXIF block says how it is held."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = orientation
    return encoded(image, "JPEG", quality=90, exif=exif)


def jpeg_flavours(image: Image.Image) -> dict[str, bytes]:
    """Return a JPEG of every kind of the same picture."""
    options: dict[str, dict[str, Any]] = {
        "4:2:0": {"subsampling": 2},
        "4:2:2": {"subsampling": 1},
        "4:4:4": {"subsampling": 0},
        "progressive": {"progressive": True},
        "optimised": {"optimize": True},
        "restart markers": {"restart_marker_rows": 1},
        "adobe rgb": {"keep_rgb": True},
        "coarse": {"quality": 20},
    }
    files = {name: encoded(image, "JPEG", **{"quality": 90} | values) for name, values in options.items()}
    files["grey"] = encoded(image.convert("L"), "JPEG", quality=90)
    files["cmyk"] = encoded(image.convert("CMYK"), "JPEG", quality=90)
    return files | {f"exif {orientation}": oriented(image, orientation) for orientation in range(1, 9)}
