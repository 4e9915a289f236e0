"""Annotated images as arrays: features from the store (or made now), labels from the shards' side files.

Shapes: N annotated samples, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from flows.features import FeatureRequest, shard_features
from schemas.digests import digest_of
from schemas.errors import RequestError, RunError, ShardError
from schemas.label_words import LabelWords
from schemas.sample import MemberCounts, SampleRow, SampleStatus
from schemas.taxonomy import Taxonomy
from storage.ground_truth import SampleLabels, ShardLabels, read_labels
from storage.parts import ShardFeatures
from storage.patterns import ShardRef
from storage.shards import iter_samples

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder

MAX_UNKNOWN = 20  # words named in a report
_EXAMPLE = '{"labels": ["dog", "red car"]}'

Watch = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True, kw_only=True)
class AnnotatedImages:
    """Images with what annotators said about them. All sequences have one entry per image."""

    rows: Sequence[SampleRow]
    labels: Sequence[tuple[str, ...]]  # ids of labels that are there
    absent: Sequence[tuple[str, ...]]  # ids of labels that are not, where somebody said so
    embeddings_ND: NDArray[np.float16]
    tokens_NTC: NDArray[np.float16] | None
    pixels_NHWC: NDArray[np.uint8] | None  # at the model's size, where the backbone is to be trained
    scratch: Path  # room for more, gone when the block ends
    unknown: Counter[str]  # words that mean no label
    damaged: dict[str, str]  # side files that cannot be used, by key, and why
    num_failed: int  # annotated images that cannot be decoded
    shards: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Content hash of images and labels: the state of the ground truth."""
        facts = zip(self.rows, self.labels, self.absent, strict=True)
        return digest_of(sorted([row.key, row.sha256, sorted(there), sorted(absent)] for row, there, absent in facts))

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """What tells the pictures apart by their bytes: the head of each one's SHA-256."""
        return np.array([int((row.sha256 or "0")[:16], 16) for row in self.rows], np.uint64)

    def subset(self, rows: NDArray[np.int64]) -> AnnotatedImages:
        """Return some of the images, in this order."""
        return replace(
            self,
            rows=[self.rows[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            absent=[self.absent[row] for row in rows],
            embeddings_ND=self.embeddings_ND[rows],
            tokens_NTC=self.tokens_NTC if self.tokens_NTC is None or len(rows) == len(self) else self.tokens_NTC[rows],
        )

    def unknown_words(self) -> dict[str, int]:
        """Return the most frequent words that mean no label."""
        return dict(self.unknown.most_common(MAX_UNKNOWN))


@dataclass(kw_only=True)
class _Gathering:
    """What has been gathered so far."""

    words: LabelWords
    rows: list[SampleRow] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    absent: list[tuple[str, ...]] = field(default_factory=list)
    embeddings: list[NDArray[np.float16]] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    def add(self, row: SampleRow, said: SampleLabels, embedding: NDArray[np.float16]) -> None:
        """Add one annotated image."""
        self.rows.append(row)
        self.labels.append(tuple(dict.fromkeys(self.words.find(said.labels))))
        self.absent.append(tuple(dict.fromkeys(self.words.find(said.absent))))
        self.embeddings.append(embedding)


@contextmanager
def gather(
    refs: Sequence[ShardRef],
    wanted: FeatureRequest,
    encoder: ImageEncoder,
    taxonomy: Taxonomy,
    watch: Watch = lambda stage, done, total: None,
    *,
    pixels: bool = False,
) -> Iterator[AnnotatedImages]:
    """Yield the annotated images of some shards. Tokens lie in a temporary file, which is gone afterwards.

    Images that cannot be decoded are left out: the store's `samples` say why.

    Raises:
        RequestError: no sample is annotated with a label of the taxonomy.
        RunError: a shard cannot be read.
    """
    said = {ref.shard: _labels_of(ref) for ref in refs}
    num_annotated = sum(len(labels.samples) for labels in said.values())
    with tempfile.TemporaryDirectory(prefix="clipdecoder-") as scratch:
        room = Room(Path(scratch), num_annotated)
        tokens_NTC = room.array("tokens", np.float16, encoder.token_shape) if wanted.wants_tokens else None
        pixels_NHWC = room.array("pixels", np.uint8, (*encoder.transform.size, 3)) if pixels else None
        gathering = _Gathering(words=LabelWords(taxonomy))
        for done, ref in enumerate(refs):
            watch("features", done, len(refs))
            first = len(gathering.rows)
            _add_shard(gathering, ref, said[ref.shard], _features(wanted, ref, encoder), tokens_NTC)
            if pixels_NHWC is not None:
                _add_pixels(gathering, ref, first, encoder, pixels_NHWC, wanted.max_pixels)
        watch("features", len(refs), len(refs))
        _check(gathering, refs, taxonomy)
        embeddings_ND = np.stack(gathering.embeddings)
        yield AnnotatedImages(
            rows=gathering.rows,
            labels=gathering.labels,
            absent=gathering.absent,
            embeddings_ND=embeddings_ND,
            tokens_NTC=tokens_NTC[: len(embeddings_ND)] if tokens_NTC is not None else None,
            pixels_NHWC=pixels_NHWC[: len(embeddings_ND)] if pixels_NHWC is not None else None,
            scratch=Path(scratch),
            unknown=gathering.words.unknown,
            damaged=gathering.damaged,
            num_failed=num_annotated - len(gathering.rows),
            shards=len(refs),
        )


def _labels_of(ref: ShardRef) -> ShardLabels:
    try:
        return read_labels(ref.url)
    except ShardError as error:
        raise RunError(f"{error}; mend or leave out the shard, and run the same command again") from error


def _features(wanted: FeatureRequest, ref: ShardRef, encoder: ImageEncoder) -> ShardFeatures:
    try:
        return shard_features(wanted, ref, encoder, StageClock())[0]
    except ShardError as error:
        raise RunError(f"{error}; mend or leave out the shard, and run the same command again") from error


@dataclass(frozen=True)
class Room:
    """Arrays on the disk, one row per sample: 100 KB each is more than memory at 100,000 of them."""

    folder: Path
    num_samples: int

    def array(self, name: str, dtype: type[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return an array of zeros.

        Raises:
            RunError: the disk has no room for it.
        """
        full = max(1, self.num_samples), *shape
        needed = int(np.prod(full)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"{needed / 1e9:.1f} GB are needed for the {name} of {self.num_samples} images, and "
                f"{self.folder.parent} has {free / 1e9:.1f} GB; set TMPDIR to a larger disk"
            )
        return np.memmap(self.folder / name, dtype, "w+", shape=full)


def _add_pixels(
    gathering: _Gathering, ref: ShardRef, first: int, encoder: ImageEncoder, pixels_NHWC: NDArray[Any], max_pixels: int
) -> None:
    """Decode the pictures of a shard that were just added, once more: training reads them many times."""
    from clipdecoder.encoders.images import decode_image

    place = {row.sample: first + number for number, row in enumerate(gathering.rows[first:])}
    for sample in iter_samples(ref.url, MemberCounts()):
        if sample.sample in place:
            picture = decode_image(sample.data, max_pixels=max_pixels)
            pixels_NHWC[place[sample.sample]] = encoder.transform.to_pixels(picture, max_pixels=max_pixels)


def _add_shard(
    gathering: _Gathering,
    ref: ShardRef,
    said: ShardLabels,
    features: ShardFeatures,
    tokens_NTC: NDArray[np.float16] | None,
) -> None:
    gathering.damaged |= said.damaged
    good = (row for row in features.rows if row.status is SampleStatus.OK)
    for position, row in enumerate(good):
        labels = said.samples.get(row.sample)
        if labels is None:
            continue
        if tokens_NTC is not None and features.tokens_NTC is not None:
            tokens_NTC[len(gathering.rows)] = features.tokens_NTC[position]
        gathering.add(row, labels, features.embeddings_ND[position])


def _check(gathering: _Gathering, refs: Sequence[ShardRef], taxonomy: Taxonomy) -> None:
    """Refuse ground truth from which nothing can be learned, saying what was found instead."""
    if not gathering.rows:
        hint = f" ({len(gathering.damaged)} side files cannot be used)" if gathering.damaged else ""
        raise RequestError(
            f"no sample of these {len(refs)} shards is annotated{hint}: a sample's labels stand in its .json side "
            f"file, as {_EXAMPLE}; `clipdecoder pack` makes such shards from a CSV with columns path and labels"
        )
    if any(gathering.absent) and not any(gathering.labels):
        raise RequestError(
            "the side files only say which labels are absent; none is there, so there is nothing to learn"
        )
    if not any(gathering.labels):
        words = ", ".join(repr(word) for word, _ in gathering.words.unknown.most_common(5))
        known = ", ".join(label.id for label in taxonomy.active_labels()[:5])
        raise RequestError(
            f"no annotation names a label of taxonomy {taxonomy.name!r}: the side files say {words or 'nothing'}, "
            f"the taxonomy knows {known}, ..."
        )
