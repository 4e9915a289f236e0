"""Ground truth in memory: which labels an image has, which it has not, and which nobody looked at.

Shapes: N samples, K labels, G groups of samples, B rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clipdecoder.scoring.label_maps import CHUNK_CELLS
from schemas.training import Missing

Ints = NDArray[np.int32] | NDArray[np.int64]
Lists = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of sample and label, as lists of column numbers: 9 million take 36 MB."""

    offsets_N1: NDArray[np.int64]  # sample n has labels[offsets_N1[n] : offsets_N1[n + 1]]
    labels: NDArray[np.int32]

    @classmethod
    def of(cls, lists: Lists) -> Pairs:
        """Return the pairs of samples given as lists. A label named twice by one sample is one pair."""
        distinct = [sorted(set(entries)) for entries in lists]
        offsets_N1 = np.zeros(len(distinct) + 1, np.int64)
        np.cumsum([len(entries) for entries in distinct], out=offsets_N1[1:])
        return cls(offsets_N1=offsets_N1, labels=np.array([x for entries in distinct for x in entries], np.int32))

    def __len__(self) -> int:
        return len(self.offsets_N1) - 1

    def cells(self, rows: Ints) -> tuple[Ints, NDArray[np.int32]]:
        """Return, for every pair of these rows, its place in `rows` and its label."""
        starts = self.offsets_N1[rows]
        lengths = self.offsets_N1[np.asarray(rows) + 1] - starts
        # Ranges without a loop: each pair's number within its row, added to where the row starts.
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.repeat(np.arange(len(rows)), lengths), self.labels[np.repeat(starts, lengths) + within]

    def subset(self, rows: Ints) -> Pairs:
        """Return the pairs of these samples, in this order."""
        sample, label = self.cells(rows)
        return Pairs(offsets_N1=_offsets(sample, len(rows)), labels=label)

    def select(self, place_K: NDArray[np.int32]) -> Pairs:
        """Return the pairs of some labels, renumbered; -1 leaves one out."""
        sample, place = np.repeat(np.arange(len(self)), np.diff(self.offsets_N1)), place_K[self.labels]
        kept = place >= 0
        return Pairs(offsets_N1=_offsets(sample[kept], len(self)), labels=place[kept])


@dataclass(frozen=True, kw_only=True)
class Silence:
    """What it means that a pair is not listed: nobody said so, or the label is not there.

    Whoever describes whole images leaves out what is not there, but only of the labels that they knew of. Samples that
    were described together, knowing the same labels, are a group. Of a sample that nobody described silence says
    nothing.
    """

    group_N: NDArray[np.int64]  # -1: nobody described the sample
    asked_GK: NDArray[np.bool_]  # the labels that a group knew of

    @classmethod
    def everywhere(cls, missing: Missing, num_samples: int, num_labels: int) -> Silence:
        """Return the silence that always means the same."""
        group = 0 if missing == "negative" else -1
        return cls(group_N=np.full(num_samples, group, np.int64), asked_GK=np.ones((1, num_labels), np.bool_))

    def subset(self, rows: Ints) -> Silence:
        """Return that of these samples."""
        return Silence(group_N=self.group_N[rows], asked_GK=self.asked_GK)

    def select(self, columns: Ints) -> Silence:
        """Return that of these labels."""
        return Silence(group_N=self.group_N, asked_GK=self.asked_GK[:, columns])

    def dense(self, rows: Ints, columns: Ints) -> NDArray[np.int8]:
        """Return 0 where silence is a no, else -1, for these samples and labels."""
        # -1 is the row after the last: nothing was asked.
        nothing_1K = np.zeros((1, self.asked_GK.shape[1]), np.bool_)
        values_GK = np.concatenate([self.asked_GK, nothing_1K])[:, columns].astype(np.int8) - np.int8(1)
        return np.asarray(values_GK[self.group_N[rows]])


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Positives, explicit negatives and explicit doubts, and what silence means.

    A pair that is listed in several ways is a positive, else a negative.
    """

    positive: Pairs
    absent: Pairs
    unsure: Pairs  # somebody looked and could not tell: unknown, where silence would be a no
    silence: Silence
    num_labels: int

    @classmethod
    def of(
        cls,
        positives: Lists,
        absents: Lists | None = None,
        *,
        num_labels: int,
        missing: Missing = "negative",
        unsure: Lists | None = None,
        silence: Silence | None = None,
    ) -> Targets:
        """Return the targets of samples given as lists of column numbers, one list per sample.

        Args:
            positives: the labels that are there.
            absents: those that are not, where somebody said so.
            num_labels: how many columns there are.
            missing: what a pair means that is listed nowhere, where `silence` does not say it.
            unsure: labels of which nobody knows, whatever silence means.
            silence: what a pair means that is listed nowhere, by sample and label.
        """
        num_samples = len(positives)
        others = [[()] * num_samples if lists is None else lists for lists in (absents, unsure)]
        assert all(len(lists) == num_samples for lists in others), "one list per sample"
        return cls(
            positive=Pairs.of(positives),
            absent=Pairs.of(others[0]),
            unsure=Pairs.of(others[1]),
            silence=silence or Silence.everywhere(missing, num_samples, num_labels),
            num_labels=num_labels,
        )

    def __post_init__(self) -> None:
        for pairs in (self.positive, self.absent, self.unsure):
            labels = pairs.labels
            in_range = not len(labels) or (labels.min() >= 0 and labels.max() < self.num_labels)
            assert in_range, f"labels from {labels.min()} to {labels.max()}, and there are {self.num_labels}"

    def __len__(self) -> int:
        return len(self.positive)

    @cached_property
    def explicit_K(self) -> NDArray[np.bool_]:
        """Of which labels silence never says anything: all that is known of them is listed."""
        groups = np.unique(self.silence.group_N)
        return np.asarray(~self.silence.asked_GK[groups[groups >= 0]].any(axis=0))

    def dense(self, rows: Ints | None = None, columns: Ints | None = None) -> NDArray[np.int8]:
        """Return targets_BK: 1 positive, 0 negative, -1 unknown, for these samples and these (distinct) labels.

        One byte a cell: ask for batches, not for everything, where N x K is large.
        """
        rows = np.arange(len(self)) if rows is None else rows
        columns = np.arange(self.num_labels) if columns is None else columns
        place_K = np.full(self.num_labels, -1, np.int64)
        place_K[columns] = np.arange(len(columns))
        targets_BK = self.silence.dense(rows, columns)
        for pairs, value in ((self.unsure, -1), (self.absent, 0), (self.positive, 1)):
            sample, label = pairs.cells(rows)
            place = place_K[label]
            targets_BK[sample[place >= 0], place[place >= 0]] = value
        return targets_BK

    def subset(self, rows: Ints) -> Targets:
        """Return the targets of these samples, in this order."""
        return Targets(
            positive=self.positive.subset(rows),
            absent=self.absent.subset(rows),
            unsure=self.unsure.subset(rows),
            silence=self.silence.subset(rows),
            num_labels=self.num_labels,
        )

    def select(self, columns: Ints) -> Targets:
        """Return the targets of these (distinct) labels, renumbered in this order; nothing of the others remains."""
        place_K = np.full(self.num_labels, -1, np.int32)
        place_K[columns] = np.arange(len(columns), dtype=np.int32)
        return Targets(
            positive=self.positive.select(place_K),
            absent=self.absent.select(place_K),
            unsure=self.unsure.select(place_K),
            silence=self.silence.select(columns),
            num_labels=len(columns),
        )

    def positives_K(self) -> NDArray[np.int64]:
        """Return how many samples have each label."""
        return np.bincount(self.positive.labels, minlength=self.num_labels).astype(np.int64)

    def negatives_K(self) -> NDArray[np.int64]:
        """Return how many samples are known not to have each label."""
        counts_K = np.zeros(self.num_labels, np.int64)
        size = max(1, CHUNK_CELLS // max(1, self.num_labels))
        for start in range(0, len(self), size):
            counts_K += (self.dense(np.arange(start, min(start + size, len(self)))) == 0).sum(axis=0)
        return counts_K

    def named_columns(self, rows: Ints, *, absent: bool) -> NDArray[np.int64]:
        """Return the labels, ascending, that at least one of these samples has, or is said not to have (`absent`)."""
        pairs = self.absent if absent else self.positive
        return np.unique(pairs.cells(rows)[1]).astype(np.int64)


def _offsets(sample: Ints, num_rows: int) -> NDArray[np.int64]:
    counts = np.bincount(sample, minlength=num_rows)
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
