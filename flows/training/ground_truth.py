"""Annotated images as arrays: features from the store (or made now), labels from side files and answers.

Shapes: N annotated samples, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from flows.scratch import Pile, Room
from flows.tagging.features import FeatureRequest, feature_tagger, shard_features
from flows.training.annotated_images import AnnotatedImages
from flows.training.sample_truth import SampleTruth, TruthFinder
from schemas.counts import counted
from schemas.errors import RequestError, RunError, ShardError
from schemas.sample import MemberCounts, SampleRow, SampleStatus
from schemas.taxonomy import Taxonomy
from storage.annotations import Answers
from storage.files import Folder
from storage.ground_truth import ShardLabels
from storage.parts import ShardFeatures
from storage.patterns import ShardRef
from storage.shards import iter_samples
from storage.side_labels import side_labels

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.scoring.tagger import BatchTagger

IMAGES_AT_ONCE = 256  # whose patch tokens are in memory while they are gathered
_EXAMPLE = '{"labels": ["dog", "red car"]}'

Watch = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True, kw_only=True)
class Source:
    """Shards of one dataset, and which features of them are wanted."""

    wanted: FeatureRequest
    shards: tuple[ShardRef, ...]


@dataclass(kw_only=True)
class _Gathering:
    """What has been gathered so far."""

    finder: TruthFinder
    only: Callable[[SampleRow], bool]
    tokens: Pile | None
    of_shard: Pile | None  # the tokens of all images of the shard at hand, as they come
    pixels: Pile | None
    rows: list[SampleRow] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    truths: list[SampleTruth] = field(default_factory=list)
    embeddings: list[NDArray[np.float16]] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    num_failed: int = 0

    def add_shard(self, dataset: str, shard: str, said: ShardLabels, features: ShardFeatures) -> list[SampleRow]:
        """Add the annotated images of a shard, and return their rows."""
        rows: list[SampleRow] = []
        places: list[int] = []
        place = -1
        for row in features.rows:
            place += row.status is SampleStatus.OK
            # The first sample of a key has its answers.
            if row.status is SampleStatus.DUPLICATE_KEY:
                continue
            if row.sample not in said.samples and not self.finder.answers.has(dataset, shard, row.key):
                continue
            truth = self.finder.of(dataset, shard, row.sample, row.key, said)
            if truth.annotated and row.status is not SampleStatus.OK:
                self.num_failed += 1
            elif truth.annotated and self.only(row):
                rows.append(row)
                places.append(place)
                self.truths.append(truth)
        self.rows += rows
        self.datasets += [dataset] * len(rows)
        self.embeddings.append(features.embeddings_ND[places])
        if self.tokens is not None and features.tokens_NTC is not None:
            for start in range(0, len(places), IMAGES_AT_ONCE):
                self.tokens.add(features.tokens_NTC[places[start : start + IMAGES_AT_ONCE]])
        return rows


@contextmanager
def gather(
    sources: Sequence[Source],
    encoder: ImageEncoder,
    taxonomy: Taxonomy,
    answers: Answers,
    watch: Watch = lambda stage, done, total: None,
    *,
    pixels: bool = False,
    only: Callable[[SampleRow], bool] = lambda row: True,
) -> Iterator[AnnotatedImages]:
    """Yield the annotated images of some shards, all or `only` some. Tokens lie in a temporary file, gone afterwards.

    An image is annotated if its side file speaks of labels, or if an answer says yes or no. Images that cannot be
    decoded are left out: the store's `samples` say why.

    Raises:
        RequestError: no sample is annotated with a label of the taxonomy.
        RunError: a shard cannot be read, or the disk has no room.
    """
    shards = [(source.wanted, ref) for source in sources for ref in source.shards]
    said = [_labels_of(wanted, ref) for wanted, ref in shards]
    tokens = any(wanted.wants_tokens for wanted, _ in shards)
    expected = sum(len(labels.samples) for labels in said)
    with tempfile.TemporaryDirectory(prefix="clipdecoder-") as scratch:
        room = Room(Path(scratch))
        gathering = _Gathering(
            finder=TruthFinder(taxonomy=taxonomy, answers=answers),
            only=only,
            tokens=room.pile("tokens", np.float16, encoder.token_shape, expected) if tokens else None,
            of_shard=room.pile("tokens-of-shard", np.float16, encoder.token_shape, 0) if tokens else None,
            pixels=room.pile("pixels", np.uint8, (*encoder.transform.size, 3), expected) if pixels else None,
        )
        kinds = {wanted.wants_tokens for wanted, _ in shards}
        taggers = {tokens: feature_tagger(encoder, tokens=tokens) for tokens in kinds}
        for done, ((wanted, ref), labels) in enumerate(zip(shards, said, strict=True)):
            watch("features", done, len(shards))
            _add_shard(gathering, wanted, ref, labels, taggers[wanted.wants_tokens])
        watch("features", len(shards), len(shards))
        _check(gathering, len(shards), taxonomy)
        yield _images(gathering, Path(scratch), len(shards))


def _images(gathering: _Gathering, scratch: Path, num_shards: int) -> AnnotatedImages:
    truths, finder = gathering.truths, gathering.finder
    return AnnotatedImages(
        rows=gathering.rows,
        datasets=gathering.datasets,
        labels=[truth.there for truth in truths],
        absent=[truth.absent for truth in truths],
        unsure=[truth.unsure for truth in truths],
        described=[truth.described for truth in truths],
        asked={dataset: frozenset(labels) for dataset, labels in sorted(finder.asked.items())},
        embeddings_ND=np.concatenate(gathering.embeddings),
        tokens_NTC=gathering.tokens.whole() if gathering.tokens is not None else None,
        pixels_NHWC=gathering.pixels.whole() if gathering.pixels is not None else None,
        scratch=scratch,
        unknown=finder.words.unknown,
        damaged=gathering.damaged,
        num_failed=gathering.num_failed,
        shards=num_shards,
    )


def _labels_of(wanted: FeatureRequest, ref: ShardRef) -> ShardLabels:
    try:
        return side_labels(Folder(wanted.store), wanted.dataset, ref)
    except ShardError as error:
        raise _unreadable(error) from error


def _unreadable(error: ShardError) -> RunError:
    return RunError(f"{error}; mend or leave out the shard, and run the same command again")


def _add_shard(
    gathering: _Gathering, wanted: FeatureRequest, ref: ShardRef, said: ShardLabels, tagger: BatchTagger
) -> None:
    gathering.damaged |= said.damaged
    if not said.samples and not gathering.finder.answers.speak_of(wanted.dataset, ref.shard):
        return
    try:
        if gathering.of_shard is not None:
            gathering.of_shard.clear()
        features = shard_features(wanted, ref, tagger, StageClock(), pile=gathering.of_shard)[0]
    except ShardError as error:
        raise _unreadable(error) from error
    rows = gathering.add_shard(wanted.dataset, ref.shard, said, features)
    if gathering.pixels is not None and rows:
        _add_pixels(gathering.pixels, ref, rows, tagger.encoder, wanted.max_pixels)


def _add_pixels(pile: Pile, ref: ShardRef, rows: Sequence[SampleRow], encoder: ImageEncoder, max_pixels: int) -> None:
    """Decode the pictures of a shard that were just added, once more: training reads them many times."""
    added = {row.sample for row in rows}
    for sample in iter_samples(ref.url, MemberCounts()):
        if sample.sample in added:
            pile.add(encoder.transform.read(sample.data, max_pixels=max_pixels).pixels_HWC[None])


def _check(gathering: _Gathering, num_shards: int, taxonomy: Taxonomy) -> None:
    """Refuse ground truth from which nothing can be learned, saying what was found instead."""
    if not gathering.rows:
        hint = f" ({counted(len(gathering.damaged), 'side file', 'cannot')} be used)" if gathering.damaged else ""
        raise RequestError(
            f"no sample of these {num_shards} shards is annotated{hint}: a sample's labels stand in its .json side "
            f"file, as {_EXAMPLE}; `clipdecoder pack` makes such shards from a CSV with columns path and labels. "
            "Without touching the shards, `clipdecoder annotations import FILE` takes answers from elsewhere, and "
            "`clipdecoder review export` asks people"
        )
    if any(truth.there for truth in gathering.truths):
        return
    if any(truth.absent for truth in gathering.truths):
        raise RequestError(
            "the annotations only say which labels are absent; none is there, so there is nothing to learn"
        )
    words = ", ".join(repr(word) for word, _ in gathering.finder.words.unknown.most_common(5))
    known = ", ".join(label.id for label in taxonomy.active_labels()[:5])
    raise RequestError(
        f"no annotation names a label of taxonomy {taxonomy.name!r}: the side files say {words or 'nothing'}, "
        f"the taxonomy knows {known}, ..."
    )
