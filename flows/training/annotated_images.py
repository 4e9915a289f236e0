"""Images with what people said about them, as arrays.

Shapes: N annotated samples, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.digests import digest_of
from schemas.sample import SampleRow
from schemas.training import Missing

if TYPE_CHECKING:
    from clipdecoder.training.targets import Targets

MAX_UNKNOWN = 20  # words named in a report


@dataclass(frozen=True, kw_only=True)
class AnnotatedImages:
    """Images with what people said about them. All sequences have one entry per image."""

    rows: Sequence[SampleRow]
    datasets: Sequence[str]
    labels: Sequence[tuple[str, ...]]  # ids of labels that are there
    absent: Sequence[tuple[str, ...]]  # ids of labels that are not, where somebody said so
    unsure: Sequence[tuple[str, ...]]  # ids of labels that somebody looked for and could not tell
    described: Sequence[bool]  # by a side file; else all that is known are single answers
    asked: Mapping[str, frozenset[str]]  # by dataset: the labels that its side files name, of any image
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
        silence = {dataset: digest_of(sorted(labels)) for dataset, labels in self.asked.items()}
        facts = [
            [row.key, row.sha256, sorted(there), sorted(absent), sorted(unsure), silence[dataset] if described else ""]
            for row, dataset, there, absent, unsure, described in zip(
                self.rows, self.datasets, self.labels, self.absent, self.unsure, self.described, strict=True
            )
        ]
        return digest_of(sorted(facts))

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """What tells the pictures apart by their bytes: the head of each one's SHA-256."""
        return np.array([int((row.sha256 or "0")[:16], 16) for row in self.rows], np.uint64)

    def subset(self, rows: NDArray[np.int64]) -> AnnotatedImages:
        """Return some of the images, in this order."""
        return replace(
            self,
            rows=[self.rows[row] for row in rows],
            datasets=[self.datasets[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            absent=[self.absent[row] for row in rows],
            unsure=[self.unsure[row] for row in rows],
            described=[self.described[row] for row in rows],
            embeddings_ND=self.embeddings_ND[rows],
            tokens_NTC=self.tokens_NTC if self.tokens_NTC is None or len(rows) == len(self) else self.tokens_NTC[rows],
        )

    def unknown_words(self) -> dict[str, int]:
        """Return the most frequent words that mean no label."""
        return dict(self.unknown.most_common(MAX_UNKNOWN))

    def targets(self, label_ids: Sequence[str], missing: Missing) -> Targets:
        """Return the ground truth of these labels.

        With `missing="negative"` an image that a side file describes has not the labels that it leaves out, of those
        that the side files of its dataset know of. Nothing follows from what an image with answers alone was not asked.
        """
        from clipdecoder.training.targets import Silence, Targets

        column = {label_id: number for number, label_id in enumerate(label_ids)}
        group = {dataset: number for number, dataset in enumerate(self.asked)} if missing == "negative" else {}
        described = zip(self.datasets, self.described, strict=True)
        asked_GK = np.array(
            [[label_id in labels for label_id in label_ids] for labels in self.asked.values()], np.bool_
        )

        def columns(lists: Sequence[tuple[str, ...]]) -> list[list[int]]:
            return [[column[label_id] for label_id in labels if label_id in column] for labels in lists]

        return Targets.of(
            columns(self.labels),
            columns(self.absent),
            unsure=columns(self.unsure),
            num_labels=len(label_ids),
            silence=Silence(
                group_N=np.array([group.get(dataset, -1) if told else -1 for dataset, told in described], np.int64),
                asked_GK=asked_GK.reshape(len(self.asked), len(label_ids)),
            ),
        )
