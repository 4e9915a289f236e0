"""Features of a shard: taken from the store where they are there, else made from its images and kept.

Shapes: N samples that could be decoded, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from clipdecoder.clock import StageClock
from flows.scratch import Pile
from flows.tagging.reading import ShardReading
from flows.tagging.shard_rows import ShardRows
from schemas.errors import StoreError
from schemas.manifest import QueueFacts, ShardFacts
from storage.files import Folder
from storage.parts import ShardFeatures, features_path, write_features
from storage.patterns import ShardRef
from storage.side_labels import keep_side_labels
from storage.tokens import StoredTokens, TokenChunk, TokenWriter, tokens_path

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.scoring.tagger import BatchTagger


@dataclass(frozen=True, kw_only=True)
class FeatureRequest:
    """Which features are wanted, and how they are made where the store does not have them."""

    store: str
    dataset: str
    encoder_id: str
    batch_size: int
    decode_threads: int
    max_pixels: int
    tokens: bool = False  # patch tokens too
    store_tokens: bool = False  # and kept, so that no later run needs the images for them
    retry_failed: bool = False
    remembered: bool = False  # the shard is as the store remembers it: look whether it still is before it is read

    @cached_property
    def folder(self) -> Folder:
        """The store."""
        return Folder(self.store)

    @property
    def wants_tokens(self) -> bool:
        """Whether patch tokens have to be there in the end."""
        return self.tokens or self.store_tokens


def feature_tagger(encoder: ImageEncoder, *, tokens: bool) -> BatchTagger:
    """Return what makes features and no scores: one for all shards of a job, since a GPU is warmed up for each.

    Args:
        encoder: makes embeddings, and patch tokens.
        tokens: whether patch tokens are wanted too, as `FeatureRequest.wants_tokens` says.
    """
    from clipdecoder.scoring.tagger import BatchTagger

    return BatchTagger(encoder, None, floor=0.0, top_k=0, tokens=tokens)


def shard_features(
    wanted: FeatureRequest, ref: ShardRef, tagger: BatchTagger, clock: StageClock, *, pile: Pile | None = None
) -> tuple[ShardFeatures, int]:
    """Return a shard's features and how many images were decoded for them: none, if the store has them already.

    Features that are made are stored at once, so that the next vocabulary needs no image; and so is what the side files
    say, so that no training reads the shard again for it.

    Args:
        wanted: which features, and how they are made.
        ref: the shard.
        tagger: makes them: a `feature_tagger`.
        clock: is told what each stage took.
        pile: an empty one, where patch tokens are put as they come; None: they are in memory.

    Raises:
        ShardError: the shard has no rows: it is missing, not a tar, or cannot be read; or it is not what the store
            remembers any more.
        StoreError: the store cannot be written.
    """
    from flows.tagging.pipeline import run_shards

    reading = ShardReading(ref=ref, wanted=wanted, clock=clock)
    rows = ShardRows(reading=reading, encoder=tagger.encoder, collect=wanted.wants_tokens, pile=pile)
    [features] = run_shards([rows], tagger, wanted, _Keeping(FeatureKeeper(wanted.folder)))
    if reading.failed is not None or features is None:
        raise reading.failed or AssertionError("a shard without features has failed")
    return features, rows.decoded


class FeatureKeeper:
    """Stores what is made of shards, in the thread that writes. Shards may come a piece at a time, and side by side."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._tokens: dict[ShardRows, _TokenFile] = {}

    def keep_tokens(self, rows: ShardRows, chunk: TokenChunk) -> None:
        """Store some patch tokens of a shard, which come in order."""
        with rows.reading.clock.stage("write"):
            if rows not in self._tokens:
                self._tokens[rows] = _TokenFile(self._folder, rows)
            self._tokens[rows].add(chunk)

    def finish(self, rows: ShardRows) -> ShardFeatures:
        """Store what is new of a shard's features and side labels, and return its features. It must not have failed.

        Tokens are put in place behind the features that they belong to.
        """
        reading = rows.reading
        features = rows.features()
        if reading.from_store:
            return features
        with reading.clock.stage("write"):
            wanted = reading.wanted
            if reading.said is not None:
                keep_side_labels(self._folder, wanted.dataset, reading.ref, reading.said)
            stored = reading.stored
            changed = stored is None or (features.facts, features.rows) != (stored.facts, stored.rows)
            if changed:
                path = features_path(wanted.encoder_id, wanted.dataset, reading.ref.shard)
                write_features(self._folder, path, features)
            if wanted.store_tokens and (changed or not reading.skips):
                file = self._tokens.pop(rows, None) or _TokenFile(self._folder, rows)
                file.finish(features.facts)
        self.drop(rows)  # what was begun for a retry that changed nothing
        return features

    def drop(self, rows: ShardRows) -> None:
        """Leave nothing behind of a shard's tokens, if they are not finished."""
        file = self._tokens.pop(rows, None)
        if file is not None:
            file.abandon()

    def close(self) -> None:
        """Leave nothing behind of tokens that are not finished."""
        for rows in list(self._tokens):
            self.drop(rows)


class _TokenFile:
    """The tokens of a shard, in order: those that are made, and in between those that are stored already."""

    def __init__(self, folder: Folder, rows: ShardRows) -> None:
        wanted = rows.reading.wanted
        path = tokens_path(wanted.encoder_id, wanted.dataset, rows.reading.ref.shard)
        self._writer = TokenWriter(folder, path, *rows.encoder.token_shape)
        self._stored = _rows_of(rows.reading.stored_tokens)
        self._next = next(self._stored, None)

    def add(self, chunk: TokenChunk) -> None:
        if self._next is None:
            self._writer.add(chunk)
            return
        for row, sample in enumerate(chunk.samples_R.tolist()):
            self._copy_until(sample)
            self._writer.add(TokenChunk(chunk.samples_R[row : row + 1], chunk.tokens_RTC[row : row + 1]))

    def finish(self, facts: ShardFacts) -> int:
        self._copy_until(np.iinfo(np.int32).max)
        return self._writer.finish(facts)

    def abandon(self) -> None:
        self._writer.abandon()

    def _copy_until(self, sample: int) -> None:
        while self._next is not None and self._next.samples_R[0] < sample:
            self._writer.add(self._next)
            self._next = next(self._stored, None)


class _Keeping:
    """A `Sink` that keeps features and returns them; None for a shard that failed."""

    def __init__(self, keeper: FeatureKeeper) -> None:
        self._keeper = keeper
        self.keep_tokens = keeper.keep_tokens
        self.close = keeper.close

    def finish(self, rows: ShardRows, queues: dict[str, QueueFacts]) -> ShardFeatures | None:
        if rows.reading.failed is not None:
            self._keeper.drop(rows)
            return None
        return self._keeper.finish(rows)

    def enough(self, rows: ShardRows) -> bool:
        return False


def _rows_of(stored: StoredTokens | None) -> Iterator[TokenChunk]:
    """Yield stored tokens image by image.

    Raises:
        StoreError: they were damaged since they were found.
    """
    try:
        for chunk in stored.chunks() if stored is not None else ():
            for row in range(len(chunk.samples_R)):
                yield TokenChunk(chunk.samples_R[row : row + 1], chunk.tokens_RTC[row : row + 1])
    except ValueError as error:
        raise StoreError(f"{error}; remove it, and it is made again") from error
