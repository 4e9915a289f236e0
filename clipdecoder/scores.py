"""Logits and scores of image embeddings against text queries, and which of them are kept.

Labels are independent of each other: no softmax, so a label's score does not depend on which others are scored.

Shapes: N samples, K labels, D embedding width, R rows of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.manifest import ModelRecord

CHUNK_CELLS = 4_000_000  # logits computed at once: 16 MB, and some four times that in passing


@dataclass(frozen=True)
class KeptScores:
    """The kept cells of the sample x label table, sorted by label, then sample. All arrays have one length."""

    sample: NDArray[np.int32]  # row of the embeddings
    label: NDArray[np.int32]  # row of the queries
    logit: NDArray[np.float32]  # cosine, -1 to 1
    score: NDArray[np.float32]  # sigmoid(slope * logit + intercept), 0 to 1

    def __len__(self) -> int:
        return len(self.sample)


def score_embeddings(
    embeddings_ND: NDArray[np.float16],
    queries_KD: NDArray[np.float32],
    record: ModelRecord,
    *,
    floor: float,
    top_k: int,
    chunk_rows: int | None = None,
) -> KeptScores:
    """Score every sample for every label; keep `score >= floor` and the `top_k` labels of each sample by logit.

    Equal logits rank by label order. Embeddings are taken as stored (float16), so scores from stored features and
    from fresh ones are the same numbers.

    Args:
        embeddings_ND: L2-normalised and finite: samples that failed never get here.
        queries_KD: L2-normalised.
        record: gives slope and intercept of the scores.
        floor: lowest score kept for any sample.
        top_k: labels kept per sample whatever their score.
        chunk_rows: samples at once; by default as many as keep memory near `CHUNK_CELLS` whatever K is.
    """
    assert np.isfinite(embeddings_ND).all(), "a sample without a finite embedding has a failure row, not scores"
    assert np.isfinite(queries_KD).all()
    num_samples, num_labels = len(embeddings_ND), len(queries_KD)
    rows = chunk_rows or max(1, CHUNK_CELLS // max(1, num_labels))
    chunks = (
        _keep(start, embeddings_ND[start : start + rows].astype(np.float32) @ queries_KD.T, record, floor, top_k)
        for start in range(0, num_samples, rows)
    )
    return _sorted_by_label(chunks)


def scores_of(logits: NDArray[np.float32], record: ModelRecord) -> NDArray[np.float32]:
    """Return `sigmoid(slope * logit + intercept)`, computed in float64 without overflow, rounded to float32."""
    z = record.slope * logits.astype(np.float64) + record.intercept
    return np.exp(-np.logaddexp(0.0, -z)).astype(np.float32)


def _keep(
    start: int, logits_RK: NDArray[np.float32], record: ModelRecord, floor: float, top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Return sample, label, logit and score of the kept cells of one chunk that begins at sample `start`."""
    top_RK = top_cells(logits_RK, top_k)
    # Scores are costly and most cells are far below the floor: compute those that may reach it, then look exactly.
    sample, label = np.nonzero(top_RK | (logits_RK >= _logit_below(floor, record)))
    logit = logits_RK[sample, label]
    score = scores_of(logit, record)
    # Compared in float32, the floor rounded likewise: no score is lost that reaches the floor in SQL's float64.
    kept = top_RK[sample, label] | (score >= np.float32(floor))
    return sample[kept] + start, label[kept], logit[kept], score[kept]


def top_cells(logits_RK: NDArray[np.float32], top_k: int) -> NDArray[np.bool_]:
    """Return kept_RK: the `top_k` greatest logits of each row, the first labels first where logits are equal."""
    num_labels = logits_RK.shape[1]
    if top_k <= 0 or top_k >= num_labels:
        return np.full(logits_RK.shape, top_k > 0)
    lowest_R1 = np.partition(logits_RK, num_labels - top_k, axis=1)[:, num_labels - top_k, None]
    above_RK = logits_RK > lowest_R1
    equal_RK = logits_RK == lowest_R1
    places_R1 = top_k - above_RK.sum(axis=1, keepdims=True)
    return np.asarray(above_RK | (equal_RK & (equal_RK.cumsum(axis=1, dtype=np.int32) <= places_R1)))


def _logit_below(floor: float, record: ModelRecord) -> float:
    """Return a logit that every cell with `score >= floor` exceeds, with room for rounding."""
    if floor <= 0 or record.slope <= 0:
        return -math.inf
    loose = min(floor, 1.0) * (1 - 1e-4)
    bound = (math.log(loose) - math.log1p(-loose) - record.intercept) / record.slope
    return max(-2.0, min(2.0, bound)) - 1e-5  # cosines end at 1; a wild bound need not be a float32


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
