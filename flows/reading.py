"""One pass over a shard: every image member read, decoded and embedded, and a row for each, in the order of the tar.

Shapes: N samples that could be decoded, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from schemas.errors import ShardError
from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import MemberCounts, Sample, SampleRow, SampleStatus, ShardStatus
from storage.ground_truth import ShardLabels, changed_at
from storage.parts import ShardFeatures
from storage.patterns import ShardRef
from storage.shards import iter_samples

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.encoders.predict import EmbeddedImage
    from flows.features import FeatureRequest


class KnownSample(NamedTuple):
    """What an earlier reading made of a sample."""

    row: SampleRow
    embedding: NDArray[np.float16]
    tokens: NDArray[np.float16] | None


@dataclass(kw_only=True)
class ShardReading:
    """The state of reading one shard: rows as they come, in the order of the tar.

    `known` holds samples that need no decoding, by ordinal: those that were good when only the failed are retried.
    """

    ref: ShardRef
    wanted: FeatureRequest
    clock: StageClock
    max_samples: int | None = None
    known: dict[int, KnownSample] = field(default_factory=dict)
    counts: MemberCounts = field(default_factory=MemberCounts)
    samples: list[tuple[Sample, str | None]] = field(default_factory=list)  # without their bytes; with their sha256
    said: ShardLabels = field(init=False)  # by the side files, which are in hand here
    end: ShardError | None = None
    decoded: int = 0

    def embed(self, encoder: ImageEncoder, fingerprint: Fingerprint) -> ShardFeatures:
        """Read, decode and embed the whole shard.

        Raises:
            ShardError: it has no rows at all; a truncated shard has the rows before the cut.
        """
        from clipdecoder.encoders.predict import embed_images

        self.said = ShardLabels(changed_at=changed_at(self.ref.url))
        embedded = embed_images(
            self._images(),
            encoder,
            batch_size=self.wanted.batch_size,
            threads=self.wanted.decode_threads,
            max_pixels=self.wanted.max_pixels,
            tokens=self.wanted.wants_tokens,
            clock=self.clock,
        )
        results = list(embedded)
        self.decoded = len(results)
        rows, images = self._rows(iter(results))
        facts = ShardFacts(
            fingerprint=fingerprint,
            status=self.end.status if self.end else ShardStatus.OK,
            error=str(self.end) if self.end else None,
            members=asdict(self.counts),
            max_pixels=self.wanted.max_pixels,
        )
        embeddings = [embedding for embedding, _ in images]
        tokens = [own for _, own in images if own is not None]
        return ShardFeatures(
            facts=facts,
            rows=tuple(rows),
            embeddings_ND=np.stack(embeddings) if images else np.zeros((0, encoder.embedding_width), np.float16),
            tokens_NTC=self._stacked(tokens, encoder) if self.wanted.wants_tokens else None,
        )

    def _stacked(self, tokens: list[NDArray[np.float16]], encoder: ImageEncoder) -> NDArray[np.float16]:
        return np.stack(tokens) if tokens else np.zeros((0, encoder.num_tokens, encoder.token_width), np.float16)

    def _images(self) -> Iterator[bytes]:
        """Yield the bytes that are to be decoded, remembering every sample on the way."""
        stream = islice(iter_samples(self.ref.url, self.counts), self.max_samples)
        while True:
            with self.clock.stage("read"):
                sample = self._next(stream)
                if sample is None:
                    return
                digest = hashlib.sha256(sample.data).hexdigest() if sample.data else None
            self.said.add(sample)
            self.samples.append((_without_bytes(sample), digest))
            if sample.status is SampleStatus.OK and sample.sample not in self.known:
                yield sample.data

    def _next(self, stream: Iterator[Sample]) -> Sample | None:
        """Return the next sample, or None at the end: the proper one, or the cut of a truncated shard."""
        try:
            return next(stream, None)
        except ShardError as error:
            if error.status is not ShardStatus.TRUNCATED:
                raise
            self.end = error
            return None

    def _rows(
        self, results: Iterator[EmbeddedImage]
    ) -> tuple[list[SampleRow], list[tuple[NDArray[np.float16], NDArray[np.float16] | None]]]:
        """Join what was read with what was decoded: one row per sample, embedding and tokens of each good one."""
        rows: list[SampleRow] = []
        images: list[tuple[NDArray[np.float16], NDArray[np.float16] | None]] = []
        for sample, digest in self.samples:
            if sample.sample in self.known:
                row, embedding, tokens = self.known[sample.sample]
                rows.append(row)
                images.append((embedding, tokens))
            elif sample.status is not SampleStatus.OK:
                rows.append(self._row(sample, digest, sample.status, sample.error))
            else:
                image = next(results)
                rows.append(self._row(sample, digest, image.status, image.error, image.width, image.height))
                if image.embedding is not None:
                    images.append((image.embedding, image.tokens))
        return rows, images

    def _row(
        self,
        sample: Sample,
        digest: str | None,
        status: SampleStatus,
        error: str | None,
        width: int | None = None,
        height: int | None = None,
    ) -> SampleRow:
        return SampleRow(
            key=sample.key,
            shard=self.ref.shard,
            sample=sample.sample,
            status=status,
            error=error,
            width=width,
            height=height,
            bytes=sample.num_bytes,
            sha256=digest,
        )


def require_fingerprint(ref: ShardRef) -> Fingerprint:
    """Return the shard's fingerprint; one that is not there is an error of the shard, not of the run."""
    if ref.fingerprint is None:
        raise ShardError(ShardStatus.MISSING, f"{ref.url} is not there")
    return ref.fingerprint


def _without_bytes(sample: Sample) -> Sample:
    """Return the sample without what was read of it, so that a shard's images are never all in memory."""
    return Sample(
        key=sample.key,
        sample=sample.sample,
        member=sample.member,
        data=b"",
        num_bytes=sample.num_bytes,
        status=sample.status,
        error=sample.error,
    )
