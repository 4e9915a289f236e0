"""The cosine of the picture and of its best patch, against one cell at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import clipdecoder.scoring.cosine as cosine
from clipdecoder.scoring.cosine import CosineScorer, best_patch
from clipdecoder.scoring.label_maps import LabelMaps

CPU = torch.device("cpu")
NUM_IMAGES, NUM_TOKENS, NUM_LABELS, WIDTH = 7, 5, 9, 12


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal((*shape, WIDTH))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def embeddings_ND() -> np.ndarray:
    return unit(np.random.default_rng(0), NUM_IMAGES).astype(np.float16)


@pytest.fixture
def tokens_NTC() -> np.ndarray:
    """Patches of any length: stored tokens are not normalised."""
    rng = np.random.default_rng(1)
    return (unit(rng, NUM_IMAGES, NUM_TOKENS) * rng.uniform(0.1, 20, (NUM_IMAGES, NUM_TOKENS, 1))).astype(np.float16)


@pytest.fixture
def queries_KD() -> np.ndarray:
    return unit(np.random.default_rng(2), NUM_LABELS).astype(np.float32)


def scorer_of(queries_KD: np.ndarray, *, local: bool) -> CosineScorer:
    return CosineScorer(queries_KD=queries_KD, maps=LabelMaps.shared(1, 0, len(queries_KD)), local=local, device=CPU)


def cosine_of(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_best_patch_is_the_greatest_cosine(tokens_NTC: np.ndarray, queries_KD: np.ndarray) -> None:
    expected = [[max(cosine_of(token, query) for token in tokens) for query in queries_KD] for tokens in tokens_NTC]
    local_NK = best_patch(tokens_NTC, queries_KD, CPU)
    assert local_NK.dtype == np.float32
    np.testing.assert_allclose(local_NK, expected, atol=1e-6)


def test_a_local_logit_is_the_mean_of_picture_and_best_patch(
    embeddings_ND: np.ndarray, tokens_NTC: np.ndarray, queries_KD: np.ndarray
) -> None:
    whole_NK = scorer_of(queries_KD, local=False).logits(embeddings_ND, None)
    both_NK = scorer_of(queries_KD, local=True).logits(embeddings_ND, tokens_NTC)
    np.testing.assert_allclose(both_NK, (whole_NK + best_patch(tokens_NTC, queries_KD, CPU)) / 2, atol=1e-6)
    assert both_NK.dtype == whole_NK.dtype == np.float32
    assert np.abs(both_NK).max() <= 1 + 1e-3


def test_the_greatest_logit_is_one(embeddings_ND: np.ndarray) -> None:
    tokens_NTC = np.repeat(30 * embeddings_ND[:, None], 2, axis=1)
    tokens_NTC[:, 0] *= -1
    logits_NK = scorer_of(embeddings_ND.astype(np.float32), local=True).logits(embeddings_ND, tokens_NTC)
    np.testing.assert_allclose(np.diag(logits_NK), 1, atol=2e-3)


def test_only_the_local_scorer_needs_tokens(embeddings_ND: np.ndarray, queries_KD: np.ndarray) -> None:
    assert not scorer_of(queries_KD, local=False).needs_tokens
    local = scorer_of(queries_KD, local=True)
    assert local.needs_tokens and local.cells_per_image == NUM_LABELS
    with pytest.raises(AssertionError, match="patch tokens"):
        local.logits(embeddings_ND, None)


def test_a_patch_without_direction_matches_nothing(queries_KD: np.ndarray) -> None:
    assert np.array_equal(best_patch(np.zeros((2, 3, WIDTH), np.float16), queries_KD, CPU), np.zeros((2, NUM_LABELS)))


def test_no_images_no_labels_and_read_only_tokens(tokens_NTC: np.ndarray, queries_KD: np.ndarray) -> None:
    assert best_patch(tokens_NTC[:0], queries_KD, CPU).shape == (0, NUM_LABELS)
    assert best_patch(tokens_NTC, queries_KD[:0], CPU).shape == (NUM_IMAGES, 0)
    frozen = tokens_NTC.copy()
    frozen.flags.writeable = False  # as memory maps and Arrow's arrays are
    assert np.array_equal(best_patch(frozen, queries_KD, CPU), best_patch(tokens_NTC, queries_KD, CPU))


def test_images_taken_one_by_one_score_alike(
    tokens_NTC: np.ndarray, queries_KD: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = best_patch(tokens_NTC, queries_KD, CPU)
    monkeypatch.setattr(cosine, "MEGABYTES_OF_PATCHES", 0)
    np.testing.assert_allclose(best_patch(tokens_NTC, queries_KD, CPU), together, atol=1e-6)
