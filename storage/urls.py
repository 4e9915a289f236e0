"""What a URL opens: whatever is opened by URL is opened through here."""

from __future__ import annotations

import os
from typing import Any

import fsspec

_DISK = ("file://", "local://")


def local_path(url: str) -> str | None:
    """Return the path that a URL names on this disk, as it stands there; None where it is elsewhere.

    `::` joins URLs, as in `simplecache::s3://bucket/a.tar`, and may stand in the name of a file as well. So it joins
    where some store is named, or a protocol stands before it: `zip::a.tar` is a chain, `./zip::a.tar` is a file.
    """
    for prefix in _DISK:
        if url.startswith(prefix):
            return url.removeprefix(prefix)
    first, joined, _ = url.partition("::")
    chained = bool(joined) and first in fsspec.available_protocols()
    return None if chained or "://" in url else url


def open_file_system(url: str, **storage_options: Any) -> tuple[Any, str]:
    """Return the file system of a URL, and its own path there.

    Raises:
        ValueError, ImportError: it is of a kind that is unknown, or not installed.
    """
    path = local_path(url) if "::" in url else None
    if path is None:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **storage_options)
        return found
    return fsspec.filesystem("file", **storage_options), os.path.abspath(os.path.expanduser(path))
