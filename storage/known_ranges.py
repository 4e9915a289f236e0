"""Where the pictures of a shard stand: known from its headers, or guessed, kept in a file of the cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from schemas.errors import ShardError
from schemas.sample import ShardStatus
from storage.disk_cache import write_cached
from storage.guesses import Expected, find_by_guess
from storage.shards import MAX_MEMBER_BYTES, ByteRange, is_compressed, is_remote, iter_ranges, read_range

_LASTING = (ShardStatus.TRUNCATED, ShardStatus.NOT_A_TAR)  # what asking again does not mend

Expects = Callable[[], Expected | None]  # what is known of a picture before it is read
_NOWHERE = ByteRange(-1, -1)
_NUMBER = np.dtype("<i8")
_DIGEST_BYTES = hashlib.sha256().digest_size


class KnownRanges:
    """Where the pictures of one shard stand, read on from where somebody asked last."""

    def __init__(self, url: str, num_bytes: int, path: Path) -> None:
        self._url, self._num_bytes, self._path = url, num_bytes, path
        self._lock = threading.Lock()
        self.passing = threading.Lock()  # held by whoever reads the shard through
        self._known = _read_ranges(path)
        self._kept = len(self._known)
        self._guessed: dict[int, ByteRange] = {}
        self._guessing = is_remote(url) and not is_compressed(url)
        self._source: Iterator[ByteRange | None] | None = None
        self._error: ShardError | None = None

    def guessed(self, sample: int, expected: Expects) -> bytes | None:
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
        found = find_by_guess(self._url, self._num_bytes, sample, known)
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
                raise no_sample(self._url, sample)
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
            write_cached(self._path, _packed(self._known))
            self._kept = len(self._known)


def no_sample(url: str, sample: int) -> ShardError:
    """Return what is wrong where a shard has fewer samples than somebody asks for."""
    lacking = f"{url} has no sample {sample}; if it had one, it was cut: copy or make it anew"
    return ShardError(ShardStatus.TRUNCATED, lacking)


def _packed(ranges: Sequence[ByteRange | None]) -> bytes:
    """Return the file of some ranges: a SHA-256 of what follows, then start and size of each, -1 of none."""
    numbers = np.array([place or _NOWHERE for place in ranges], _NUMBER).tobytes()
    return hashlib.sha256(numbers).digest() + numbers


def _read_ranges(path: Path) -> list[ByteRange | None]:
    """Return what a file of the cache says; nothing where it is not there, is damaged, or is no such file."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    digest, numbers = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(numbers).digest() != digest:
        return []
    pairs = np.frombuffer(numbers, _NUMBER).reshape(-1, 2).tolist()
    return [ByteRange(start, size) if start >= 0 else None for start, size in pairs]
