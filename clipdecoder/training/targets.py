"""Ground truth in memory: which labels an image has, which it has not, and which nobody looked at.

Shapes: N samples, K labels, B rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.training import Missing

Ints = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Positives and explicit negatives by sample, as lists of column numbers: 9 million pairs take 36 MB.

    A pair that is listed as both is a positive. A pair that is listed nowhere is a negative, or unknown, as `missing`
    says.
    """

    offsets_N1: NDArray[np.int64]  # sample n has labels[offsets_N1[n] : offsets_N1[n + 1]]
    labels: NDArray[np.int32]
    absent_offsets_N1: NDArray[np.int64]
    absent_labels: NDArray[np.int32]
    num_labels: int
    missing: Missing

    @classmethod
    def of(
        cls,
        positives: Sequence[Sequence[int]],
        absents: Sequence[Sequence[int]] | None = None,
        *,
        num_labels: int,
        missing: Missing = "negative",
    ) -> Targets:
        """Return the targets of samples given as lists of column numbers, one list per sample."""
        absents = [()] * len(positives) if absents is None else absents
        assert len(absents) == len(positives), f"{len(positives)} samples, {len(absents)} lists of absent labels"
        offsets_N1, labels = _pack(positives)
        absent_offsets_N1, absent_labels = _pack(absents)
        return cls(
            offsets_N1=offsets_N1,
            labels=labels,
            absent_offsets_N1=absent_offsets_N1,
            absent_labels=absent_labels,
            num_labels=num_labels,
            missing=missing,
        )

    def __post_init__(self) -> None:
        for labels in (self.labels, self.absent_labels):
            in_range = not len(labels) or (labels.min() >= 0 and labels.max() < self.num_labels)
            assert in_range, f"labels from {labels.min()} to {labels.max()}, and there are {self.num_labels}"

    def __len__(self) -> int:
        return len(self.offsets_N1) - 1

    def dense(self, rows: Ints | None = None, columns: Ints | None = None) -> NDArray[np.int8]:
        """Return targets_BK: 1 positive, 0 negative, -1 unknown, for these samples and these (distinct) labels.

        One byte a cell: ask for batches, not for everything, where N x K is large.
        """
        rows = np.arange(len(self)) if rows is None else rows
        columns = np.arange(self.num_labels) if columns is None else columns
        place_K = np.full(self.num_labels, -1, np.int64)
        place_K[columns] = np.arange(len(columns))
        targets_BK = np.full((len(rows), len(columns)), 0 if self.missing == "negative" else -1, np.int8)
        lists = ((self.absent_offsets_N1, self.absent_labels, 0), (self.offsets_N1, self.labels, 1))
        for offsets_N1, labels, value in lists:
            sample, label = _cells(offsets_N1, labels, rows)
            place = place_K[label]
            targets_BK[sample[place >= 0], place[place >= 0]] = value
        return targets_BK

    def subset(self, rows: Ints) -> Targets:
        """Return the targets of these samples, in this order."""
        offsets_N1, labels = _subset(self.offsets_N1, self.labels, rows)
        absent_offsets_N1, absent_labels = _subset(self.absent_offsets_N1, self.absent_labels, rows)
        return Targets(
            offsets_N1=offsets_N1,
            labels=labels,
            absent_offsets_N1=absent_offsets_N1,
            absent_labels=absent_labels,
            num_labels=self.num_labels,
            missing=self.missing,
        )

    def select(self, columns: Ints) -> Targets:
        """Return the targets of these (distinct) labels, renumbered in this order; nothing of the others remains."""
        place_K = np.full(self.num_labels, -1, np.int32)
        place_K[columns] = np.arange(len(columns), dtype=np.int32)
        offsets_N1, labels = _select(self.offsets_N1, self.labels, place_K)
        absent_offsets_N1, absent_labels = _select(self.absent_offsets_N1, self.absent_labels, place_K)
        return Targets(
            offsets_N1=offsets_N1,
            labels=labels,
            absent_offsets_N1=absent_offsets_N1,
            absent_labels=absent_labels,
            num_labels=len(columns),
            missing=self.missing,
        )

    def positives_K(self) -> NDArray[np.int64]:
        """Return how many samples have each label."""
        return np.bincount(self.labels, minlength=self.num_labels).astype(np.int64)

    def named_columns(self, rows: Ints, *, absent: bool) -> NDArray[np.int64]:
        """Return the labels, ascending, that at least one of these samples has, or is said not to have (`absent`)."""
        offsets_N1, labels = (self.absent_offsets_N1, self.absent_labels) if absent else (self.offsets_N1, self.labels)
        return np.unique(_cells(offsets_N1, labels, rows)[1]).astype(np.int64)


def _pack(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    # A label named twice by one sample is one positive.
    distinct = [sorted(set(entries)) for entries in lists]
    offsets_N1 = np.zeros(len(distinct) + 1, np.int64)
    np.cumsum([len(entries) for entries in distinct], out=offsets_N1[1:])
    return offsets_N1, np.array([label for entries in distinct for label in entries], np.int32)


def _cells(offsets_N1: NDArray[np.int64], labels: NDArray[np.int32], rows: Ints) -> tuple[Ints, NDArray[np.int32]]:
    """Return, for every listed pair of these rows, its place in `rows` and its label."""
    starts = offsets_N1[rows]
    lengths = offsets_N1[np.asarray(rows) + 1] - starts
    # Ranges without a loop: each pair's number within its row, added to where the row starts.
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(np.arange(len(rows)), lengths), labels[np.repeat(starts, lengths) + within]


def _offsets(sample: Ints, num_rows: int) -> NDArray[np.int64]:
    counts = np.bincount(sample, minlength=num_rows)
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _subset(
    offsets_N1: NDArray[np.int64], labels: NDArray[np.int32], rows: Ints
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    sample, label = _cells(offsets_N1, labels, rows)
    return _offsets(sample, len(rows)), label


def _select(
    offsets_N1: NDArray[np.int64], labels: NDArray[np.int32], place_K: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    num_rows = len(offsets_N1) - 1
    sample = np.repeat(np.arange(num_rows), np.diff(offsets_N1))
    place = place_K[labels]
    kept = place >= 0
    return _offsets(sample[kept], num_rows), place[kept]
