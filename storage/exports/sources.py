"""Samples read back from the shards that they stand in, each shard once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import pyarrow as pa

from schemas.errors import ShardError
from schemas.export import MissingSamples, SourceShard
from schemas.sample import MemberCounts, Sample, ShardStatus
from storage.shards import check_bytes, iter_samples


class Originals:
    """The samples of chosen rows, as they stand in their shards; what cannot be read is noted. Close it."""

    def __init__(self, sources: Iterable[SourceShard]) -> None:
        self._reader = _SourceReader(sources)
        self._missing: dict[tuple[str, str, str], list[str]] = defaultdict(list)

    @property
    def missing(self) -> tuple[MissingSamples, ...]:
        """What could not be read so far, by shard and reason."""
        return tuple(
            MissingSamples(dataset=dataset, shard=shard, reason=reason, keys=tuple(keys))
            for (dataset, shard, reason), keys in self._missing.items()
        )

    def of(self, rows: pa.Table) -> Iterator[tuple[dict[str, Any], Sample]]:
        """Yield the rows whose sample can be read, with it. Rows are in the order of their shards."""
        for row in rows.to_pylist():
            if row["sha256"] is None:
                self._note(row, f"no bytes of theirs can be read: {row['status']}")
                continue
            try:
                sample = self._reader.sample(row)
            except ShardError as error:
                self._note(row, f"{error.status}: {error}")
            else:
                yield row, sample

    def close(self) -> None:
        """Close the shard that is open."""
        self._reader.close()

    def _note(self, row: dict[str, Any], reason: str) -> None:
        self._missing[row["dataset"], row["shard"], reason].append(row["source_key"])


class _SourceReader:
    """Reads samples that are asked for in the order of their shards. A shard is open in between."""

    def __init__(self, sources: Iterable[SourceShard]) -> None:
        self._sources = {(source.dataset, source.shard): source for source in sources}
        self._source: SourceShard | None = None
        self._stream: Generator[Sample] | None = None
        self._failure: ShardError | None = None

    def sample(self, row: dict[str, Any]) -> Sample:
        """Return the sample of a row of the selection, with the bytes that were tagged.

        Raises:
            ShardError: its shard is gone, was changed, or cannot be read so far.
        """
        source = self._sources[row["dataset"], row["shard"]]
        if source is not self._source:
            self._open(source)
        if self._failure is not None:
            raise self._failure
        assert self._stream is not None, "a source without failure is open"
        try:
            found = next((sample for sample in self._stream if sample.sample == row["sample"]), None)
        except ShardError as error:
            self._failure = error
            raise
        # The store says that the shard is the one that was tagged; where it cannot know, the bytes do.
        if found is None or hashlib.sha256(found.data).hexdigest() != row["sha256"]:
            raise ShardError(ShardStatus.CHANGED, f"{source.url} has other bytes than were tagged; tag it again")
        return found

    def close(self) -> None:
        """Close the shard that is open."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _open(self, source: SourceShard) -> None:
        self.close()
        self._source, self._failure = source, None
        try:
            check_bytes(source.url, source.fingerprint)
        except ShardError as error:
            self._failure = error
            return
        self._stream = _samples(source.url)


def _samples(url: str) -> Generator[Sample]:
    yield from iter_samples(url, MemberCounts())
