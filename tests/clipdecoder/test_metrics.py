"""Metrics against loops that follow their definitions, and against examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.judging.metrics import (
    average_precision,
    average_precisions,
    brier_score,
    chance_average_precisions,
    chance_f1_at_k,
    curve_points,
    expected_calibration_error,
    f1_at_k,
    harmonic_mean,
    likely_cells,
    log_loss,
    mean_average_precision,
    number_or_none,
    operating_points,
    reliability_bins,
)


def int8(values: object) -> np.ndarray:
    return np.array(values, np.int8)


def table(seed: int, num_images: int, num_labels: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits with ties and targets with unknown cells."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, (num_images, num_labels)).astype(np.float32) / levels
    return logits, rng.choice(int8([-1, 0, 0, 1]), (num_images, num_labels))


def loop_average_precision(logits: np.ndarray, targets: np.ndarray) -> float:
    """The definition, one threshold at a time."""
    pairs = [(float(logit), int(target)) for logit, target in zip(logits, targets, strict=True) if target >= 0]
    positives = sum(target for _, target in pairs)
    if positives in (0, len(pairs)):
        return math.nan
    total, recall_before = 0.0, 0.0
    for threshold in sorted({logit for logit, _ in pairs}, reverse=True):
        said = [target for logit, target in pairs if logit >= threshold]
        recall = sum(said) / positives
        total += (recall - recall_before) * sum(said) / len(said)
        recall_before = recall
    return total


def loop_f1_at_k(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float, float]:
    right = answers = 0
    for row, truth in zip(scores, targets, strict=True):
        known = [label for label in range(len(row)) if truth[label] >= 0]
        chosen = sorted(known, key=lambda label: (-row[label], label))[:k]
        answers += len(chosen)
        right += sum(int(truth[label] == 1) for label in chosen)
    positives = int((targets == 1).sum())
    precision, recall = right / max(answers, 1), right / max(positives, 1)
    return precision, recall, 2 * right / max(answers + positives, 1)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), num_images=st.integers(0, 25), levels=st.sampled_from([1, 3, 1000]))
def test_average_precision_is_the_loops(seed: int, num_images: int, levels: int) -> None:
    logits, targets = table(seed, num_images, 3, levels)
    expected = [loop_average_precision(logits[:, label], targets[:, label]) for label in range(3)]
    found = average_precisions(logits, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-12, equal_nan=True)
    mean, per_label, skipped = mean_average_precision(logits, targets)
    known = [value for value in expected if not math.isnan(value)]
    assert skipped == 3 - len(known)
    assert np.array_equal(per_label, found, equal_nan=True)
    assert (mean == pytest.approx(np.mean(known))) if known else math.isnan(mean)


def test_average_precision_worked_by_hand() -> None:
    # Positives on places 1 and 3 of 4: (1/1 + 2/3) / 2.
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), int8([1, 0, 1, 0])) == pytest.approx(5 / 6)
    # scikit-learn 1.9.1, average_precision_score([0, 0, 1, 1, 1, 0], [.1, .4, .35, .8, .4, .4]).
    ties = average_precision(np.array([0.1, 0.4, 0.35, 0.8, 0.4, 0.4]), int8([0, 0, 1, 1, 1, 0]))
    assert ties == pytest.approx(0.7)
    # A constant logit: the share of positives.
    assert average_precision(np.zeros(5), int8([1, 0, 0, 0, 0])) == pytest.approx(0.2)
    assert math.isnan(average_precision(np.ones(3), int8([0, 0, -1])))
    assert math.isnan(average_precision(np.arange(3.0), int8([1, 1, -1]))), "any order is perfect"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_average_precision_sees_only_the_order(seed: int) -> None:
    logits, targets = table(seed, 30, 2, 1000)
    order = np.random.default_rng(seed).permutation(30)
    found = average_precisions(logits, targets)
    np.testing.assert_allclose(average_precisions(np.exp(logits * 3), targets), found, equal_nan=True)
    np.testing.assert_allclose(average_precisions(logits[order], targets[order]), found, equal_nan=True)


def test_unknown_cells_are_as_if_they_were_not_there() -> None:
    logits, targets = table(0, 40, 1, 1000)
    known = targets[:, 0] >= 0
    assert average_precision(logits[:, 0], targets[:, 0]) == average_precision(logits[known, 0], targets[known, 0])
    assert brier_score(logits, targets) == brier_score(logits[known], targets[known])
    assert log_loss(logits, targets) == log_loss(logits[known], targets[known])
    assert reliability_bins(logits, targets) == reliability_bins(logits[known], targets[known])


def test_chance_is_the_mean_over_random_orders() -> None:
    rng = np.random.default_rng(0)
    targets = int8([1] * 2 + [0] * 18 + [-1] * 5)
    simulated = np.mean([average_precision(rng.random(25), targets) for _ in range(20_000)])
    chance = chance_average_precisions(targets[:, None])
    assert chance[0] == pytest.approx(simulated, rel=0.02)
    assert chance[0] > 2 / 20  # more than the share of positives
    edges = chance_average_precisions(int8([[1, 0, -1, 1], [1, 0, -1, 0]]))
    assert np.isnan(edges[:3]).all() and edges[3] == pytest.approx(0.75)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), num_labels=st.integers(1, 8), k=st.integers(1, 9), levels=st.sampled_from([1, 2, 1000])
)
def test_f1_at_k_is_the_loops(seed: int, num_labels: int, k: int, levels: int) -> None:
    scores, targets = table(seed, 12, num_labels, levels)
    found = f1_at_k(scores, targets, k)
    assert (found.precision, found.recall, found.f1) == pytest.approx(loop_f1_at_k(scores, targets, k))


def test_f1_at_k_counts_images_without_positives() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    found = f1_at_k(scores, int8([[1, 0], [0, 0]]), 1)
    assert (found.precision, found.recall, found.f1) == (0.5, 1.0, pytest.approx(2 / 3))


def test_f1_at_k_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = table(0, 50, 7, 1000)
    whole = f1_at_k(scores, targets, 3)
    monkeypatch.setattr("clipdecoder.judging.metrics.CHUNK_CELLS", 21)
    assert f1_at_k(scores, targets, 3) == whole


def test_chance_f1_is_the_mean_over_random_labels() -> None:
    rng = np.random.default_rng(0)
    _, targets = table(1, 40, 6, 2)
    runs = [f1_at_k(rng.random(targets.shape), targets, 3) for _ in range(1000)]
    chance = chance_f1_at_k(targets, 3)
    assert chance.precision == pytest.approx(np.mean([run.precision for run in runs]), rel=0.02)
    assert chance.recall == pytest.approx(np.mean([run.recall for run in runs]), rel=0.02)


def test_calibration_error_worked_by_hand() -> None:
    scores = np.array([0.1, 0.3, 0.7, 0.9, 1.0], np.float32)
    bins = reliability_bins(scores, int8([0, 1, 1, 1, 0]), bins=2)
    assert [found.count for found in bins] == [2, 3]
    assert [found.positive_rate for found in bins] == [0.5, pytest.approx(2 / 3)]
    assert [found.mean_score for found in bins] == [pytest.approx(0.2), pytest.approx(2.6 / 3)]
    assert (bins[0].low, bins[0].high, bins[1].high) == (0, 0.5, 1)
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.3 + 3 * 0.2) / 5)


def test_scores_of_the_truth_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    targets = (rng.random(200_000) < scores).astype(np.int8)
    bins = reliability_bins(scores, targets)
    assert len(bins) == 15 and sum(found.count for found in bins) == 200_000
    assert expected_calibration_error(bins) < 0.005
    assert expected_calibration_error(reliability_bins(scores**2, targets)) > 0.15
    assert brier_score(scores, targets) == pytest.approx(1 / 6, abs=0.002)  # mean of p (1 - p)
    assert log_loss(scores, targets) == pytest.approx(0.5, abs=0.005)  # mean entropy of p


def test_a_constant_at_the_true_frequency_has_no_calibration_error() -> None:
    targets = int8([1] + [0] * 9)
    assert expected_calibration_error(reliability_bins(np.full(10, 0.1), targets)) == pytest.approx(0)


def test_nothing_known_has_no_number() -> None:
    scores, targets = np.ones((2, 2), np.float32), np.full((2, 2), -1, np.int8)
    bins = reliability_bins(scores, targets)
    assert all(found.mean_score is None and found.count == 0 for found in bins)
    for value in (expected_calibration_error(bins), brier_score(scores, targets), log_loss(scores, targets)):
        assert math.isnan(value) and number_or_none(value) is None
    assert number_or_none(0.0) == 0.0


def test_sure_and_wrong_stays_finite() -> None:
    assert log_loss(np.array([0.0, 1.0]), int8([1, 0])) == pytest.approx(-math.log(1e-7))


def test_likely_cells_keep_what_may_be_a_yes() -> None:
    scores = np.array([[0.049, 0.05], [0.9, 0.5]], np.float32)
    assert likely_cells(scores, int8([[1, 0], [1, -1]])).tolist() == [[-1, 0], [1, -1]]


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.9, 0.3) == pytest.approx(0.45)
    assert harmonic_mean(0.0, 0.0) == 0 and math.isnan(harmonic_mean(math.nan, 0.5))


def test_operating_points_enter_together_where_logits_are_equal() -> None:
    points = operating_points(np.array([0.5, 0.9, 0.5, 0.1]), int8([1, 1, 0, -1]))
    assert points.threshold_T.tolist() == [0.9, 0.5]
    assert points.precision_T.tolist() == [1.0, pytest.approx(2 / 3)]
    assert points.recall_T.tolist() == [0.5, 1.0]
    assert points.f1_T.tolist() == [pytest.approx(2 / 3), pytest.approx(0.8)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num_images=st.integers(1, 600))
def test_a_drawn_curve_has_few_points_and_reaches_full_recall(seed: int, num_images: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.choice(int8([0, 1]), num_images)
    targets[0] = 1
    points = operating_points(rng.random(num_images), targets)
    chosen = curve_points(points)
    recall = points.recall_T[chosen]
    assert len(chosen) <= 101 and (np.diff(recall) >= 0).all() and recall[-1] == 1
    assert np.diff(np.concatenate(([0], recall))).max() <= max(0.02, 1.5 / points.num_positives) + 1e-9
