"""A bounded cache of small files on this machine's disk."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path


def write_cached(path: Path, data: bytes) -> None:
    """Write a file of the cache whole or not at all. A disk that is full costs the cache, and not the picture."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def trim_cache(cache: Path, max_bytes: int) -> None:
    """Remove what was looked at longest ago until nine tenths of `max_bytes` are left, if there is more than that.

    What cannot be removed, such as files of somebody else, stays.
    """
    found = []
    for path in cache.glob("*/*"):
        try:
            status = path.stat()
        except OSError:  # another process has just removed it
            continue
        found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= max_bytes:
        return
    for _, size, path in sorted(found, key=lambda each: each[0]):
        with suppress(OSError):
            path.unlink(missing_ok=True)
            total -= size
        if total <= 0.9 * max_bytes:
            break
