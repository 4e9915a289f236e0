"""Thresholds: the best where there is evidence, the common one where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.judging.metrics import operating_points
from clipdecoder.judging.score_maps import cross_fitted_seen_scores, fit_seen
from clipdecoder.judging.thresholds import choose_thresholds
from schemas.manifest import DEFAULT_THRESHOLD
from tests.clipdecoder.worlds import rare_labels


def macro_f1(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | float) -> float:
    said = scores >= thresholds
    right, positives = (said & (targets == 1)).sum(axis=0), (targets == 1).sum(axis=0)
    f1 = 2 * right / np.maximum(said.sum(axis=0) + positives, 1)
    return float(f1[positives > 0].mean())


def many(scores: list[float], targets: list[int], times: int) -> tuple[np.ndarray, np.ndarray]:
    """A label of so much evidence that its threshold is its own."""
    return np.repeat(np.array(scores, np.float32), times)[:, None], np.repeat(np.array(targets, np.int8), times)[
        :, None
    ]


def test_much_evidence_gives_the_threshold_of_the_best_f1() -> None:
    scores, targets = many([0.9, 0.8, 0.6, 0.5, 0.2], [1, 1, 1, 0, 0], 1000)
    thresholds = choose_thresholds(scores, targets)
    assert thresholds.threshold_K[0] == pytest.approx(0.55, abs=1e-3)  # in the middle between 0.6 and 0.5
    assert thresholds.common == pytest.approx(0.55)
    assert thresholds.reached_K.tolist() == [True] and thresholds.common_reached


def test_a_label_without_positives_gets_the_common_threshold() -> None:
    scores, targets = many([0.9, 0.8, 0.6, 0.5, 0.2], [1, 1, 1, 0, 0], 100)
    none = np.zeros_like(targets)
    thresholds = choose_thresholds(np.hstack([scores, scores / 100]), np.hstack([targets, none]))
    assert thresholds.threshold_K[1] == pytest.approx(thresholds.common)


def test_a_label_of_few_positives_stays_near_the_common_threshold() -> None:
    scores, targets = many([0.9, 0.8, 0.6, 0.5, 0.2], [1, 1, 1, 0, 0], 100)
    rare = np.zeros_like(targets)
    rare_scores = np.linspace(0, 0.4, len(rare), dtype=np.float32)[:, None]
    rare[-1] = 1  # its own best threshold is about 0.4, far below the common one
    thresholds = choose_thresholds(np.hstack([scores, rare_scores]), np.hstack([targets, rare]))
    assert 0.4 < thresholds.threshold_K[1] < thresholds.common
    assert thresholds.common - thresholds.threshold_K[1] < 0.1 * thresholds.common


def test_nothing_known_gives_the_default() -> None:
    thresholds = choose_thresholds(np.full((3, 2), 0.3, np.float32), np.zeros((3, 2), np.int8))
    assert thresholds.common == DEFAULT_THRESHOLD and not thresholds.common_reached
    np.testing.assert_allclose(thresholds.threshold_K, DEFAULT_THRESHOLD)


def test_a_target_precision_is_met_at_the_highest_recall() -> None:
    scores, targets = many([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], 1000)
    thresholds = choose_thresholds(scores, targets, target_precision=0.7)
    assert thresholds.threshold_K[0] == pytest.approx(0.55, abs=1e-3)  # 3 of 4 are right, and all are found
    assert thresholds.reached_K.tolist() == [True]


def test_a_target_precision_out_of_reach_gets_the_highest_and_is_flagged() -> None:
    scores, targets = many([0.9, 0.8, 0.7, 0.6], [0, 1, 1, 0], 1000)
    thresholds = choose_thresholds(scores, targets, target_precision=0.9)
    assert thresholds.threshold_K[0] == pytest.approx(0.65, abs=1e-3)  # 2 of 3
    assert thresholds.reached_K.tolist() == [False] and not thresholds.common_reached


def test_unknown_cells_do_not_count() -> None:
    scores, targets = many([0.9, 0.8, 0.6, 0.5, 0.2], [1, 1, 1, 0, 0], 100)
    unknown = np.vstack([targets, np.full_like(targets, -1)])
    thresholds = choose_thresholds(np.vstack([scores, 1 - scores]), unknown)
    assert thresholds.threshold_K[0] == pytest.approx(choose_thresholds(scores, targets).threshold_K[0])


@pytest.mark.parametrize("world_seed", [0, 1, 2])
def test_on_held_out_images_they_beat_one_half_and_each_labels_own_luck(world_seed: int) -> None:
    world = rare_labels(150, seed=world_seed)
    logits, targets = world.draw(500, seed=10)
    scores = cross_fitted_seen_scores(logits, targets)
    held_logits, held_targets = world.draw(4000, seed=11)
    held_scores = fit_seen(logits, targets).scores(held_logits)
    chosen = macro_f1(held_scores, held_targets, choose_thresholds(scores, targets).threshold_K)
    assert chosen > 1.05 * macro_f1(held_scores, held_targets, 0.5)
    points = [operating_points(scores[:, label], targets[:, label]) for label in range(150)]
    own = np.array([p.threshold_T[np.argmax(p.f1_T)] if p.num_positives else 0.5 for p in points])
    assert chosen > 1.02 * macro_f1(held_scores, held_targets, own)


def test_a_target_precision_holds_on_held_out_images() -> None:
    world = rare_labels(150)
    logits, targets = world.draw(500, seed=10)
    thresholds = choose_thresholds(cross_fitted_seen_scores(logits, targets), targets, target_precision=0.8)
    held_logits, held_targets = world.draw(4000, seed=11)
    said = fit_seen(logits, targets).scores(held_logits) >= thresholds.threshold_K
    assert held_targets[said].mean() == pytest.approx(0.8, abs=0.08)
