"""What comes of a shard: a row for every sample, embeddings, kept scores and patch tokens, in the order of the tar.

Of an image that has gone by it holds the row (about 500 bytes), the embedding (2 D bytes) and 12 bytes for each kept
score; never the picture, nor its tokens, unless they are collected.

Shapes: N good samples, D embedding width, T patch tokens, C token width, G good ones among some neighbouring pictures,
M kept scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipdecoder.encoders.predict import NON_FINITE_ERROR
from flows.scratch import Pile
from flows.tagging.reading import SeenSample, ShardReading
from schemas.sample import SampleRow, SampleStatus
from storage.parts import ShardFeatures
from storage.sample_rows import count_statuses
from storage.tokens import TokenChunk

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.encoders.feeding import DecodedImage
    from clipdecoder.scoring.scores import KeptScores
    from clipdecoder.scoring.tagger import BatchTagger


class Rows(NamedTuple):
    """What the device made of the G good ones among some neighbouring pictures of one shard."""

    embeddings_GD: NDArray[np.float16]  # a row that failed is NaN throughout
    tokens_GTC: NDArray[np.float16] | None
    kept: KeptScores | None  # `sample` is the row


class Cells(NamedTuple):
    """Kept scores of a shard, sorted by label, then sample: which sample (its ordinal), which label, and its logit."""

    sample_M: NDArray[np.int32]
    label_M: NDArray[np.int32]
    logit_M: NDArray[np.float32]


@dataclass(kw_only=True, eq=False)
class ShardRows:
    """What has come of one shard so far. One thread, which has the device, adds to it; then another takes it.

    Args:
        reading: the shard.
        encoder: knows the shapes where a shard has no good picture.
        tagger: scores what is stored; None where nothing is scored.
        collect: whether patch tokens are to be in the features in the end.
        pile: where they are collected; None: in memory, all of them.
    """

    reading: ShardReading
    encoder: ImageEncoder
    tagger: BatchTagger | None = None
    collect: bool = False
    pile: Pile | None = None

    decoded: int = 0
    lenient: int = 0  # of these, JPEGs that the strict decoder refused
    _images: list[DecodedImage] = field(default_factory=list)
    _embeddings: list[NDArray[np.float16]] = field(default_factory=list)  # of the good ones
    _cells: list[Cells] = field(default_factory=list)
    _tokens: list[TokenChunk] = field(default_factory=list)
    _num_started: int = 0  # pictures that the device was given
    _num_stored: int = 0  # stored samples of which the tokens have come

    def stored_embeddings(self, images: Sequence[DecodedImage]) -> NDArray[np.float16]:
        """Return the stored embeddings_GD of the good ones among the next pictures to compute, NaN where none is."""
        good = self._good(images, self._num_started)
        self._num_started += len(images)
        embeddings_GD = np.full((len(good), self.encoder.embedding_width), np.nan, np.float16)
        if self.reading.restores:
            assert self.reading.stored is not None
            for row, ordinal in enumerate(good):
                if (place := self.reading.stored_place.get(ordinal)) is not None:
                    embeddings_GD[row] = self.reading.stored.embeddings_ND[place]
        return embeddings_GD

    def add(self, images: Sequence[DecodedImage], rows: Rows | None) -> TokenChunk | None:
        """Take what became of the next pictures; return the patch tokens of the good ones, where they are to be kept.

        Args:
            images: in the order in which they were handed on.
            rows: of those that could be decoded; None where there are none.
        """
        good = np.array(self._good(images, len(self._images)), np.int32)
        self._images += images
        self.reading.clock.add("decode", sum(image.seconds for image in images))
        if rows is None:
            return None
        finite_G = np.asarray(np.isfinite(rows.embeddings_GD).all(axis=1))
        if not finite_G.all():
            _mark_non_finite(images, finite_G)
        self._embeddings.append(rows.embeddings_GD[finite_G])
        if rows.kept is not None:
            self._keep(good, rows.kept)
        if rows.tokens_GTC is None:
            return None
        chunk = TokenChunk(good[finite_G], rows.tokens_GTC[finite_G])
        self._collect(chunk)
        return chunk if self.reading.wanted.store_tokens else None

    def add_stored(self, chunk: TokenChunk) -> None:
        """Take the stored tokens of the next good samples, and score these if there is what scores them."""
        assert self.reading.stored is not None
        start, self._num_stored = self._num_stored, self._num_stored + len(chunk.samples_R)
        self._collect(chunk)
        if self.tagger is not None and self.reading.wanted.tokens:
            with self.reading.clock.stage("score"):
                embeddings_RD = self.reading.stored.embeddings_ND[start : self._num_stored]
                self._keep(chunk.samples_R, self.tagger.score(embeddings_RD, chunk.tokens_RTC))

    def restart(self) -> None:
        """Forget what came of stored tokens."""
        self._cells.clear()
        self._tokens.clear()
        if self.pile is not None:
            self.pile.clear()
        self._num_stored = 0

    def close(self) -> None:
        """Take note that everything has come, and score what needs no tokens for it."""
        self.decoded = len(self._images)
        self.lenient = sum(image.lenient for image in self._images)
        reading = self.reading
        known = reading.from_store or reading.skips
        if self.tagger is None or reading.wanted.tokens or reading.stored is None or not known:
            return
        with self.reading.clock.stage("score"):
            self._keep(reading.stored.ok_samples, self.tagger.score(reading.stored.embeddings_ND, None))

    def _good(self, images: Sequence[DecodedImage], start: int) -> list[int]:
        """Return the ordinals of some pictures, without those that could not be decoded."""
        sent = self.reading.sent[start : start + len(images)]
        return [ordinal for ordinal, image in zip(sent, images, strict=True) if image.status is SampleStatus.OK]

    def _collect(self, chunk: TokenChunk) -> None:
        if not self.collect:
            return
        if self.pile is not None:
            self.pile.add(chunk.tokens_RTC)
            # A slice of the tokens would keep them all.
            chunk = TokenChunk(chunk.samples_R, np.empty((0, *self.encoder.token_shape), np.float16))
        self._tokens.append(chunk)

    def _keep(self, samples: NDArray[np.int32], kept: KeptScores) -> None:
        self._cells.append(Cells(samples[kept.sample], kept.label, kept.logit))

    @property
    def num_bytes(self) -> int:
        """Bytes that its arrays hold."""
        arrays = [*self._embeddings, *(column for cells in self._cells for column in cells)]
        return sum(array.nbytes for array in arrays)

    def statuses(self) -> Counter[SampleStatus]:
        """Return rows by status. Everything must have come."""
        if self.reading.from_store:
            assert self.reading.stored is not None
            return count_statuses(self.reading.stored.rows)
        failed = (seen.status for seen in self.reading.seen if seen.status is not SampleStatus.OK)
        statuses = Counter(image.status for image in self._images) + Counter(failed)
        statuses[SampleStatus.OK] += len(self.reading.seen) - statuses.total()  # those that were not decoded again
        return statuses

    def kept(self) -> Cells:
        """Return all kept scores. Call it once: what they were made of is let go."""
        if len(self._cells) == 1:  # of one batch, and in order
            return self._cells.pop()
        none = Cells(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
        sample_M, label_M, logit_M = (np.concatenate(column) for column in zip(none, *self._cells, strict=True))
        self._cells.clear()
        # Each batch is in order already, and a stable sort takes such stretches as they are.
        order = np.argsort(label_M.astype(np.int64) << 32 | sample_M, kind="stable")
        return Cells(sample_M[order], label_M[order], logit_M[order])

    def features(self) -> ShardFeatures:
        """Return the shard's features. Samples that were good before keep their rows and embeddings.

        Another batch size rounds otherwise, and scores from embeddings must not change because somebody asked for
        tokens.
        """
        if self.reading.from_store:
            assert self.reading.stored is not None
            return self._with_tokens(self.reading.stored)
        rows, embeddings_ND = tuple(self._rows()), self._all_embeddings()
        return self._with_tokens(ShardFeatures(facts=self.reading.facts, rows=rows, embeddings_ND=embeddings_ND))

    def _rows(self) -> Iterator[SampleRow]:
        reading, images = self.reading, iter(self._images)
        stored_rows = reading.stored.rows if reading.stored is not None else ()
        good_before = {row.sample: row for row in stored_rows if row.status is SampleStatus.OK}
        for seen in reading.seen:
            before = good_before.get(seen.sample)
            if seen.status is not SampleStatus.OK:
                yield _row(seen, reading.ref.shard)
            elif before is not None and reading.skips:
                yield before
            else:
                image = next(images)
                stays = before if image.status is SampleStatus.OK else None
                yield stays or _row(seen, reading.ref.shard, image)

    def _all_embeddings(self) -> NDArray[np.float16]:
        made_GD = np.concatenate([np.empty((0, self.encoder.embedding_width), np.float16), *self._embeddings])
        self._embeddings.clear()
        if not self.reading.skips:
            return made_GD
        assert self.reading.stored is not None
        pairs = zip(self.reading.sent, self._images, strict=True)
        made = [ordinal for ordinal, image in pairs if image.status is SampleStatus.OK]
        order = np.argsort(np.concatenate([self.reading.stored.ok_samples, np.array(made, np.int32)]))
        return np.concatenate([self.reading.stored.embeddings_ND, made_GD])[order]

    def _with_tokens(self, features: ShardFeatures) -> ShardFeatures:
        if not self.collect:
            return features
        none = TokenChunk(np.empty(0, np.int32), np.empty((0, *self.encoder.token_shape), np.float16))
        chunks = TokenChunk(*(np.concatenate(column) for column in zip(none, *self._tokens, strict=True)))
        self._tokens.clear()
        tokens_NTC = chunks.tokens_RTC if self.pile is None else self.pile.whole()
        order = np.argsort(chunks.samples_R)
        # Only where some were stored and others are made again are they out of order.
        in_order = np.array_equal(order, np.arange(len(order)))
        return replace(features, tokens_NTC=tokens_NTC if in_order else tokens_NTC[order])


def _mark_non_finite(images: Sequence[DecodedImage], finite_G: NDArray[np.bool_]) -> None:
    good = (image for image in images if image.status is SampleStatus.OK)
    for image, finite in zip(good, finite_G.tolist(), strict=True):
        if not finite:
            image.status, image.error = SampleStatus.NON_FINITE, NON_FINITE_ERROR


def _row(seen: SeenSample, shard: str, image: DecodedImage | None = None) -> SampleRow:
    return SampleRow(
        key=seen.key,
        shard=shard,
        sample=seen.sample,
        status=seen.status if image is None else image.status,
        error=seen.error if image is None else image.error,
        width=None if image is None else image.width,
        height=None if image is None else image.height,
        bytes=seen.num_bytes,
        sha256=None if image is None else image.sha256,
    )
