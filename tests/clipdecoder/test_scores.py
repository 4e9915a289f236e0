"""Which scores are kept, against a brute-force oracle, and what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.scoring.cosine import CosineScorer
from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.scores import KeptScores, keep_scores
from schemas.manifest import ModelRecord
from schemas.scores import ODDS_STEPS


def record_of(slope: float = 10.0, intercept: float = -2.5) -> ModelRecord:
    return ModelRecord(
        model_id="m",
        encoder_id="e",
        text_encoder_id="t",
        name="test",
        architecture="custom",
        image_size=(8, 8),
        embedding_width=4,
        context_length=8,
        slope=slope,
        intercept=intercept,
    )


def score_embeddings(
    embeddings: np.ndarray,
    queries: np.ndarray,
    record: ModelRecord,
    *,
    floor: float,
    top_k: int,
    chunk_rows: int | None = None,
) -> KeptScores:
    """Score as a zero-shot model does."""
    maps = LabelMaps.shared(record.slope, record.intercept, len(queries))
    scorer = CosineScorer(queries_KD=queries, maps=maps)
    return keep_scores(embeddings, None, scorer, floor=floor, top_k=top_k, chunk_rows=chunk_rows)


def unit_rows(count: int, seed: int, levels: int) -> np.ndarray:
    """Unit vectors; few levels make equal logits common."""
    rows = np.random.default_rng(seed).integers(-levels, levels + 1, (count, 4)).astype(np.float32)
    rows[:, 0] += levels + 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def score_of(record: ModelRecord, logit: float) -> np.float32:
    """Of log odds on their grid."""
    return np.float32(1 / (1 + math.exp(-round(ODDS_STEPS * (record.slope * logit + record.intercept)) / ODDS_STEPS)))


def oracle(
    embeddings: np.ndarray, queries: np.ndarray, record: ModelRecord, floor: float, top_k: int
) -> set[tuple[int, int]]:
    """One cell at a time. Logits come from the same product, so that ties are the same ties."""
    logits = embeddings.astype(np.float32) @ queries.T
    kept = set()
    for sample, row in enumerate(logits):
        ranked = sorted(range(len(row)), key=lambda label: (-row[label], label))
        for rank, label in enumerate(ranked):
            score = score_of(record, float(row[label]))
            if rank < top_k or score >= np.float32(floor):
                kept.add((sample, label))
    return kept


@settings(max_examples=200, deadline=None)
@given(
    num_samples=st.integers(0, 7),
    num_labels=st.integers(0, 12),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([1, 2, 1000]),
    slope=st.sampled_from([0.0, 1.0, 14.3, 100.0]),
    intercept=st.floats(-20, 5),
    floor=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.5, 1.0])),
    top_k=st.integers(0, 14),
)
def test_kept_cells_are_the_oracles(
    num_samples: int,
    num_labels: int,
    seed: int,
    levels: int,
    slope: float,
    intercept: float,
    floor: float,
    top_k: int,
) -> None:
    record = record_of(slope, intercept)
    embeddings = unit_rows(num_samples, seed, levels).astype(np.float16)
    queries = unit_rows(num_labels, seed + 1, levels)
    kept = score_embeddings(embeddings, queries, record, floor=floor, top_k=top_k)
    pairs = list(zip(kept.sample.tolist(), kept.label.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == oracle(embeddings, queries, record, floor, top_k)
    assert pairs == sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    cosines = embeddings.astype(np.float64) @ queries.astype(np.float64).T
    for sample, label, logit, score in zip(*vars(kept).values(), strict=True):
        assert logit == pytest.approx(cosines[sample, label], abs=1e-6)
        assert score == pytest.approx(score_of(record, float(logit)), rel=1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 3, 50])
def test_chunks_change_nothing(chunk_rows: int) -> None:
    embeddings, queries = unit_rows(20, 0, 500).astype(np.float16), unit_rows(30, 1, 500)
    whole = score_embeddings(embeddings, queries, record_of(), floor=0.9, top_k=3)
    parts = score_embeddings(embeddings, queries, record_of(), floor=0.9, top_k=3, chunk_rows=chunk_rows)
    assert 60 < len(whole) < 600
    assert np.array_equal(parts.sample, whole.sample) and np.array_equal(parts.label, whole.label)
    np.testing.assert_allclose(parts.score, whole.score, rtol=1e-5)


def test_types_and_counts() -> None:
    kept = score_embeddings(unit_rows(3, 0, 9).astype(np.float16), unit_rows(5, 1, 9), record_of(), floor=1.0, top_k=2)
    assert (len(kept), kept.sample.dtype, kept.label.dtype) == (6, np.int32, np.int32)
    assert (kept.logit.dtype, kept.score.dtype) == (np.float32, np.float32)
    assert np.bincount(kept.sample).tolist() == [2, 2, 2]


def test_equal_logits_rank_by_label_order() -> None:
    embeddings = np.array([[1, 0]], np.float16)
    queries = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    kept = score_embeddings(embeddings, queries, record_of(), floor=1.0, top_k=2)
    assert kept.label.tolist() == [1, 2]


def test_labels_are_independent() -> None:
    """A label's score is the same whatever else is scored: no softmax."""
    embeddings, queries = unit_rows(4, 0, 50).astype(np.float16), unit_rows(30, 1, 50)

    def of_label_seven(kept: KeptScores, label: int) -> np.ndarray:
        return kept.score[kept.label == label]

    all_labels = score_embeddings(embeddings, queries, record_of(), floor=0, top_k=0)
    one_label = score_embeddings(embeddings, queries[7:8], record_of(), floor=0, top_k=0)
    np.testing.assert_allclose(of_label_seven(all_labels, 7), of_label_seven(one_label, 0), rtol=1e-5)


def test_scores_do_not_overflow() -> None:
    logits = np.array([-1, 0, 1], np.float32)
    assert LabelMaps.shared(5000.0, 0.0, 3).scores(logits).tolist() == [0.0, 0.5, 1.0]


def test_rows_that_are_not_finite_never_get_here() -> None:
    with pytest.raises(AssertionError, match="finite"):
        score_embeddings(np.array([[np.nan]], np.float16), np.ones((1, 1), np.float32), record_of(), floor=0, top_k=1)


def test_large_vocabularies_are_scored_in_bounded_chunks() -> None:
    embeddings, queries = unit_rows(300, 0, 99).astype(np.float16), unit_rows(20_000, 1, 99)
    kept = score_embeddings(embeddings, queries, record_of(), floor=1.0, top_k=20)
    assert len(kept) == 300 * 20
