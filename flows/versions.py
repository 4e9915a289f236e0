"""The packages whose versions can move a number: every record that a run or a training leaves names them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

_PACKAGES = ("clipdecoder", "torch", "open_clip_torch", "timm", "numpy", "pillow", "pyarrow")


@cache
def versions() -> dict[str, str]:
    """Return each package's version."""
    return {name: version(name) for name in _PACKAGES}
