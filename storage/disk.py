"""Files of this machine's disk, without a detour: for small ones fsspec's costs as much as the disk.

All raise OSError as the disk does; what it means to a store is for `storage.files` to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress


def read(path: str) -> bytes:
    """Return a file's content."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def write(path: str, data: bytes) -> int:
    """Write a file, and its folder if that is not there; return how many bytes it took."""
    try:
        return _write(path, data)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _write(path, data)


def _write(path: str, data: bytes) -> int:
    with open(path, "wb") as file:
        return file.write(data)


def sizes(path: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the size in bytes of every file below a folder, or of the file that is there itself.

    What vanishes meanwhile is left out. Links to folders are told of like files and not followed; links that lead
    nowhere have size 0.
    """
    try:
        entries = os.scandir(path)
    except NotADirectoryError:
        yield path, os.stat(path).st_size
        return
    with entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from sizes(entry.path)
                else:
                    yield entry.path, _size(entry)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        if entry.is_symlink():
            return 0
        raise
