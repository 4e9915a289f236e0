"""The closed-form branch: against its normal equations, on a world where the answer is known, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from clipdecoder.judging.metrics import mean_average_precision
from clipdecoder.regression import image_kernel
from clipdecoder.regression.image_kernel import ImageKernel, ImageSpace
from clipdecoder.regression.label_kernel import LabelKernel, relative_to_seen
from clipdecoder.regression.linear import LinearBranch, fit_linear
from clipdecoder.regression.settings import LinearSettings, Solver
from clipdecoder.training.targets import Targets

SEEN, ALL = 24, 32
FIXED = LinearSettings(penalty=1.0, seen_penalty=1.0)
ABSOLUTE = LinearSettings(penalty=1.0, seen_penalty=1.0, relative=False)


class World:
    """Images that are the sum of their labels' directions; queries are those directions turned.

    All directions lie in six dimensions, so that 24 labels teach what the other 8 are made of.
    """

    def __init__(self, num_images: int = 270, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        directions_KD = rng.normal(size=(ALL, 6)) @ rng.normal(size=(6, 20))
        turned_KQ = directions_KD @ rng.normal(size=(20, 12))
        self.queries = (turned_KQ / np.linalg.norm(turned_KQ, axis=1, keepdims=True)).astype(np.float32)
        self.truth = (rng.random((num_images, ALL)) < 0.06).astype(np.int8)
        x_ND = self.truth @ directions_KD + 0.3 * rng.normal(size=(num_images, 20)) + 2.0
        self.embeddings = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float16)
        self.train, self.validation, self.test = np.split(
            np.arange(num_images), [num_images * 2 // 3, num_images * 5 // 6]
        )
        self.seen_queries = self.queries[:SEEN]
        self.targets = targets_of(self.truth[:, :SEEN])

    def fit(self, **options: object) -> LinearBranch:
        data = (self.embeddings, self.targets, self.seen_queries, self.train, self.validation)
        return fit_linear(*data, **options)  # type: ignore[arg-type]


def targets_of(truth_NK: np.ndarray, missing: str = "negative") -> Targets:
    positives = [list(np.flatnonzero(row == 1)) for row in truth_NK]
    absents = [list(np.flatnonzero(row == 0)) for row in truth_NK]
    return Targets.of(positives, absents, num_labels=truth_NK.shape[1], missing=missing)  # type: ignore[arg-type]


NOVEL = np.full(ALL - SEEN, -1)
COLUMNS = np.append(np.arange(SEEN), NOVEL)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fixed(world: World) -> LinearBranch:
    return world.fit(settings=FIXED)


def test_it_ranks_seen_labels_and_labels_it_never_saw(world: World) -> None:
    branch = world.fit()
    logits = branch.logits(world.embeddings[world.test], world.queries, COLUMNS)
    truth = world.truth[world.test]
    chance = truth.mean()
    assert mean_average_precision(logits[:, :SEEN], truth[:, :SEEN])[0] > 5 * chance
    assert mean_average_precision(logits[:, SEEN:], truth[:, SEEN:])[0] > 3 * chance


def test_it_solves_the_normal_equations(world: World) -> None:
    """Against the plain solution of the N * K equations of the kernel of pairs, on a few images and labels."""
    rows, num_labels = world.train[:40], 3
    targets = targets_of(world.truth[:, :num_labels])
    queries = world.queries[:num_labels]
    branch = fit_linear(world.embeddings, targets, queries, rows, world.validation, settings=ABSOLUTE)
    kernel = ImageKernel.of(world.embeddings, rows, 0)
    inner = kernel.values(world.embeddings[rows])[:, np.argsort(np.argsort(rows))].astype(np.float64)
    new = kernel.values(world.embeddings[world.test]).astype(np.float64)
    centre = np.eye(len(rows)) - 1 / len(rows)
    scale = np.trace(centre @ inner @ centre) / len(rows)
    labels = LabelKernel(queries, FIXED.sharpness, FIXED.seen_own)
    y = world.truth[rows, :num_labels].astype(np.float64)
    y = (y - y.mean(axis=0)) / np.sqrt(np.maximum(y.var(axis=0), 1 / len(rows)))
    pairs = np.kron(centre @ inner @ centre / scale, labels.matrix())
    dual = np.linalg.solve(pairs + FIXED.seen_penalty * np.eye(len(pairs)), y.ravel()).reshape(y.shape)
    g = (new - inner.mean(axis=0)) @ centre / scale @ dual
    asked = world.queries[: num_labels + 2]
    expected = np.hstack([g @ labels.matrix(), g @ labels.between(asked[num_labels:])])
    found = branch.logits(world.embeddings[world.test], asked, np.append(np.arange(num_labels), [-1, -1]))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_labels_logit_does_not_depend_on_the_others(world: World, fixed: LinearBranch) -> None:
    images = world.embeddings[world.test]
    everything = fixed.logits(images, world.queries, COLUMNS)
    order = np.random.default_rng(0).permutation(ALL)
    np.testing.assert_allclose(
        fixed.logits(images, world.queries[order], COLUMNS[order]), everything[:, order], atol=1e-5
    )
    for label in (0, ALL - 1):
        alone = fixed.logits(images[:1], world.queries[[label]], COLUMNS[[label]])
        np.testing.assert_allclose(alone, everything[:1, [label]], atol=1e-5)


def test_blocks_change_nothing(world: World, fixed: LinearBranch, monkeypatch: pytest.MonkeyPatch) -> None:
    images = world.embeddings[world.test]
    expected = fixed.logits(images, world.queries, COLUMNS)
    for module in ("image_kernel", "linear"):
        monkeypatch.setattr(f"clipdecoder.regression.{module}.CHUNK_CELLS", 2000)
    blocked = world.fit(settings=FIXED)
    np.testing.assert_allclose(blocked.logits(images, world.queries, COLUMNS), expected, atol=1e-3)


def test_a_novel_label_with_a_seen_labels_query_is_scored_by_its_text(world: World, fixed: LinearBranch) -> None:
    images = world.embeddings[world.test]
    both = fixed.logits(images, world.queries[[0, 0]], np.array([0, -1]))
    assert not np.allclose(both[:, 0], both[:, 1], atol=1e-2)


def test_a_seen_labels_query_is_not_looked_at(world: World, fixed: LinearBranch) -> None:
    images = world.embeddings[world.test]
    swapped = fixed.logits(images, world.queries[[5]], np.array([0]))
    np.testing.assert_array_equal(swapped, fixed.logits(images, world.queries[[0]], np.array([0])))


def test_it_survives_storage_bit_for_bit(world: World, fixed: LinearBranch) -> None:
    stored = save({name: np.ascontiguousarray(array) for name, array in fixed.arrays().items()})
    loaded = LinearBranch.from_arrays(load(stored))
    images = world.embeddings[world.test]
    expected = fixed.logits(images, world.queries, COLUMNS)
    np.testing.assert_array_equal(loaded.logits(images, world.queries, COLUMNS), expected)
    assert fixed.arrays()["landmarks"].dtype == np.float16


def test_a_space_can_be_handed_in(world: World, fixed: LinearBranch) -> None:
    space = ImageSpace.of(world.embeddings, world.train)
    again = world.fit(settings=FIXED, space=space)
    images = world.embeddings[world.test]
    expected = fixed.logits(images, world.queries, COLUMNS)
    np.testing.assert_allclose(again.logits(images, world.queries, COLUMNS), expected, atol=1e-4)


def test_unknown_cells_are_the_labels_mean(world: World) -> None:
    """A label that is known for half of the images has the sign that the known half shows, and finite logits."""
    hidden = np.where(np.random.default_rng(1).random(world.truth.shape) < 0.5, np.int8(-1), world.truth)[:, :SEEN]
    data = (world.embeddings, targets_of(hidden, "unknown"), world.seen_queries, world.train, world.validation)
    logits = fit_linear(*data).logits(world.embeddings[world.test], world.queries, COLUMNS)
    truth = world.truth[world.test]
    assert mean_average_precision(logits[:, :SEEN], truth[:, :SEEN])[0] > 3 * truth.mean()
    only_yes = targets_of(np.where(hidden == 1, hidden, np.int8(-1)), "unknown")
    nothing = fit_linear(world.embeddings, only_yes, *data[2:], settings=ABSOLUTE)
    assert np.allclose(nothing.logits(world.embeddings[:3], world.queries, COLUMNS), 0, atol=1e-6)


@pytest.mark.parametrize(("num_images", "num_labels"), [(1, 1), (2, 1), (3, 2), (30, 1), (5, 12)])
def test_little_to_learn_from(world: World, num_images: int, num_labels: int) -> None:
    targets = targets_of(world.truth[:, :num_labels])
    rows, queries = np.arange(num_images), world.queries[:num_labels]
    for validation in (world.validation, world.validation[:0]):
        branch = fit_linear(world.embeddings, targets, queries, rows, validation)
        asked = np.append(np.arange(num_labels), -1)
        logits = branch.logits(world.embeddings[world.test], world.queries[: num_labels + 1], asked)
        assert logits.shape == (len(world.test), num_labels + 1)
        assert np.isfinite(logits).all()


def test_equal_images_and_a_label_without_positives(world: World) -> None:
    truth = world.truth[:, :SEEN].copy()
    truth[:, 3] = 0
    embeddings = world.embeddings.copy()
    embeddings[1:100] = embeddings[0]
    branch = fit_linear(embeddings, targets_of(truth), world.seen_queries, world.train, world.validation)
    assert np.isfinite(branch.logits(embeddings, world.queries, COLUMNS)).all()
    same = np.repeat(embeddings[:1], 50, axis=0)
    alike = fit_linear(same, targets_of(truth[:50]), world.seen_queries, np.arange(40), np.arange(40, 50))
    assert np.isfinite(alike.logits(embeddings, world.queries, COLUMNS)).all()


def test_no_images_and_no_labels(world: World, fixed: LinearBranch) -> None:
    assert fixed.logits(world.embeddings[:0], world.queries, COLUMNS).shape == (0, ALL)
    assert fixed.logits(world.embeddings[:2], world.queries[:0], COLUMNS[:0]).shape == (2, 0)


def test_fewer_landmarks_than_images_come_close(
    world: World, fixed: LinearBranch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_kernel, "MAX_LANDMARKS", 120)
    small = world.fit(settings=FIXED)
    assert len(small.arrays()["landmarks"]) == 120
    images = world.embeddings[world.test]
    few, full = (branch.logits(images, world.queries, COLUMNS) for branch in (small, fixed))
    assert np.corrcoef(few.ravel(), full.ravel())[0, 1] > 0.95


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_relative_logits_take_no_notice_of_an_images_scale(factor: float, shift: float) -> None:
    rng = np.random.default_rng(0)
    novel, seen = rng.normal(size=(4, 3)), rng.normal(size=(4, 9))
    expected = relative_to_seen(novel, seen)
    np.testing.assert_allclose(relative_to_seen(novel * factor + shift, seen * factor + shift), expected, atol=1e-4)


def test_a_smaller_penalty_fits_the_targets_better() -> None:
    rng = np.random.default_rng(0)
    solver = Solver(np.full(6, 10.0), rng.normal(size=(6, 4)))
    shared = np.eye(4)
    small, large = (np.abs(solver.solve(shared, penalty)).sum() for penalty in (0.1, 10.0))
    assert small > large
    np.testing.assert_allclose(solver.solve(shared, 0.0) * 10.0, solver.cross_PK)
