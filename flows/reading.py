"""One pass over a shard: every image member read, decoded and embedded, and a row for each, in the order of the tar.

Shapes: N samples that could be decoded, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from flows.plan import TagPlan
from schemas.errors import ShardError
from schemas.manifest import Fingerprint, ShardFacts
from schemas.sample import MemberCounts, Sample, SampleRow, SampleStatus, ShardStatus
from storage.parts import ShardFeatures
from storage.patterns import ShardRef
from storage.shards import iter_samples

if TYPE_CHECKING:
    from clipdecoder.model import ClipModel
    from clipdecoder.predict import EmbeddedImage


@dataclass(kw_only=True)
class ShardReading:
    """The state of reading one shard: rows as they come, in the order of the tar.

    `known` holds samples that need no decoding, by ordinal: those that were good when only the failed are retried.
    """

    ref: ShardRef
    plan: TagPlan
    clock: StageClock
    max_samples: int | None = None
    known: dict[int, tuple[SampleRow, NDArray[np.float16]]] = field(default_factory=dict)
    counts: MemberCounts = field(default_factory=MemberCounts)
    samples: list[tuple[Sample, str | None]] = field(default_factory=list)  # without their bytes; with their sha256
    end: ShardError | None = None
    decoded: int = 0

    def embed(self, model: ClipModel, fingerprint: Fingerprint) -> ShardFeatures:
        """Read, decode and embed the whole shard.

        Raises:
            ShardError: it has no rows at all; a truncated shard has the rows before the cut.
        """
        from clipdecoder.predict import embed_images

        request = self.plan.request
        embedded = embed_images(
            self._images(),
            model,
            batch_size=request.batch_size,
            threads=request.decode_threads,
            max_pixels=request.max_pixels,
            clock=self.clock,
        )
        results = list(embedded)
        self.decoded = len(results)
        rows, embeddings = self._rows(iter(results))
        facts = ShardFacts(
            fingerprint=fingerprint,
            status=self.end.status if self.end else ShardStatus.OK,
            error=str(self.end) if self.end else None,
            members=asdict(self.counts),
            max_pixels=request.max_pixels,
        )
        width = self.plan.model.embedding_width
        stacked = np.stack(embeddings) if embeddings else np.zeros((0, width), np.float16)
        return ShardFeatures(facts=facts, rows=tuple(rows), embeddings_ND=stacked)

    def _images(self) -> Iterator[bytes]:
        """Yield the bytes that are to be decoded, remembering every sample on the way."""
        stream = islice(iter_samples(self.ref.url, self.counts), self.max_samples)
        while True:
            with self.clock.stage("read"):
                sample = self._next(stream)
                if sample is None:
                    return
                digest = hashlib.sha256(sample.data).hexdigest() if sample.data else None
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

    def _rows(self, results: Iterator[EmbeddedImage]) -> tuple[list[SampleRow], list[NDArray[np.float16]]]:
        """Join what was read with what was decoded, one row per sample."""
        rows: list[SampleRow] = []
        embeddings: list[NDArray[np.float16]] = []
        for sample, digest in self.samples:
            if sample.sample in self.known:
                row, embedding = self.known[sample.sample]
            elif sample.status is not SampleStatus.OK:
                row, embedding = self._row(sample, digest, sample.status, sample.error), None
            else:
                image = next(results)
                row = self._row(sample, digest, image.status, image.error, image.width, image.height)
                embedding = image.embedding
            rows.append(row)
            if embedding is not None:
                embeddings.append(embedding)
        return rows, embeddings

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
