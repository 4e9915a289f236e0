"""Tags of two models on the same images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipdecoder.judging.tag_changes import flip_rate, rate_changes, tags_of

TAGS = st.integers(1, 8).flatmap(lambda rows: st.tuples(arrays(np.bool_, (rows, 3)), arrays(np.bool_, (rows, 3))))


def test_a_tag_is_a_score_at_or_above_its_own_threshold() -> None:
    scores_NK = np.array([[0.5, 0.2], [0.49, 0.3]], np.float32)
    assert tags_of(scores_NK, np.array([0.5, 0.25])).tolist() == [[True, False], [False, True]]


def test_the_change_of_a_rate_is_signed_and_rare_labels_say_nothing() -> None:
    before = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], np.bool_)
    after = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]], np.bool_)
    changes_K = rate_changes(before, after, min_tagged=2)
    assert changes_K[[0, 2]].tolist() == [0.25, 0.5] and np.isnan(changes_K[1])


def test_without_images_or_tags_nothing_is_said() -> None:
    nothing = np.zeros((0, 2), np.bool_)
    assert np.isnan(rate_changes(nothing, nothing, min_tagged=1)).all() and np.isnan(flip_rate(nothing, nothing))
    assert np.isnan(flip_rate(np.zeros((3, 2), np.bool_), np.zeros((3, 2), np.bool_)))


def test_flips_are_the_tags_that_one_model_gives_alone() -> None:
    before, after = np.array([[1, 1, 0, 0]], np.bool_), np.array([[1, 0, 1, 0]], np.bool_)
    assert flip_rate(before, after) == pytest.approx(2 / 3)


@given(TAGS)
def test_flip_rate_knows_no_order_and_lies_between_0_and_1(pair: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = pair
    rate = flip_rate(before, after)
    assert np.array_equal(rate, flip_rate(after, before), equal_nan=True)
    assert np.isnan(rate) or 0 <= rate <= 1
    assert (rate == 0) == (np.array_equal(before, after) and bool(before.any()))
