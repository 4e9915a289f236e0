"""The closed-form baselines, against the normal equations and on worlds where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.judging import baselines
from clipdecoder.judging.baselines import (
    Examples,
    Ridge,
    constant_scores,
    label_frequencies,
    label_ridge,
    ridge_to_text,
)
from clipdecoder.judging.metrics import mean_average_precision


def world(num_images: int, seed: int, noise: float = 0.1) -> tuple[Examples, np.ndarray, np.ndarray]:
    """Images that are the sum of their labels' directions, queries that are those directions turned.

    All directions lie in six dimensions, so that 8 labels teach what the other 4 are made of.

    Returns:
        Examples of 8 seen labels, all targets (12 labels), queries of all labels.
    """
    fixed = np.random.default_rng(0)
    directions_KD = fixed.normal(size=(12, 6)) @ fixed.normal(size=(6, 16))
    turned_KE = directions_KD @ fixed.normal(size=(16, 10))
    queries_KE = (turned_KE / np.linalg.norm(turned_KE, axis=1, keepdims=True)).astype(np.float32)
    rng = np.random.default_rng(seed)
    targets_NK = (rng.random((num_images, 12)) < 0.15).astype(np.int8)
    embeddings_ND = targets_NK @ directions_KD + noise * rng.normal(size=(num_images, 16)) + 1.0
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    return (
        Examples(embeddings_ND=embeddings_ND.astype(np.float16), targets_NK=targets_NK[:, :8]),
        targets_NK,
        queries_KE,
    )


def test_label_ridge_solves_the_normal_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "CHUNK_CELLS", 160)  # many blocks
    train, _, _ = world(200, seed=1)
    ridge = label_ridge(train, train, penalties=(0.1,))
    x = train.embeddings_ND.astype(np.float64)
    x, y = x - x.mean(axis=0), train.targets_NK - train.targets_NK.mean(axis=0)
    gram = x.T @ x
    expected = np.linalg.solve(gram + 0.1 * np.trace(gram) / 16 * np.eye(16), x.T @ y)
    np.testing.assert_allclose(ridge.weights_DM, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        ridge.outputs(train.embeddings_ND).mean(axis=0), train.targets_NK.mean(axis=0), atol=1e-5
    )


def test_unknown_cells_are_the_labels_mean() -> None:
    train, _, _ = world(300, seed=1)
    hidden = np.where(np.random.default_rng(0).random(train.targets_NK.shape) < 0.3, np.int8(-1), train.targets_NK)
    rate_K = (hidden == 1).sum(axis=0) / (hidden >= 0).sum(axis=0)
    ridge = label_ridge(Examples(embeddings_ND=train.embeddings_ND, targets_NK=hidden), train, penalties=(0.1,))
    mean_D = train.embeddings_ND.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(ridge.outputs(mean_D[None])[0], rate_K, rtol=1e-4)


def test_ridge_to_text_ranks_labels_it_never_saw() -> None:
    train, _, queries = world(600, seed=1)
    validation, _, _ = world(200, seed=2)
    test, targets, _ = world(400, seed=3)
    ridge = ridge_to_text(train, validation, queries[:8])
    logits = ridge.cosines(test.embeddings_ND, queries)
    novel, _, _ = mean_average_precision(logits[:, 8:], targets[:, 8:])
    seen, _, _ = mean_average_precision(logits[:, :8], targets[:, :8])
    assert novel > 1.6 * targets[:, 8:].mean()
    assert seen > 3 * targets[:, :8].mean()
    own, _, _ = mean_average_precision(label_ridge(train, validation).outputs(test.embeddings_ND), targets[:, :8])
    assert own > seen


def test_images_without_a_positive_do_not_enter_the_ridge_to_text() -> None:
    train, _, queries = world(200, seed=1)
    has = (train.targets_NK == 1).any(axis=1)
    some = Examples(embeddings_ND=train.embeddings_ND[has], targets_NK=train.targets_NK[has])
    whole = ridge_to_text(train, train, queries[:8], penalties=(0.1,))
    np.testing.assert_allclose(ridge_to_text(some, train, queries[:8], penalties=(0.1,)).weights_DM, whole.weights_DM)
    means = some.targets_NK @ queries[:8] / some.targets_NK.sum(axis=1, keepdims=True)
    mean_D = some.embeddings_ND.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(whole.outputs(mean_D[None])[0], means.mean(axis=0), atol=1e-5)


def test_the_penalty_is_the_one_of_the_best_validation() -> None:
    train, _, _ = world(30, seed=1, noise=1.0)
    validation, _, _ = world(300, seed=2, noise=1.0)
    chosen = label_ridge(train, validation)

    def precision(penalty: float) -> float:
        logits = label_ridge(train, validation, penalties=(penalty,)).outputs(validation.embeddings_ND)
        return mean_average_precision(logits, validation.targets_NK)[0]

    assert precision(chosen.penalty) == max(precision(penalty) for penalty in baselines.PENALTIES)
    assert precision(chosen.penalty) > precision(baselines.PENALTIES[0])


def test_logits_of_a_ridge_to_text_are_cosines_and_it_survives_storage() -> None:
    train, _, queries = world(100, seed=1)
    ridge = ridge_to_text(train, train, queries[:8])
    outputs = ridge.outputs(train.embeddings_ND)
    expected = outputs @ queries.T / np.linalg.norm(outputs, axis=1, keepdims=True)
    np.testing.assert_allclose(ridge.cosines(train.embeddings_ND, queries), expected, rtol=1e-5, atol=1e-6)
    back = Ridge.from_arrays(ridge.arrays())
    assert np.array_equal(back.outputs(train.embeddings_ND), outputs)


def test_validation_without_positives_takes_the_first_penalty() -> None:
    train, _, _ = world(50, seed=1)
    empty = Examples(embeddings_ND=train.embeddings_ND[:3], targets_NK=np.zeros((3, 8), np.int8))
    assert label_ridge(train, empty, penalties=(0.5, 0.1)).penalty == 0.5


def test_the_constant_knows_training_frequencies_and_for_novel_labels_the_truth() -> None:
    train = np.array([[1, 0], [1, -1], [0, 1], [0, 0]], np.int8)
    frequencies = label_frequencies(train)
    assert frequencies.tolist() == [0.5, pytest.approx(1 / 3)]
    targets = np.array([[0, 1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]], np.int8)
    scores = constant_scores(np.array([frequencies[0], np.nan, frequencies[1]]), targets)
    assert scores.tolist() == [0.5, 0.5, pytest.approx(1 / 3)]
