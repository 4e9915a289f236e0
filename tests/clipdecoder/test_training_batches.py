"""What a step sees: every image once an epoch, all labels its images have, and nothing by the clock."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipdecoder.training.batches import Process, TrainData, epoch_rows, iter_batches, load_batch, sample_labels
from clipdecoder.training.targets import Silence, Targets
from schemas.errors import RunError
from tests.clipdecoder.training_world import NUM_LABELS, make_data, recipe


def test_an_epoch_has_each_image_once_in_an_order_of_its_own() -> None:
    data, config = make_data(), recipe(batch_size=16)
    first, second = epoch_rows(data, config, 1, 1), epoch_rows(data, config, 2, 1)
    assert first.shape == (5, 16)
    assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(80))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, epoch_rows(data, config, 1, 1))
    np.testing.assert_array_equal(first, epoch_rows(data, config.model_copy(update={"batch_size": 8}), 1, 2))


@pytest.mark.parametrize(
    ("batch_size", "world_size", "shape"), [(32, 1, (2, 32)), (100, 1, (1, 80)), (100, 3, (1, 78))]
)
def test_batches_are_full_and_alike_for_all_processes(batch_size: int, world_size: int, shape: tuple[int, int]) -> None:
    assert epoch_rows(make_data(), recipe(batch_size=batch_size), 1, world_size).shape == shape


def test_more_processes_than_images_are_refused() -> None:
    few = dataclasses.replace(make_data(), rows_M=np.arange(3))
    with pytest.raises(RunError, match="3 images to train on, and 4 processes"):
        epoch_rows(few, recipe(), 1, 4)


@given(
    lists=st.lists(st.lists(st.integers(0, 29), max_size=4), min_size=4, max_size=4),
    limit=st.integers(0, 40),
    seed=st.integers(0, 100),
)
def test_a_step_has_all_positives_and_others_up_to_the_limit(lists: list[list[int]], limit: int, seed: int) -> None:
    targets = Targets.of(lists, num_labels=30)
    rows = np.array([0, 1, 2])
    columns = sample_labels(targets, rows, recipe(sampled_labels=limit), np.random.default_rng(seed))
    positives = {label for labels in lists[:3] for label in labels}
    assert positives <= set(columns.tolist())
    assert (np.diff(columns) > 0).all()
    wanted = 30 if limit in (0, *range(30, 41)) else max(limit, len(positives))
    assert len(columns) == wanted


def test_unknown_labels_come_in_only_where_a_teacher_knows_them() -> None:
    targets = Targets.of([[0], [1]], [[2], []], num_labels=10, missing="unknown")
    rows, rng = np.arange(2), np.random.default_rng(0)
    assert sample_labels(targets, rows, recipe(sampled_labels=8), rng).tolist() == [0, 1, 2]
    assert len(sample_labels(targets, rows, recipe(sampled_labels=8, distillation=1.0), rng)) == 8


def test_a_label_that_nobody_was_asked_of_brings_what_is_said_of_it() -> None:
    """Its positives come in with their images: without its negatives it would learn that every image has it."""
    asked = np.array([[True] * 8 + [False] * 2])
    silence = Silence(group_N=np.array([0, -1]), asked_GK=asked)
    targets = Targets.of([[0], [9]], [[2], [8]], num_labels=10, silence=silence)
    rows, rng = np.arange(2), np.random.default_rng(0)
    few = sample_labels(targets, rows, recipe(sampled_labels=4), rng)
    assert {0, 8, 9} <= set(few.tolist()) and len(few) == 4
    only_first = [sample_labels(targets, rows[:1], recipe(sampled_labels=9), rng).tolist() for _ in range(5)]
    assert only_first == [[0, 1, 2, 3, 4, 5, 6, 7]] * 5, "nothing is known of the other two here"


def test_dropped_labels_are_a_share_and_never_all() -> None:
    targets = Targets.of([[0]], num_labels=1000)
    rows, rng = np.arange(1), np.random.default_rng(0)
    assert 400 < len(sample_labels(targets, rows, recipe(sampled_labels=0, label_dropout=0.5), rng)) < 600
    single = Targets.of([[0]], num_labels=1)
    kept = [len(sample_labels(single, rows, recipe(label_dropout=0.9), rng)) for _ in range(50)]
    assert set(kept) == {1}


def test_processes_share_images_and_have_the_whole_ground_truth() -> None:
    data, config = make_data(teacher=True), recipe(batch_size=8, distillation=1.0)
    pair = [list(iter_batches(data, config, 3, Process(rank=rank, world_size=2))) for rank in range(2)]
    whole = list(iter_batches(data, config.model_copy(update={"batch_size": 16}), 3, Process()))
    for one, first, second in zip(whole, *pair, strict=True):
        torch.testing.assert_close(one.inputs, torch.cat([first.inputs, second.inputs]))
        for other in (first, second):
            assert torch.equal(one.columns_K, other.columns_K)
            assert torch.equal(one.targets_BK, other.targets_BK)
            assert one.teacher_BK is not None and other.teacher_BK is not None
            assert torch.equal(one.teacher_BK, other.teacher_BK)


def test_a_batch_is_the_rows_and_columns_it_says() -> None:
    data = make_data()
    rows = np.array([5, 3, 70])
    batch = load_batch(data, recipe(), rows, draw=(1, 1), process=Process())
    assert batch.inputs.dtype == torch.float16 and batch.teacher_BK is None
    np.testing.assert_array_equal(batch.inputs.numpy(), data.inputs[rows])
    np.testing.assert_array_equal(batch.targets_BK.numpy(), data.targets.dense(rows, batch.columns_K.numpy()))
    assert batch.to(torch.device("cpu")) is batch


def test_a_memory_map_is_read_and_never_written(tmp_path: object) -> None:
    path = f"{tmp_path}/pixels.npy"
    pixels = np.arange(20 * 2 * 4 * 3, dtype=np.uint8).reshape(20, 2, 4, 3)
    np.save(path, pixels)
    data = TrainData(
        inputs=np.load(path, mmap_mode="r"),
        rows_M=np.arange(20),
        targets=Targets.of([[0]] * 20, num_labels=NUM_LABELS),
        queries_KQ=make_data().queries_KQ,
    )
    batch = load_batch(data, recipe(), np.arange(20), draw=(1, 1), process=Process())
    mirrored = [not torch.equal(image, torch.from_numpy(row)) for image, row in zip(batch.inputs, pixels, strict=True)]
    assert 3 < sum(mirrored) < 17
    for image, row, flip in zip(batch.inputs.numpy(), pixels, mirrored, strict=True):
        np.testing.assert_array_equal(image, row[:, ::-1] if flip else row)
    np.testing.assert_array_equal(np.load(path), pixels)


def test_a_consumer_that_stops_ends_the_reading() -> None:
    batches = iter_batches(make_data(), recipe(), 1, Process())
    next(batches)
    batches.close()  # type: ignore[attr-defined]
