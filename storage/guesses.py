"""Where a picture stands in a shard whose headers were not read: guessed from what the store knows, then checked.

In an object store, walking through the headers of a shard of small pictures means to read all of it. The sizes of all
its pictures and of the shard are known; what stands between them (side files) is spread over the shard as if it were
even. So one read around the guess nearly always holds the picture with its header, and the size and SHA-256 that the
store has of it tell that it is the one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from tarfile import BLOCKSIZE, HeaderError, TarInfo

from storage.files import checksum
from storage.shards import ByteRange, read_some

_END_BYTES = 6 * 1024  # of the end marker and the padding after it; between 1 and 11 KiB as tars are written
_MIN_MARGIN = 8 * 1024  # on each side of a guess: that padding, headers of long names, folders
_MARGIN = 3 * 512  # by which side files differ from their mean, three times over
_WIDER = 4  # times the margin of a second try
_STORED = f"(bytes + {2 * BLOCKSIZE - 1}) // {BLOCKSIZE} * {BLOCKSIZE}"  # as `stored_bytes`
_MAGIC = slice(257, 262)  # where a header says that it is one

# What a catalog says of a picture: the fields of Expected.
EXPECTED_SQL = f"""
SELECT any_value(bytes) FILTER (sample = $sample) AS num_bytes, any_value(sha256) FILTER (sample = $sample) AS sha256,
    coalesce(sum({_STORED}) FILTER (sample < $sample), 0)::BIGINT AS before, sum({_STORED})::BIGINT AS total,
    count(*) AS samples
FROM samples WHERE dataset = $dataset AND shard = $shard HAVING num_bytes IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a store knows of a picture, and of the pictures of its shard."""

    num_bytes: int
    sha256: str | None  # None: it could not be read when it was tagged
    before: int  # bytes that the pictures before it take in a tar, each with a header
    total: int  # that all pictures take
    samples: int  # how many there are


@dataclass(frozen=True)
class Guessed:
    """A picture that was found."""

    place: ByteRange
    data: bytes


def stored_bytes(num_bytes: int) -> int:
    """Return how much of a tar a member of this size takes, with its header."""
    return BLOCKSIZE + -(-num_bytes // BLOCKSIZE) * BLOCKSIZE


def expected_of(sizes: Sequence[int], checksums: Sequence[str | None], samples: Collection[int]) -> dict[int, Expected]:
    """Return what is known of some pictures of a shard, by ordinal in order, without those that it does not have.

    Args:
        sizes: in bytes, of all its pictures in order.
        checksums: SHA-256 of each; None of those that could not be read.
        samples: ordinals.
    """
    ends = list(accumulate(map(stored_bytes, sizes), initial=0))
    return {
        sample: Expected(
            num_bytes=sizes[sample],
            sha256=checksums[sample],
            before=ends[sample],
            total=ends[-1],
            samples=len(sizes),
        )
        for sample in sorted(samples)
        if sample < len(sizes)
    }


def find_by_guess(url: str, shard_bytes: int, sample: int, expected: Expected) -> Guessed | None:
    """Return a picture of a shard, read in one piece with what stands around it; None, where the guess is wrong.

    Args:
        url: an uncompressed tar.
        shard_bytes: its size.
        sample: the picture's ordinal.
        expected: what is known of it.

    Raises:
        ShardError: the shard is gone, or cannot be read.
    """
    between = max(shard_bytes - _END_BYTES - expected.total, 0) / expected.samples
    middle = expected.before + sample * between
    margin = _MIN_MARGIN + _MARGIN * math.sqrt(sample * (expected.samples - sample) / expected.samples)
    for wider in (1, _WIDER):
        start = max(int(middle - wider * margin) // BLOCKSIZE * BLOCKSIZE, 0)
        end = min(int(middle + wider * margin) + stored_bytes(expected.num_bytes), shard_bytes)
        window = read_some(url, start, end)
        if len(window) > end - start:  # its server gives whole files only
            return None
        found = _found(window, start, expected)
        if found is not None:
            return found
    return None


def _found(window: bytes, start: int, expected: Expected) -> Guessed | None:
    for offset in range(0, len(window) - BLOCKSIZE, BLOCKSIZE):
        block = window[offset : offset + BLOCKSIZE]
        if block[_MAGIC] != b"ustar":
            continue
        try:
            info = TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except HeaderError:
            continue
        first = offset + BLOCKSIZE
        data = window[first : first + info.size]
        if info.size == expected.num_bytes and checksum(data) == expected.sha256:
            return Guessed(ByteRange(start + first, info.size), data)
    return None
