"""From logits to scores, and which of them are kept.

Labels are independent of each other: no softmax, so a label's score does not depend on which others are scored.

Shapes: N samples, K labels, D embedding width, T patch tokens, C token width, R rows of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK_CELLS = 4_000_000  # logits computed at once: 16 MB, and some four times that in passing


@dataclass(frozen=True)
class KeptScores:
    """The kept cells of the sample x label table, sorted by label, then sample. All arrays have one length."""

    sample: NDArray[np.int32]  # row of the embeddings
    label: NDArray[np.int32]  # row of the queries
    logit: NDArray[np.float32]  # as the scorer gives it; of `clip` the cosine, -1 to 1
    score: NDArray[np.float32]  # sigmoid(slope * logit + intercept), 0 to 1

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True)
class LabelMaps:
    """What makes a score of a logit, label by label: `sigmoid(slope * logit + intercept)`."""

    slope_K: NDArray[np.float64]
    intercept_K: NDArray[np.float64]

    @classmethod
    def shared(cls, slope: float, intercept: float, num_labels: int) -> LabelMaps:
        """Return one map for all labels."""
        return cls(np.full(num_labels, slope), np.full(num_labels, intercept))

    @property
    def equal(self) -> bool:
        """Whether all labels have one map, so that logits rank as scores do."""
        return bool((self.slope_K == self.slope_K[:1]).all() and (self.intercept_K == self.intercept_K[:1]).all())

    def log_odds(self, logits: NDArray[np.floating[Any]], label: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """Return `slope * logit + intercept` for these labels' logits."""
        odds = self.slope_K[label] * logits.astype(np.float64) + self.intercept_K[label]
        return np.asarray(odds, np.float64)

    def scores(
        self, logits: NDArray[np.floating[Any]], label: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the scores of these labels' logits: computed in float64 without overflow, rounded to float32."""
        return np.exp(-np.logaddexp(0.0, -self.log_odds(logits, label))).astype(np.float32)


class VocabularyScorer(Protocol):
    """A model with a vocabulary: what gives every image a logit for every label."""

    @property
    def maps(self) -> LabelMaps:
        """What makes scores of the logits."""

    @property
    def needs_tokens(self) -> bool:
        """Whether patch tokens are looked at."""

    @property
    def cells_per_image(self) -> int:
        """Numbers held per image while scoring, which is what memory is shared out by."""

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK. An image's logits depend on no other image, and a label's on no other label."""


def keep_scores(
    embeddings_ND: NDArray[np.float16],
    tokens_NTC: NDArray[np.float16] | None,
    scorer: VocabularyScorer,
    *,
    floor: float,
    top_k: int,
    chunk_rows: int | None = None,
) -> KeptScores:
    """Score every sample for every label; keep `score >= floor` and the `top_k` best labels of each sample.

    Equal labels rank by their order. Embeddings are taken as stored (float16), so scores from stored features and
    from fresh ones are the same numbers.

    Args:
        embeddings_ND: L2-normalised and finite: samples that failed never get here.
        tokens_NTC: patch tokens of the same samples; needed where `scorer.needs_tokens`.
        scorer: gives logits and their maps to scores.
        floor: lowest score kept for any sample.
        top_k: labels kept per sample whatever their score.
        chunk_rows: samples at once; by default as many as keep memory near `CHUNK_CELLS` whatever K is.
    """
    assert np.isfinite(embeddings_ND).all(), "a sample without a finite embedding has a failure row, not scores"
    rows = chunk_rows or max(1, CHUNK_CELLS // max(1, scorer.cells_per_image))
    chunks = (
        _keep(start, _logits(scorer, embeddings_ND, tokens_NTC, slice(start, start + rows)), scorer.maps, floor, top_k)
        for start in range(0, len(embeddings_ND), rows)
    )
    return _sorted_by_label(chunks)


def all_logits(
    embeddings_ND: NDArray[np.float16], tokens_NTC: NDArray[np.float16] | None, scorer: VocabularyScorer
) -> NDArray[np.float32]:
    """Return logits_NK of all samples, computed some at a time."""
    rows = max(1, CHUNK_CELLS // max(1, scorer.cells_per_image))
    chunks = [
        _logits(scorer, embeddings_ND, tokens_NTC, slice(start, start + rows))
        for start in range(0, len(embeddings_ND), rows)
    ]
    return np.concatenate([np.empty((0, len(scorer.maps.slope_K)), np.float32), *chunks])


def _logits(
    scorer: VocabularyScorer,
    embeddings_ND: NDArray[np.float16],
    tokens_NTC: NDArray[np.float16] | None,
    rows: slice,
) -> NDArray[np.float32]:
    if not scorer.needs_tokens:
        return scorer.logits(embeddings_ND[rows], None)
    assert tokens_NTC is not None, "this scorer looks at patch tokens"
    return scorer.logits(embeddings_ND[rows], tokens_NTC[rows])


def _keep(
    start: int, logits_RK: NDArray[np.float32], maps: LabelMaps, floor: float, top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return sample, label, logit and score of the kept cells of one chunk that begins at sample `start`."""
    top_RK = top_cells(logits_RK if maps.equal else maps.log_odds(logits_RK, slice(None)), top_k)
    # Scores are costly and most cells are far below the floor: compute those that may reach it, then look exactly.
    sample, label = np.nonzero(top_RK | (logits_RK >= _logits_below(floor, maps)))
    logit = logits_RK[sample, label]
    score = maps.scores(logit, label)
    # Compared in float32, the floor rounded likewise: no score is lost that reaches the floor in SQL's float64.
    kept = top_RK[sample, label] | (score >= np.float32(floor))
    return sample[kept] + start, label[kept], logit[kept], score[kept]


def top_cells(ranks_RK: NDArray[np.floating[Any]], top_k: int) -> NDArray[np.bool_]:
    """Return kept_RK: the `top_k` greatest cells of each row, the first labels first where they are equal."""
    num_labels = ranks_RK.shape[1]
    if top_k <= 0 or top_k >= num_labels:
        return np.full(ranks_RK.shape, top_k > 0)
    lowest_R1 = np.partition(ranks_RK, num_labels - top_k, axis=1)[:, num_labels - top_k, None]
    above_RK = ranks_RK > lowest_R1
    equal_RK = ranks_RK == lowest_R1
    places_R1 = top_k - above_RK.sum(axis=1, keepdims=True)
    return np.asarray(above_RK | (equal_RK & (equal_RK.cumsum(axis=1, dtype=np.int32) <= places_R1)))


def _logits_below(floor: float, maps: LabelMaps) -> NDArray[np.float64]:
    """Return for each label a logit that every cell with `score >= floor` exceeds, with room for rounding."""
    below_K = np.full(len(maps.slope_K), -math.inf)
    rising_K = maps.slope_K > 0
    if floor > 0:
        loose = min(floor, 1.0) * (1 - 1e-4)
        log_odds = math.log(loose) - math.log1p(-loose)
        bound_K = (log_odds - maps.intercept_K[rising_K]) / maps.slope_K[rising_K]
        below_K[rising_K] = bound_K - 1e-5 * np.maximum(1.0, np.abs(bound_K))
    return below_K


def _sorted_by_label(
    chunks: Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]],
) -> KeptScores:
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32))
    sample, label, logit, score = (np.concatenate(column) for column in zip(none, *chunks, strict=True))
    order = np.lexsort((sample, label))
    return KeptScores(
        sample=sample[order].astype(np.int32),
        label=label[order].astype(np.int32),
        logit=logit[order],
        score=score[order],
    )
