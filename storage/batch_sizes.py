"""Batch sizes that were found by trying, remembered for this user and machine: they say nothing about a store."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import PositiveInt, ValidationError

from schemas.record import Record

_FILE = "batch-sizes.json"


class BatchSizes(Record):
    """By encoder, device and precision."""

    sizes: dict[str, PositiveInt]


def read_batch_size(key: str) -> int | None:
    """Return what is remembered; None where nothing is, or the file is damaged."""
    return _read().sizes.get(key)


def remember_batch_size(key: str, size: int) -> None:
    """Remember a size. Where the folder cannot be written, it is found anew the next time."""
    sizes = BatchSizes(sizes=_read().sizes | {key: size})
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(sizes.model_dump_json(indent=1))
        partial.replace(path)
    except OSError:
        return


def _read() -> BatchSizes:
    try:
        return BatchSizes.model_validate_json(_path().read_text())
    except (OSError, ValidationError, ValueError):
        return BatchSizes(sizes={})


def _path() -> Path:
    """Return the file.

    Raises:
        FileNotFoundError: there is no place for it: in containers users may have no home.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from error
    return Path(cache, "clipdecoder", _FILE)
