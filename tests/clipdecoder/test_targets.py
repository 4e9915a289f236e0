"""Ground truth as lists of pairs says the same as a dense table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipdecoder.training.targets import Silence, Targets
from schemas.training import Missing

NUM_LABELS = 5
LISTS = st.lists(st.lists(st.integers(0, NUM_LABELS - 1), max_size=6), min_size=1, max_size=6)


def make_dense(positives: list[list[int]], absents: list[list[int]], missing: Missing) -> NDArray[np.int8]:
    """Return targets_NK cell by cell."""
    other = 0 if missing == "negative" else -1
    table = [
        [1 if label in has else 0 if label in lacks else other for label in range(NUM_LABELS)]
        for has, lacks in zip(positives, absents, strict=True)
    ]
    return np.array(table, np.int8).reshape(len(positives), NUM_LABELS)


@given(positives=LISTS, data=st.data(), missing=st.sampled_from(["negative", "unknown"]))
def test_dense_subset_and_select_agree_with_the_table(
    positives: list[list[int]], data: st.DataObject, missing: Missing
) -> None:
    num_samples = len(positives)
    absents = data.draw(st.lists(st.lists(st.integers(0, NUM_LABELS - 1)), min_size=num_samples, max_size=num_samples))
    rows = np.array(data.draw(st.lists(st.integers(0, num_samples - 1), max_size=8)), np.int64)
    columns = np.array(data.draw(st.lists(st.integers(0, NUM_LABELS - 1), unique=True)), np.int64)
    table_NK = make_dense(positives, absents, missing)
    targets = Targets.of(positives, absents, num_labels=NUM_LABELS, missing=missing)

    np.testing.assert_array_equal(targets.dense(), table_NK)
    np.testing.assert_array_equal(targets.dense(rows, columns), table_NK[rows][:, columns])
    np.testing.assert_array_equal(targets.subset(rows).dense(), table_NK[rows])
    np.testing.assert_array_equal(targets.select(columns).dense(), table_NK[:, columns])
    np.testing.assert_array_equal(targets.select(columns).subset(rows).dense(), table_NK[rows][:, columns])
    np.testing.assert_array_equal(targets.positives_K(), (table_NK == 1).sum(axis=0))
    named = targets.named_columns(rows, absent=False)
    np.testing.assert_array_equal(named, np.flatnonzero((table_NK[rows] == 1).any(axis=0)))


@given(data=st.data(), num_samples=st.integers(1, 6))
def test_silence_means_what_its_group_was_asked(data: st.DataObject, num_samples: int) -> None:
    lists = st.lists(st.lists(st.integers(0, NUM_LABELS - 1)), min_size=num_samples, max_size=num_samples)
    positives, absents, unsure = (data.draw(lists) for _ in range(3))
    group_N = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=num_samples, max_size=num_samples)), np.int64)
    asked_GK = np.array(data.draw(st.lists(st.booleans(), min_size=10, max_size=10))).reshape(2, NUM_LABELS)
    table_NK = np.full((num_samples, NUM_LABELS), -1, np.int8)
    for n, k in np.ndindex(table_NK.shape):
        silent = 0 if group_N[n] >= 0 and asked_GK[group_N[n], k] else -1
        doubtful = -1 if k in unsure[n] else silent
        table_NK[n, k] = 1 if k in positives[n] else 0 if k in absents[n] else doubtful
    silence = Silence(group_N=group_N, asked_GK=asked_GK)
    targets = Targets.of(positives, absents, unsure=unsure, num_labels=NUM_LABELS, silence=silence)
    rows = np.array(data.draw(st.lists(st.integers(0, num_samples - 1), max_size=8)), np.int64)
    columns = np.array(data.draw(st.lists(st.integers(0, NUM_LABELS - 1), unique=True)), np.int64)

    np.testing.assert_array_equal(targets.dense(), table_NK)
    np.testing.assert_array_equal(targets.dense(rows, columns), table_NK[rows][:, columns])
    np.testing.assert_array_equal(targets.select(columns).subset(rows).dense(), table_NK[rows][:, columns])
    np.testing.assert_array_equal(targets.negatives_K(), (table_NK == 0).sum(axis=0))
    asked = asked_GK[group_N[group_N >= 0]].any(axis=0)
    np.testing.assert_array_equal(targets.explicit_K, ~asked)


def test_what_is_not_named_is_negative_or_unknown_as_asked() -> None:
    positives, absents = [[0], []], [[1], [2]]
    negative = Targets.of(positives, absents, num_labels=3)
    unknown = Targets.of(positives, absents, num_labels=3, missing="unknown")
    assert negative.dense().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert unknown.dense().tolist() == [[1, 0, -1], [-1, -1, 0]]
    assert unknown.named_columns(np.arange(2), absent=True).tolist() == [1, 2]


def test_a_label_named_twice_is_one_positive_and_beats_its_absence() -> None:
    targets = Targets.of([[1, 1]], [[1]], num_labels=2, missing="unknown")
    assert targets.dense().tolist() == [[-1, 1]]
    assert targets.positives_K().tolist() == [0, 1]


def test_selecting_leaves_nothing_of_other_labels() -> None:
    targets = Targets.of([[0, 1, 2], [2]], [[3], [2, 3]], num_labels=4).select(np.array([1, 0]))
    assert set(targets.positive.labels.tolist()) == {0, 1} and len(targets.absent.labels) == 0
    assert targets.dense().tolist() == [[1, 1], [0, 0]]


def test_a_column_that_is_no_label_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="labels from 0 to 3, and there are 3"):
        Targets.of([[0, 3]], num_labels=3)
