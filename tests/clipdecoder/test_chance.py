"""What is more than chance: draws are drawn as said, standard errors are right, and several looks need more."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipdecoder.judging.chance import (
    DRAWS,
    Change,
    draw_counts,
    drawn_precision,
    drawn_precisions,
    mean_change,
    sure_errors,
)
from clipdecoder.judging.metrics import average_precision, average_precisions


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_a_draw_counts_as_if_its_images_stood_there_as_often(images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits_N = random.integers(0, 6, images).astype(np.float32)  # with ties
    targets_N = random.integers(-1, 2, images).astype(np.int8)
    counts_RN = draw_counts(images, 10, seed)
    assert counts_RN.sum(axis=1).tolist() == [images] * 10
    slow = [average_precision(np.repeat(logits_N, counts_N), np.repeat(targets_N, counts_N)) for counts_N in counts_RN]
    np.testing.assert_allclose(drawn_precision(logits_N, targets_N, counts_RN), slow, rtol=1e-12)


def test_draws_are_the_same_for_the_same_seed_and_no_label_is_no_column() -> None:
    assert (draw_counts(9, 5, 1) == draw_counts(9, 5, 1)).all() and (draw_counts(9, 5, 1) != draw_counts(9, 5, 2)).any()
    none = np.empty((9, 0), np.float32), np.empty((9, 0), np.int8)
    assert drawn_precisions(*none, draw_counts(9, 5, 1)).shape == (5, 0)
    nothing = np.empty((0, 2), np.float32), np.empty((0, 2), np.int8)
    assert np.isnan(drawn_precisions(*nothing, draw_counts(0, 5, 1))).all()


def ranked(
    random: np.random.Generator, targets_NK: NDArray[np.int8], common_NK: NDArray[np.float64]
) -> NDArray[np.float32]:
    return (2 * targets_NK + common_NK + 0.5 * random.normal(size=targets_NK.shape)).astype(np.float32)


def test_the_standard_error_is_how_far_equal_models_differ() -> None:
    """Two models of equal skill on a hundred pictures: their mAP differs by chance, as far as the error says."""
    random = np.random.default_rng(0)
    values, errors, sure = [], [], 0
    for _ in range(60):
        targets_NK = (random.random((100, 8)) < 0.06).astype(np.int8)
        common_NK = random.normal(size=targets_NK.shape)
        old_NK, new_NK = (ranked(random, targets_NK, common_NK) for _ in range(2))
        counts_RN = draw_counts(100, DRAWS, 0)
        change_K = average_precisions(new_NK, targets_NK) - average_precisions(old_NK, targets_NK)
        drawn_RK = drawn_precisions(new_NK, targets_NK, counts_RN) - drawn_precisions(old_NK, targets_NK, counts_RN)
        found = mean_change(change_K, drawn_RK, int(targets_NK.sum()))
        values.append(found.value)
        errors.append(found.error)
        sure += found.is_sure()
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)
    assert np.std(values) > 0.02, "a point of mAP is noise here"
    assert sure <= 8


def test_too_few_pictures_tell_no_error_and_are_never_sure() -> None:
    change = mean_change(np.array([0.5]), np.full((10, 1), 0.5), positives=2)
    assert change.value == 0.5 and change.interval is None and not change.is_sure()
    hardly = np.full((10, 1), np.nan)
    hardly[:4] = 0.5
    assert mean_change(np.array([0.5]), hardly, positives=9).interval is None
    assert mean_change(np.array([0.5]), np.full((10, 1), 0.5), positives=9).is_sure()


def test_the_more_is_looked_at_the_more_it_takes() -> None:
    assert sure_errors(1) == sure_errors(0) == pytest.approx(2)
    assert sure_errors(20) == pytest.approx(3.05, abs=0.01) and sure_errors(1000) == pytest.approx(4.08, abs=0.01)
    change = Change(value=-0.05, error=0.02)
    assert change.is_sure() and not change.among(20).is_sure()
    assert change.interval == pytest.approx((-0.09, -0.01))
    assert change.among(20).interval == pytest.approx((-0.111, 0.011), abs=0.001)


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 2000))
def test_what_is_sure_has_an_interval_without_0(value: float, error: float, comparisons: int) -> None:
    change = Change(value=value, error=error, comparisons=comparisons)
    assert change.interval is not None
    assert change.is_sure() == (abs(value) > sure_errors(comparisons) * error)
    assert change.is_gain() == (change.interval[0] > 0)


def test_draws_hold_one_draw_beside_the_counts_in_memory() -> None:
    images = 200_000
    tracemalloc.start()
    counts_RN = draw_counts(images, DRAWS, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < counts_RN.nbytes + 32 * images == DRAWS * images + 32 * images


def test_a_model_does_not_differ_from_itself() -> None:
    assert not Change(value=0.0, error=0.0).is_sure()
