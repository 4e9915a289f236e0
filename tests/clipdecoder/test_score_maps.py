"""Maps from logit to probability: monotone, right where the truth is known, and careful where evidence is thin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.judging import score_maps
from clipdecoder.judging.metrics import Floats, Targets8, expected_calibration_error, log_loss, reliability_bins
from clipdecoder.judging.score_maps import (
    cross_fitted_novel_scores,
    cross_fitted_seen_scores,
    fit_novel,
    fit_platt,
    fit_seen,
)
from clipdecoder.scoring.label_maps import LabelMaps
from tests.clipdecoder.worlds import World, equal_labels, rare_labels


def ece(scores: Floats, targets: Targets8) -> float:
    return expected_calibration_error(reliability_bins(scores, targets))


def platt_by_label(logits: Floats, targets: Targets8) -> LabelMaps:
    maps = [fit_platt(logits[:, label], targets[:, label]) for label in range(logits.shape[1])]
    return LabelMaps(
        slope_K=np.array([found.slope for found in maps]), intercept_K=np.array([found.intercept for found in maps])
    )


def test_platt_finds_the_map_that_the_data_came_from() -> None:
    world = World(frequency_K=np.array([0.2]), distance_K=np.array([3.0]))
    found = fit_platt(*world.draw(100_000, seed=0))
    assert found.slope == pytest.approx(3.0, rel=0.03)
    assert found.intercept == pytest.approx(np.log(0.2 / 0.8) - 4.5, rel=0.03)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.2, 0.01), (-40.0, 30.0)])
def test_units_of_the_logit_do_not_count(shift: float, scale: float) -> None:
    logits, targets = rare_labels(20).draw(400, seed=1)
    moved = (logits.astype(np.float64) * scale + shift).astype(np.float64)
    np.testing.assert_allclose(
        fit_platt(moved, targets).scores(moved), fit_platt(logits, targets).scores(logits), atol=1e-5
    )
    np.testing.assert_allclose(
        fit_seen(moved, targets).scores(moved), fit_seen(logits, targets).scores(logits), atol=2e-3
    )


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0]),  # a perfect ranking
        ([0.0, 1.0, 2.0, 3.0], [1, 1, 0, 0]),  # the reverse of the truth
        ([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0]),  # logits that say nothing
        ([3.0, 2.0, 1.0, 0.0], [0, 0, 0, 0]),  # no positive
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 1, 1]),  # no negative
        ([3.0, 2.0, 1.0, 0.0], [1, -1, -1, -1]),  # a single cell
        ([3.0, 2.0, 1.0, 0.0], [-1, -1, -1, -1]),  # nobody said anything
    ],
)
def test_slopes_are_positive_and_finite_whatever_comes(logits: list[float], targets: list[int]) -> None:
    column = np.array(logits, np.float32)[:, None]
    truth = np.array(targets, np.int8)[:, None]
    for slope, intercept in (
        (fit_platt(column, truth).slope, fit_platt(column, truth).intercept),
        (fit_seen(column, truth).slope_K[0], fit_seen(column, truth).intercept_K[0]),
        (fit_seen(column, truth).usual.slope, fit_seen(column, truth).usual.intercept),
    ):
        assert 0 < slope < 1e3 and abs(intercept) < 1e3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num_images=st.integers(1, 60), num_labels=st.integers(1, 8))
def test_calibration_never_changes_the_order_of_images(seed: int, num_images: int, num_labels: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_images, num_labels)).astype(np.float32)
    targets = rng.choice(np.array([-1, 0, 0, 1], np.int8), logits.shape)  # the logits know nothing of it
    maps = fit_seen(logits, targets)
    assert (maps.slope_K > 0).all() and maps.usual.slope > 0 and fit_novel(logits, targets).slope > 0
    order = np.argsort(logits, axis=0)
    assert (np.diff(np.take_along_axis(maps.scores(logits), order, axis=0), axis=0) >= 0).all()


def test_a_label_whose_logits_mislead_hardly_moves_and_keeps_its_frequency() -> None:
    logits, targets = equal_labels(12).draw(4000, seed=0)
    logits[:, 0] *= -1
    scores = fit_seen(logits, targets).scores(logits)
    assert scores[:, 0].std() < 0.01
    assert scores[:, 0].mean() == pytest.approx(targets[:, 0].mean(), rel=0.1)


@pytest.mark.parametrize("world_seed", [0, 1, 2])
def test_few_positives_do_not_overfit(world_seed: int) -> None:
    """On images held out, shrunk maps beat both extremes: one map for all, and each label for itself."""
    world = rare_labels(150, seed=world_seed)
    logits, targets = world.draw(500, seed=10)
    held_logits, held_targets = world.draw(4000, seed=11)
    shrunk = fit_seen(logits, targets).scores(held_logits)
    shared = fit_platt(logits, targets).scores(held_logits)
    alone = platt_by_label(logits, targets).scores(held_logits)
    assert log_loss(shrunk, held_targets) < 0.9 * log_loss(shared, held_targets)
    assert log_loss(shrunk, held_targets) < 0.97 * log_loss(alone, held_targets)
    assert ece(shrunk, held_targets) < min(0.002, ece(alone, held_targets))
    # What is lost against knowing the truth is small.
    assert log_loss(shrunk, held_targets) < 1.1 * log_loss(world.probabilities(held_logits), held_targets)


def test_labels_that_are_alike_get_the_same_map() -> None:
    world = equal_labels(40)
    logits, targets = world.draw(300, seed=0)
    held_logits, held_targets = world.draw(4000, seed=1)
    maps = fit_seen(logits, targets)
    assert maps.slope_K.std() < 0.1 * maps.slope_K.mean()
    assert log_loss(maps.scores(held_logits), held_targets) < 1.02 * log_loss(
        world.probabilities(held_logits), held_targets
    )


def test_much_evidence_frees_a_label() -> None:
    world = World(frequency_K=np.array([0.3] * 10), distance_K=np.linspace(0.5, 5, 10))
    maps = fit_seen(*world.draw(20_000, seed=0))
    np.testing.assert_allclose(maps.slope_K, world.distance_K, rtol=0.06)


def test_unknown_cells_do_not_count() -> None:
    logits, targets = rare_labels(10).draw(300, seed=0)
    nobody_said = np.random.default_rng(0).random(targets.shape) < 0.3
    hidden = np.where(nobody_said, np.int8(-1), targets)
    # The mean and the deviation are those of known cells: a wild logit where nobody said anything moves nothing.
    wild = np.where(nobody_said, np.float32(50), logits)
    np.testing.assert_allclose(fit_seen(wild, hidden).slope_K, fit_seen(logits, hidden).slope_K, rtol=1e-4)
    assert fit_platt(wild, hidden).slope == pytest.approx(fit_platt(logits, hidden).slope, rel=1e-6)


def test_blocks_of_labels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = rare_labels(25).draw(100, seed=0)
    whole = fit_seen(logits, targets)
    monkeypatch.setattr(score_maps, "CHUNK_CELLS", 700)
    np.testing.assert_allclose(fit_seen(logits, targets).slope_K, whole.slope_K, rtol=1e-4)


def test_cross_fitting_is_honest_where_fitting_is_not() -> None:
    """A cell's own target must not decide its score: on logits of pure noise, only the fitted scores look informed."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(80, 60)).astype(np.float32)
    targets = (rng.random((80, 60)) < 0.1).astype(np.int8)
    fitted = log_loss(fit_seen(logits, targets).scores(logits), targets)
    crossed = log_loss(cross_fitted_seen_scores(logits, targets), targets)
    constant = log_loss(np.full(targets.shape, targets.mean()), targets)
    assert fitted < constant < crossed < 1.05 * constant


def test_novel_labels_are_scored_by_maps_of_other_labels() -> None:
    logits, targets = equal_labels(10).draw(300, seed=0)
    scores = cross_fitted_novel_scores(logits, targets, seed=1)
    changed = targets.copy()
    changed[:, 3] = 1 - changed[:, 3]
    assert np.array_equal(cross_fitted_novel_scores(logits, changed, seed=1)[:, 3], scores[:, 3])
    assert ece(scores, targets) < 0.02
    # One label alone: nothing else to learn from.
    alone = cross_fitted_novel_scores(logits[:, :1], targets[:, :1])
    np.testing.assert_allclose(alone, fit_novel(logits[:, :1], targets[:, :1]).scores(logits[:, :1]))


def test_cross_fitting_needs_no_more_folds_than_images() -> None:
    logits, targets = equal_labels(3).draw(2, seed=0)
    assert np.isfinite(cross_fitted_seen_scores(logits, targets)).all()


def test_a_novel_map_holds_for_labels_it_never_saw() -> None:
    """The calibration error of new labels from the same kind of world."""
    logits, targets = rare_labels(40, seed=0).draw(500, seed=1)
    new_logits, new_targets = rare_labels(40, seed=5).draw(2000, seed=2)
    assert ece(fit_novel(logits, targets).scores(new_logits), new_targets) < 0.01
