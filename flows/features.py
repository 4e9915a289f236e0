"""Features of a shard: taken from the store where they are there, else made from its images and kept.

Shapes: N samples that could be decoded, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipdecoder.clock import StageClock
from flows.reading import KnownSample, ShardReading, require_fingerprint
from schemas.sample import SampleStatus, ShardStatus
from storage.files import Folder
from storage.parts import (
    ShardFeatures,
    features_path,
    read_features,
    read_tokens,
    tokens_path,
    write_features,
    write_tokens,
)
from storage.patterns import ShardRef
from storage.shards import check_bytes
from storage.side_labels import keep_side_labels

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder


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

    @property
    def wants_tokens(self) -> bool:
        """Whether patch tokens have to be there in the end."""
        return self.tokens or self.store_tokens


def shard_features(
    wanted: FeatureRequest, ref: ShardRef, encoder: ImageEncoder, clock: StageClock
) -> tuple[ShardFeatures, int]:
    """Return a shard's features and how many images were decoded for them: none, if the store has them already.

    Features that are made are stored at once, so that the next vocabulary needs no image; and so is what the side files
    say, so that no training reads the shard again for it.

    Raises:
        ShardError: the shard has no rows: it is missing, not a tar, or cannot be read; or it is not what the store
            remembers any more.
        StoreError: the store cannot be written.
    """
    stored = stored_features(wanted, ref, clock)
    complete = stored is not None and (stored.tokens_NTC is not None or not wanted.wants_tokens)
    if stored is not None and complete and not (wanted.retry_failed and _has_failures(stored)):
        return stored, 0
    known = _good_samples(stored) if stored is not None and complete else {}
    if wanted.remembered:
        check_bytes(ref.url, require_fingerprint(ref))
    reading = ShardReading(ref=ref, wanted=wanted, clock=clock, known=known)
    made = reading.embed(encoder, require_fingerprint(ref))
    with clock.stage("write"):
        keep_side_labels(Folder(wanted.store), wanted.dataset, ref, reading.said)
    return _keep(wanted, ref, stored, made, clock), reading.decoded


def stored_features(wanted: FeatureRequest, ref: ShardRef, clock: StageClock) -> ShardFeatures | None:
    """Return the shard's features if the store has them, of the same bytes and limits, with tokens if it has them.

    Raises:
        ShardError: the shard is not there.
    """
    fingerprint = require_fingerprint(ref)
    with clock.stage("features"):
        folder = Folder(wanted.store)
        path = features_path(wanted.encoder_id, wanted.dataset, ref.shard)
        stored = read_features(folder, path, fingerprint, wanted.max_pixels)
        if stored is None or not wanted.wants_tokens:
            return stored
        tokens_NTC = read_tokens(folder, tokens_path(wanted.encoder_id, wanted.dataset, ref.shard), stored)
        return replace(stored, tokens_NTC=tokens_NTC)


def _keep(
    wanted: FeatureRequest, ref: ShardRef, stored: ShardFeatures | None, made: ShardFeatures, clock: StageClock
) -> ShardFeatures:
    """Store what is new of the features, and return them.

    Samples that were good before keep their rows and embeddings: another batch size rounds otherwise, and scores from
    embeddings must not change because somebody asked for tokens.
    """
    folder = Folder(wanted.store)
    with clock.stage("write"):
        if stored is not None:
            made = _with_stored(stored, made)
        if stored is None or (made.facts, made.rows) != (stored.facts, stored.rows):
            write_features(folder, features_path(wanted.encoder_id, wanted.dataset, ref.shard), made)
        if wanted.store_tokens:
            write_tokens(folder, tokens_path(wanted.encoder_id, wanted.dataset, ref.shard), made)
    return made


def _with_stored(stored: ShardFeatures, made: ShardFeatures) -> ShardFeatures:
    """Return what was made, with the stored row and embedding of each sample that was good before and is again."""
    known, place = _good_samples(stored), {int(sample): place for place, sample in enumerate(made.ok_samples)}
    again = known.keys() & place.keys()
    embeddings_ND = made.embeddings_ND.copy()
    for sample in again:
        embeddings_ND[place[sample]] = known[sample].embedding
    rows = tuple(known[row.sample].row if row.sample in again else row for row in made.rows)
    return replace(made, rows=rows, embeddings_ND=embeddings_ND)


def _has_failures(features: ShardFeatures) -> bool:
    return len(features.ok_samples) < len(features.rows) or features.facts.status is not ShardStatus.OK


def _good_samples(stored: ShardFeatures) -> dict[int, KnownSample]:
    """Return what is known of the samples that need no second visit, by ordinal."""
    good = [row for row in stored.rows if row.status is SampleStatus.OK]
    tokens = stored.tokens_NTC if stored.tokens_NTC is not None else [None] * len(good)
    return {
        row.sample: KnownSample(row, embedding, own)
        for row, embedding, own in zip(good, stored.embeddings_ND, tokens, strict=True)
    }
