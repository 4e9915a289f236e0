"""What is read of a shard: from its tar, or what the store has of it, in a thread that runs ahead of all others."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from clipdecoder.clock import StageClock
from schemas.errors import ShardError
from schemas.manifest import Fingerprint, ShardFacts, ShardReport
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.ground_truth import ShardLabels, changed_at
from storage.parts import ShardFeatures, features_path, read_features
from storage.patterns import ShardRef
from storage.shards import check_bytes, iter_samples
from storage.tokens import StoredTokens, TokenChunk, find_tokens, tokens_path

if TYPE_CHECKING:
    from flows.tagging.features import FeatureRequest


class Signal(Enum):
    """What the reading thread says of a shard, beside handing on pictures and stored tokens."""

    RESTART = auto()  # stored tokens turned out to be damaged: forget what came of them
    END = auto()


Item = bytes | TokenChunk | Signal


class SeenSample(NamedTuple):
    """What the tar says of a sample."""

    key: str
    sample: int
    num_bytes: int
    status: SampleStatus
    error: str | None


@dataclass(kw_only=True, eq=False)
class ShardReading:
    """One shard as it is read, or found in the store. Other threads look at it once an item of it has reached them.

    Args:
        ref: the shard.
        wanted: which features, and from where.
        find_done: asked first of all, returns the report of a shard that needs no visit.
        max_samples: read no more than the first few.
    """

    ref: ShardRef
    wanted: FeatureRequest
    find_done: Callable[[ShardRef], ShardReport | None] = lambda ref: None
    max_samples: int | None = None

    clock: StageClock = field(default_factory=StageClock)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: ShardReport | None = None
    failed: ShardError | None = None  # no rows at all
    stored: ShardFeatures | None = None  # of these bytes under these limits
    stored_tokens: StoredTokens | None = None  # of all good samples of `stored`, where tokens are wanted
    from_store: bool = False  # `stored` has everything: no picture is read
    skips: bool = False  # of the pictures, those that were good are not decoded again
    said: ShardLabels | None = None  # by the side files, which are in hand while pictures are read
    seen: list[SeenSample] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # ordinals of the pictures handed on to be decoded
    _counts: MemberCounts = field(default_factory=MemberCounts)
    _cut: ShardError | None = None

    @property
    def restores(self) -> bool:
        """Whether pictures are decoded anew whose embeddings are stored: for their patch tokens."""
        return self.stored is not None and not self.skips and not self.from_store

    @cached_property
    def stored_place(self) -> Mapping[int, int]:
        """Places of the good samples among the stored embeddings, by ordinal."""
        return {} if self.stored is None else {int(s): place for place, s in enumerate(self.stored.ok_samples)}

    @property
    def facts(self) -> ShardFacts:
        """What reading found, once it has ended."""
        return ShardFacts(
            fingerprint=require_fingerprint(self.ref),
            status=self._cut.status if self._cut else ShardStatus.OK,
            error=str(self._cut) if self._cut else None,
            members=asdict(self._counts),
            max_pixels=self.wanted.max_pixels,
        )

    def items(self) -> Generator[Item, None, None]:
        """Yield stored patch tokens and pictures to be decoded, as far as they are needed.

        Raises:
            ShardError: the shard has no rows at all; a truncated shard has the rows before the cut.
        """
        self.started_at = datetime.now(UTC)
        self.done = self.find_done(self.ref)
        if self.done is not None:
            return
        fingerprint = require_fingerprint(self.ref)
        with self.clock.stage("features"):
            path = features_path(self.wanted.encoder_id, self.wanted.dataset, self.ref.shard)
            self.stored = read_features(self.wanted.folder, path, fingerprint, self.wanted.max_pixels)
        complete = yield from self._stored_items()
        self.from_store = complete and not (self.wanted.retry_failed and self._has_failures)
        if self.from_store:
            return
        self.skips = complete
        if self.wanted.remembered:
            check_bytes(self.ref.url, fingerprint)
        yield from self._pictures()

    def _stored_items(self) -> Generator[Item, None, bool]:
        """Yield the patch tokens of stored features, if they are wanted; return whether the store has all."""
        if self.stored is None or not self.wanted.wants_tokens:
            return self.stored is not None
        path = tokens_path(self.wanted.encoder_id, self.wanted.dataset, self.ref.shard)
        with self.clock.stage("features"):
            self.stored_tokens = find_tokens(self.wanted.folder, path, self.stored)
        if self.stored_tokens is None:
            return False
        chunks = self.stored_tokens.chunks()
        try:
            while True:
                with self.clock.stage("features"):
                    chunk = next(chunks, None)
                if chunk is None:
                    return True
                yield chunk
        except ValueError:  # damaged: made again, like anything else of the features
            self.stored_tokens = None
            yield Signal.RESTART
            return False

    def _pictures(self) -> Iterator[bytes]:
        self.said = ShardLabels(changed_at=changed_at(self.ref.url))
        stream = islice(iter_samples(self.ref.url, self._counts), self.max_samples)
        known = self.stored_place if self.skips else {}
        seconds = 0.0
        try:
            while True:
                started = time.perf_counter()
                sample = self._next(stream)
                if sample is None:
                    return
                self.said.add(sample)
                self.seen.append(SeenSample(sample.key, sample.sample, sample.num_bytes, sample.status, sample.error))
                wanted = sample.status is SampleStatus.OK and sample.sample not in known
                seconds += time.perf_counter() - started
                if wanted:
                    self.sent.append(sample.sample)
                    yield sample.data
        finally:
            self.clock.add("read", seconds)

    def _next(self, stream: Iterator[Sample]) -> Sample | None:
        """Return the next sample, or None at the end: the proper one, or the cut of a truncated shard."""
        try:
            return next(stream, None)
        except ShardError as error:
            if error.status is not ShardStatus.TRUNCATED:
                raise
            self._cut = error
            return None

    @property
    def _has_failures(self) -> bool:
        assert self.stored is not None
        return len(self.stored.embeddings_ND) < len(self.stored.rows) or self.stored.facts.status is not ShardStatus.OK


def require_fingerprint(ref: ShardRef) -> Fingerprint:
    """Return the shard's fingerprint; one that is not there is an error of the shard, not of the run."""
    if ref.fingerprint is None:
        raise ShardError(ShardStatus.MISSING, f"{ref.url} is not there")
    return ref.fingerprint
