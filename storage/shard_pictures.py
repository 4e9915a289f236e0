"""Some pictures of one shard, out of wherever it lies, for a page that shows them.

In an object store each is guessed first (storage/guesses.py), by the rows that a run wrote of its shard. Where there
are none, or a guess is wrong, and on disks, headers lead to them; what has no range of its own is read through.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from schemas.errors import ShardError, StoreError
from schemas.manifest import ShardReport
from schemas.sample import MemberCounts, SampleStatus
from storage.files import Folder
from storage.guesses import Expected, expected_of, find_by_guess
from storage.parquet import read_parquet
from storage.shards import (
    MAX_MEMBER_BYTES,
    ByteRange,
    is_compressed,
    is_remote,
    iter_ranges,
    iter_samples,
    read_range,
)


class StoredShard(NamedTuple):
    """What a store knows of a shard."""

    folder: Folder
    report: ShardReport


def read_pictures(url: str, ordinals: Collection[int], stored: StoredShard | None = None) -> dict[int, bytes]:
    """Return the bytes of these samples; what cannot be read any more, or stands behind damage, is absent.

    Args:
        url: of the shard.
        ordinals: of the samples.
        stored: what is known of the shard.
    """
    found = _guessed(url, ordinals, stored) if stored is not None else {}
    return found | _by_headers(url, [each for each in ordinals if each not in found])


def _guessed(url: str, ordinals: Collection[int], stored: StoredShard) -> dict[int, bytes]:
    """Return the samples that guesses find, up to the first that none does: what follows it stands otherwise too."""
    if not is_remote(url) or is_compressed(url):
        return {}
    found: dict[int, bytes] = {}
    with suppress(ShardError):
        for ordinal, known in _expected(stored, ordinals).items():
            guess = find_by_guess(url, stored.report.fingerprint.size, ordinal, known)
            if guess is None:
                break
            found[ordinal] = guess.data
    return found


def _expected(stored: StoredShard, ordinals: Collection[int]) -> Mapping[int, Expected]:
    try:
        part = stored.report.parts["samples"]
        table = read_parquet(stored.folder.read_bytes(part.path), ["bytes", "sha256"])
        sizes, checksums = (table[name].to_pylist() for name in ("bytes", "sha256"))
    except (FileNotFoundError, StoreError, pa.ArrowException, OSError, KeyError):
        return {}  # headers do without
    return {
        ordinal: known
        for ordinal, known in expected_of(sizes, checksums, ordinals).items()
        if known.sha256 is not None and known.num_bytes <= MAX_MEMBER_BYTES
    }


def _by_headers(url: str, ordinals: Collection[int]) -> dict[int, bytes]:
    places: dict[int, ByteRange | None] = {}
    with suppress(ShardError):
        for ordinal, place in enumerate(islice(iter_ranges(url), max(ordinals, default=-1) + 1)):
            if ordinal in ordinals:
                places[ordinal] = place
    found: dict[int, bytes] = {}
    try:
        for ordinal, place in places.items():
            if place is None:
                return _read_through(url, ordinals)
            if place.num_bytes <= MAX_MEMBER_BYTES:
                found[ordinal] = read_range(url, place)
    except ShardError:  # a server that gives whole files only
        return _read_through(url, ordinals)
    return found


def _read_through(url: str, ordinals: Collection[int]) -> dict[int, bytes]:
    """Return samples, reading all that stands before them too."""
    found: dict[int, bytes] = {}
    with suppress(ShardError):
        for sample in islice(iter_samples(url, MemberCounts()), max(ordinals) + 1):
            if sample.sample in ordinals and sample.status is SampleStatus.OK:
                found[sample.sample] = sample.data
    return found
