"""Shards through the machine, all stages at once: reading, decoding, the device and writing, each in its own threads.

Batches cross from shard to shard, so that none pays for its last few pictures; rows find their way back. A shard that
cannot be read is its own trouble. Memory is bounded whatever a shard's size: what `Feeder` states of files and pixels,
`STARTED` batches on the device, `WRITE_BYTES` of what waits to be written, and of each shard that is under way what
`ShardRows` states.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from clipdecoder.encoders.feeding import Feeder, PictureBatch, Source
from clipdecoder.pipes import Crew, Depth, Pipe
from flows.environment import usable_cores
from flows.tagging.batch_sizes import choose_batch_size
from flows.tagging.reading import Signal
from flows.tagging.shard_rows import Rows, ShardRows
from schemas.errors import ShardError
from schemas.manifest import QueueFacts
from schemas.sample import SampleStatus
from storage.tokens import TokenChunk

if TYPE_CHECKING:
    from clipdecoder.scoring.tagger import BatchTagger, StartedBatch, TaggedBatch
    from flows.tagging.features import FeatureRequest

STARTED = 2  # batches on the device: one is computed while the other is copied, or its rows are sorted out
WRITE_BYTES = 64 * 2**20

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Mark = TokenChunk | Signal
Batch = PictureBatch[ShardRows, Mark]


class Sink(Protocol[T_co]):
    """What is done with shards in the writing thread, and who says when it is enough."""

    def finish(self, rows: ShardRows, queues: dict[str, QueueFacts]) -> T_co:
        """Take a shard when all of it has come, also one that failed, with what the queues were like."""

    def keep_tokens(self, rows: ShardRows, chunk: TokenChunk) -> None:
        """Take patch tokens of a shard that are to be stored, before it is finished."""

    def enough(self, rows: ShardRows) -> bool:
        """Whether to take no more; asked when all of a shard has come, in the caller's thread. It is still finished."""

    def close(self) -> None:
        """Leave nothing behind of shards that were begun and not finished."""


def run_shards(shards: Iterable[ShardRows], tagger: BatchTagger, wanted: FeatureRequest, sink: Sink[T]) -> Iterator[T]:
    """Yield what `sink.finish` makes of each shard, as it is done.

    That is in order, but for shards without a picture to be computed, which overtake those that fill the same batch.

    Args:
        shards: taken one by one, in the reading thread.
        tagger: computes; shared by all of them.
        wanted: batch size, threads and limits.
        sink: what is done with them.

    Raises:
        RunError: the device failed. Shards that were yielded are done.
        StoreError: the store cannot be written.
    """
    try:
        with Crew() as crew:
            yield from _Pipeline(crew, shards, tagger, wanted, sink).run()
    finally:
        sink.close()


class _Pipeline(Generic[T]):
    def __init__(
        self,
        crew: Crew,
        shards: Iterable[ShardRows],
        tagger: BatchTagger,
        wanted: FeatureRequest,
        sink: Sink[T],
    ) -> None:
        self._tagger = tagger
        self._sink = sink
        self._feeder: Feeder[ShardRows, Mark] = Feeder(
            crew,
            _source(shards),
            tagger.transform,
            batch_size=choose_batch_size(wanted.batch_size, tagger.encoder),
            threads=wanted.decode_threads or usable_cores(),
            max_pixels=wanted.max_pixels,
            buffer=tagger.buffer,
        )
        self._writes: Pipe[Callable[[], None]] = crew.pipe(WRITE_BYTES)
        self._finished: Pipe[T] = crew.pipe(2**62)
        crew.start("write", self._write)

    def run(self) -> Iterator[T]:
        for batch, tagged in self._tagged():
            if self._sort_out(batch, tagged):
                break
            yield from self._finished.ready()
        self._writes.close()
        yield from self._finished

    def _tagged(self) -> Iterator[tuple[Batch, TaggedBatch | None]]:
        """Yield batches in order with what the device made of them, with a few more of them under way."""
        started: deque[tuple[Batch, StartedBatch | None]] = deque()
        for batch in self._feeder.batches():
            started.append((batch, self._start(batch)))
            while len(started) >= STARTED:
                yield self._end(*started.popleft())
        while started:
            yield self._end(*started.popleft())

    def _start(self, batch: Batch) -> StartedBatch | None:
        stored_BD = None
        if any(rows.reading.restores for rows, _ in batch.spans()):
            # Also of a batch without a good picture: each shard counts which of its pictures have gone by.
            stored_BD = np.concatenate([rows.stored_embeddings(images) for rows, images in batch.spans()])
        if not batch.count:
            return None
        return self._tagger.start(batch.pixels_BHWC, batch.count, stored_BD=stored_BD)

    def _end(self, batch: Batch, started: StartedBatch | None) -> tuple[Batch, TaggedBatch | None]:
        tagged = started.finish() if started is not None else None
        self._feeder.free(batch)
        return batch, tagged

    def _sort_out(self, batch: Batch, tagged: TaggedBatch | None) -> bool:
        """Give each shard its rows, and the writing thread each that has all of them; return whether it is enough."""
        first = 0
        for rows, images in batch.spans():
            count = sum(image.status is SampleStatus.OK for image in images)
            chunk = rows.add(images, None if tagged is None or not count else _rows_of(tagged, first, count))
            if tagged is not None:
                for stage, seconds in tagged.seconds.items():
                    rows.reading.clock.add(stage, seconds * count / batch.count)
            if chunk is not None:
                self._writes.put(partial(self._sink.keep_tokens, rows, chunk), chunk.tokens_RTC.nbytes)
            first += count
        return any([self._take_mark(rows, mark) for rows, mark in batch.marks])

    def _take_mark(self, rows: ShardRows, mark: Mark) -> bool:
        if isinstance(mark, TokenChunk):
            rows.add_stored(mark)
        elif mark is Signal.RESTART:
            rows.restart()
        else:
            rows.close()
            enough = self._sink.enough(rows)
            self._writes.put(partial(self._finish, rows), rows.num_bytes)
            return enough
        return False

    def _write(self) -> None:
        for task in self._writes:
            task()
        self._finished.close()

    def _finish(self, rows: ShardRows) -> None:
        feeder = self._feeder
        queues = {
            "files": _facts(feeder.files.take(), feeder.threads),
            "pictures": _facts(feeder.decoded.take(), 1),
            "writes": _facts(self._writes.meter.take(), 1),
        }
        self._finished.put(self._sink.finish(rows, queues))


def _source(shards: Iterable[ShardRows]) -> Source[ShardRows, Mark]:
    for rows in shards:
        try:
            for item in rows.reading.items():
                yield rows, item
        except ShardError as error:
            rows.reading.failed = error
        yield rows, Signal.END


def _rows_of(tagged: TaggedBatch, first: int, count: int) -> Rows:
    """Return what the device made of some neighbouring pictures of a batch."""
    chosen = slice(first, first + count)
    tokens = tagged.tokens_BTC[chosen] if tagged.tokens_BTC is not None else None
    kept = tagged.kept
    if kept is not None and count < len(tagged.embeddings_BD):
        cells = (kept.sample >= first) & (kept.sample < first + count)
        kept = replace(
            kept,
            sample=kept.sample[cells] - first,
            label=kept.label[cells],
            logit=kept.logit[cells],
            score=kept.score[cells],
        )
    return Rows(tagged.embeddings_BD[chosen], tokens, kept)


def _facts(depth: Depth, threads: int) -> QueueFacts:
    return QueueFacts(
        seconds=depth.seconds,
        mean=depth.mean,
        most=depth.most,
        waited_to_put=depth.waited_to_put,
        waited_to_get=depth.waited_to_get,
        threads=threads,
    )
