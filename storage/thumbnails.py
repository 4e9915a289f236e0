"""Single pictures of shards, read by byte range, and small ones of them in a bounded cache on this machine's disk.

Where a picture stands is found by reading the headers of its shard, once, and only as far as somebody asks. In an
object store that would be to read the shard, so there it is guessed first.

`<cache>/<shard>/ranges`                 where its first pictures stand, as far as headers were read
`<cache>/<shard>/<sample>-<side>.webp`   pictures; the shard's folder is named by its URL and fingerprint
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SampleError, ShardError
from schemas.manifest import Fingerprint
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.disk_cache import trim_cache, write_cached
from storage.known_ranges import Expects, KnownRanges, no_sample
from storage.shards import (
    MAX_MEMBER_BYTES,
    check_bytes,
    iter_samples,
    read_range,
)

RANGES = "ranges"  # of the cache's files, the one that is no picture
MAX_CACHE_BYTES = 512 * 2**20
_KNOWN_SHARDS = 256  # whose ranges are held; each that is not read to its end keeps a file open
_TRUST_SECONDS = 60  # how long a shard counts as unchanged after it was looked at
_TRIM_EVERY = 500  # pictures written
_AHEAD = 64  # pictures of a compressed shard that are made in passing: the next ones are asked for next

Make = Callable[[bytes, int], bytes]  # a small picture of a picture's bytes, and of a longest side in pixels


@dataclass(frozen=True)
class ShardBytes:
    """A shard as it was when it was tagged."""

    url: str
    fingerprint: Fingerprint

    @property
    def digest(self) -> str:
        """Names the shard with these bytes."""
        named = "\0".join((self.url, str(self.fingerprint.size), self.fingerprint.tag))
        return hashlib.sha256(named.encode()).hexdigest()[:32]


class Thumbnails:
    """Small pictures, made once. Its methods may be called from many threads, and several processes may share a cache.

    Args:
        cache: a folder of its own; it is made when something is written.
        make: makes a small picture; raises SampleError where it cannot.
        max_bytes: of the cache; what was looked at longest ago goes first.
    """

    def __init__(self, cache: Path, make: Make, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._cache, self._make, self._max_bytes = cache, make, max_bytes
        self._ranges: OrderedDict[str, KnownRanges] = OrderedDict()
        self._checked: dict[str, float] = {}
        self._lock = threading.Lock()
        self._written = 0

    def get(self, shard: ShardBytes, sample: int, side: int, expected: Expects | None = None) -> bytes:
        """Return a picture whose longest side is at most `side`.

        Args:
            shard: where it stands.
            sample: its ordinal.
            side: in pixels.
            expected: says what is known of the picture. Asked only where that spares reading.

        Raises:
            ShardError: the shard is gone, was changed since it was tagged, is damaged before this picture, or ends.
            SampleError: the picture cannot be decoded.
        """
        path = self._path(shard, sample, side)
        try:
            data = path.read_bytes()
            os.utime(path)  # was looked at
        except OSError:
            data = self._made(shard, sample, side, expected)
        return data

    def read(self, shard: ShardBytes, sample: int, expected: Expects | None = None) -> bytes:
        """Return a picture's own bytes. The arguments are those of `get`.

        Raises:
            ShardError: as `get`.
            SampleError: the file is larger than a picture may be.
        """
        self._check(shard)
        ranges = self._ranges_of(shard)
        if expected is not None and (found := ranges.guessed(sample, expected)) is not None:
            return found
        place = ranges.at(sample)
        if place is None:
            return _last(_samples_until(shard.url, sample), sample).data
        if place.num_bytes > MAX_MEMBER_BYTES:
            raise SampleError(SampleStatus.TOO_LARGE, f"the file has {place.num_bytes} bytes")
        return read_range(shard.url, place)

    def _made(self, shard: ShardBytes, sample: int, side: int, expected: Expects | None) -> bytes:
        self._check(shard)
        ranges = self._ranges_of(shard)
        found = None if expected is None else ranges.guessed(sample, expected)
        if found is None and ranges.at(sample) is None:
            return self._made_in_passing(shard, ranges, sample, side)
        data = self._make(self.read(shard, sample) if found is None else found, side)
        self._keep(self._path(shard, sample, side), data)
        return data

    def _made_in_passing(self, shard: ShardBytes, ranges: KnownRanges, sample: int, side: int) -> bytes:
        """Make the pictures around one that only reading from the start leads to; one thread does it for all."""
        with ranges.passing:
            with suppress(OSError):  # it is there, unless this thread is the first
                return self._path(shard, sample, side).read_bytes()
            found: bytes | SampleError | None = None
            for each in _samples_until(shard.url, sample + _AHEAD):
                if each.sample < sample:
                    continue
                try:
                    data = self._make(each.data, side)
                    self._keep(self._path(shard, each.sample, side), data)
                    found = data if each.sample == sample else found
                except SampleError as error:
                    found = error if each.sample == sample else found
        if isinstance(found, bytes):
            return found
        raise found or no_sample(shard.url, sample)

    def close(self) -> None:
        """Leave all files, and keep what is known of them."""
        with self._lock:
            known = list(self._ranges.values())
        for ranges in known:
            ranges.close()

    def _check(self, shard: ShardBytes) -> None:
        """Refuse a shard with other bytes than were tagged; it is asked for at most once a minute."""
        now = time.monotonic()
        if now - self._checked.get(shard.digest, -_TRUST_SECONDS) >= _TRUST_SECONDS:
            check_bytes(shard.url, shard.fingerprint)
            self._checked[shard.digest] = now

    def _ranges_of(self, shard: ShardBytes) -> KnownRanges:
        with self._lock:
            found = self._ranges.get(shard.digest)
            if found is None:
                found = self._ranges[shard.digest] = KnownRanges(
                    shard.url, shard.fingerprint.size, self._cache / shard.digest / RANGES
                )
            self._ranges.move_to_end(shard.digest)
            forgotten = self._ranges.popitem(last=False)[1] if len(self._ranges) > _KNOWN_SHARDS else None
        if forgotten is not None:
            forgotten.close()
        return found

    def _path(self, shard: ShardBytes, sample: int, side: int) -> Path:
        return self._cache / shard.digest / f"{sample}-{side}.webp"

    def _keep(self, path: Path, data: bytes) -> None:
        write_cached(path, data)
        with self._lock:
            self._written += 1
            trim = self._written % _TRIM_EVERY == 0
        if trim:
            trim_cache(self._cache, self._max_bytes)


def _samples_until(url: str, last: int) -> Iterator[Sample]:
    for sample in iter_samples(url, MemberCounts()):
        yield sample
        if sample.sample >= last:
            return


def _last(samples: Iterator[Sample], wanted: int) -> Sample:
    for sample in samples:
        if sample.sample == wanted:
            return sample
    raise ShardError(ShardStatus.TRUNCATED, f"the shard has no sample {wanted}")
