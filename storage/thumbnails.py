"""Single pictures of shards, read by byte range, and small ones of them in a bounded cache on this machine's disk.

Where a picture stands is found by reading the headers of its shard, once, and only as far as somebody asks. In an
object store that would be to read the shard, so there it is guessed first.

`<cache>/<shard>/ranges.npy`             where its first pictures stand, as far as headers were read
`<cache>/<shard>/<sample>-<side>.webp`   pictures; the shard's folder is named by its URL and fingerprint
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.errors import SampleError, ShardError
from schemas.manifest import Fingerprint
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.guesses import Expected, find_by_guess
from storage.shards import (
    MAX_MEMBER_BYTES,
    ByteRange,
    check_bytes,
    is_compressed,
    is_remote,
    iter_ranges,
    iter_samples,
    read_range,
)

MAX_CACHE_BYTES = 512 * 2**20
_KNOWN_SHARDS = 256  # whose ranges are held; each that is not read to its end keeps a file open
_TRUST_SECONDS = 60  # how long a shard counts as unchanged after it was looked at
_TRIM_EVERY = 500  # pictures written
_AHEAD = 64  # pictures of a compressed shard that are made in passing: the next ones are asked for next

_LASTING = (ShardStatus.TRUNCATED, ShardStatus.NOT_A_TAR)  # what asking again does not mend

Expects = Callable[[], Expected | None]
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
        self._ranges: OrderedDict[str, _Ranges] = OrderedDict()
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
        if expected is not None and (found := ranges.guessed(shard, sample, expected)) is not None:
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
        found = None if expected is None else ranges.guessed(shard, sample, expected)
        if found is None and ranges.at(sample) is None:
            return self._made_in_passing(shard, ranges, sample, side)
        data = self._make(self.read(shard, sample) if found is None else found, side)
        self._keep(self._path(shard, sample, side), data)
        return data

    def _made_in_passing(self, shard: ShardBytes, ranges: _Ranges, sample: int, side: int) -> bytes:
        """Make the pictures around one that only reading from the start leads to; one thread does it for all."""
        with ranges.passing:
            path = self._path(shard, sample, side)
            if path.exists():
                return path.read_bytes()
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
        raise found or _no_sample(shard.url, sample)

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

    def _ranges_of(self, shard: ShardBytes) -> _Ranges:
        with self._lock:
            found = self._ranges.get(shard.digest)
            if found is None:
                found = self._ranges[shard.digest] = _Ranges(shard.url, self._cache / shard.digest / "ranges.npy")
            self._ranges.move_to_end(shard.digest)
            forgotten = self._ranges.popitem(last=False)[1] if len(self._ranges) > _KNOWN_SHARDS else None
        if forgotten is not None:
            forgotten.close()
        return found

    def _path(self, shard: ShardBytes, sample: int, side: int) -> Path:
        return self._cache / shard.digest / f"{sample}-{side}.webp"

    def _keep(self, path: Path, data: bytes) -> None:
        _write(path, data)
        with self._lock:
            self._written += 1
            trim = self._written % _TRIM_EVERY == 0
        if trim:
            trim_cache(self._cache, self._max_bytes)


class _Ranges:
    """Where the pictures of one shard stand, read on from where somebody asked last."""

    def __init__(self, url: str, path: Path) -> None:
        self._url, self._path = url, path
        self._lock = threading.Lock()
        self.passing = threading.Lock()  # held by whoever reads the shard through
        self._known = _read_ranges(path)
        self._kept = len(self._known)
        self._guessed: dict[int, ByteRange] = {}
        self._guessing = is_remote(url) and not is_compressed(url)
        self._source: Iterator[ByteRange | None] | None = None
        self._error: ShardError | None = None

    def guessed(self, shard: ShardBytes, sample: int, expected: Expects) -> bytes | None:
        """Return a picture's bytes where a guess finds them and no header is known that does. Takes no lock: pictures
        of one shard are read at the same time. A shard whose pictures stand otherwise is not guessed at again.
        """
        if not self._guessing or sample < len(self._known):
            return None
        if sample in self._guessed:
            return read_range(self._url, self._guessed[sample])
        known = expected()
        if known is None or known.sha256 is None or known.num_bytes > MAX_MEMBER_BYTES:
            return None
        found = find_by_guess(self._url, shard.fingerprint.size, sample, known)
        if found is None:
            self._guessing = False
            return None
        self._guessed[sample] = found.place
        return found.data

    def at(self, sample: int) -> ByteRange | None:
        """Return where a picture stands, or None where no range of the shard is its content."""
        with self._lock:
            if len(self._known) <= sample and self._known[:1] != [None]:  # compressed: no header would help
                self._read_until(sample)
            return self._known[sample] if sample < len(self._known) else None

    def close(self) -> None:
        """Leave the file; what is known stays."""
        with self._lock:
            self._keep(len(self._known))
            self._source = None

    def _read_until(self, sample: int) -> None:
        if self._error is not None:
            raise self._error
        if self._source is None:  # at first, and where the file was left in between
            self._known, self._source = [], iter_ranges(self._url)
        try:
            for place in self._source:
                self._known.append(place)
                if len(self._known) > sample or place is None:
                    break
            else:
                raise _no_sample(self._url, sample)
        except ShardError as error:
            self._source = None
            if error.status in _LASTING:
                self._error = error
            raise
        finally:
            self._keep(2 * self._kept)

    def _keep(self, least: int) -> None:
        """Write what is known where it is more than before, and at least so much."""
        if len(self._known) > self._kept and len(self._known) >= least:
            buffer = io.BytesIO()
            np.save(buffer, np.array([place or (-1, -1) for place in self._known], np.int64).reshape(-1, 2))
            _write(self._path, buffer.getvalue())
            self._kept = len(self._known)


def trim_cache(cache: Path, max_bytes: int) -> None:
    """Remove what was looked at longest ago until nine tenths of `max_bytes` are left, if there is more than that."""
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
        path.unlink(missing_ok=True)
        total -= size
        if total <= 0.9 * max_bytes:
            break


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


def _no_sample(url: str, sample: int) -> ShardError:
    lacking = f"{url} has no sample {sample}; if it had one, it was cut: copy or make it anew"
    return ShardError(ShardStatus.TRUNCATED, lacking)


def _read_ranges(path: Path) -> list[ByteRange | None]:
    try:
        table = np.load(path, allow_pickle=False)
        return [ByteRange(int(start), int(size)) if start >= 0 else None for start, size in table.reshape(-1, 2)]
    except (OSError, ValueError, EOFError):
        return []


def _write(path: Path, data: bytes) -> None:
    """Write a file of the cache whole or not at all. A disk that is full costs the cache, and not the picture."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
