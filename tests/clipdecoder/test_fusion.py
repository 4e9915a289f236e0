"""Weights of branches: what knows nothing counts nothing, and adding up never ranks worse than the best alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.judging.metrics import mean_average_precision
from clipdecoder.training.fusion import OWN_POSITIVES, WEIGHTS, choose_own_weights, choose_weights
from schemas.checkpoint import Branch

USUAL: dict[Branch, float] = {"clip": 1.0, "linear": 1.0, "decoder": 0.0}


def drawn(seed: int, *distances: float, num_images: int = 200) -> tuple[dict[Branch, np.ndarray], np.ndarray]:
    """Return branches whose positives stand this far above their negatives, in deviations, and the targets."""
    rng = np.random.default_rng(seed)
    targets_NK = (rng.random((num_images, 8)) < 0.15).astype(np.int8)
    kinds: tuple[Branch, ...] = ("clip", "linear", "decoder")
    logits = {
        kind: (rng.standard_normal(targets_NK.shape) + distance * targets_NK).astype(np.float32)
        for kind, distance in zip(kinds, distances, strict=False)
    }
    return logits, targets_NK


def precision(logits: dict[Branch, np.ndarray], weights: dict[Branch, float], targets_NK: np.ndarray) -> float:
    fused_NK = np.sum([weights[kind] * logits[kind] for kind in logits], axis=0)
    return mean_average_precision(fused_NK, targets_NK)[0]


def test_branches_that_know_different_things_are_added_up() -> None:
    logits, targets_NK = drawn(0, 1.5, 1.5)
    weights = choose_weights(logits, targets_NK, USUAL)
    assert min(weights.values()) > 0
    alone = max(precision(logits, {"clip": a, "linear": 1 - a}, targets_NK) for a in (0.0, 1.0))
    assert precision(logits, weights, targets_NK) > alone + 0.05


def test_an_untrained_decoder_gets_no_weight() -> None:
    logits, targets_NK = drawn(1, 2.0, 2.0, 0.0, num_images=1000)
    weights = choose_weights(logits, targets_NK, USUAL)
    assert weights["decoder"] <= 0.1 and min(weights["clip"], weights["linear"]) > 0


def test_a_gain_that_one_label_makes_alone_moves_no_weight() -> None:
    logits, targets_NK = drawn(1, 1.5, 0.0, num_images=1000)
    logits["linear"][:, 3] += 6 * targets_NK[:, 3]
    assert choose_weights(logits, targets_NK, USUAL) == {"clip": 1.0, "linear": 0.0}
    few = slice(3, 4)
    one = choose_weights({kind: x_NK[:, few] for kind, x_NK in logits.items()}, targets_NK[:, few], USUAL)
    assert one == {"clip": 0.0, "linear": 1.0}, "the better of the two, and no mixture"


def test_a_branch_that_says_the_same_of_every_image_gets_no_weight() -> None:
    logits, targets_NK = drawn(2, 2.0, 1.0)
    weights = choose_weights({**logits, "decoder": np.zeros_like(logits["clip"])}, targets_NK, USUAL)
    assert weights["decoder"] == 0 and weights["clip"] > 0


def test_without_positives_the_usual_weights_hold() -> None:
    logits, targets_NK = drawn(3, 1.0, 1.0, 1.0)
    for targets in (np.zeros_like(targets_NK), np.full_like(targets_NK, -1), targets_NK[:, :0]):
        cut = {kind: x_NK[:, : targets.shape[1]] for kind, x_NK in logits.items()}
        weights = choose_weights(cut, targets, USUAL)
        assert weights == USUAL and weights is not USUAL


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    distances=st.lists(st.sampled_from((-1.0, 0.0, 0.5, 2.0)), min_size=1, max_size=3),
    unknown=st.floats(0, 0.95),
)
def test_weights_never_lower_what_the_best_branch_reaches(seed: int, distances: list[float], unknown: float) -> None:
    logits, targets_NK = drawn(seed, *distances, num_images=40)
    targets_NK[np.random.default_rng(seed).random(targets_NK.shape) < unknown] = -1
    weights = choose_weights(logits, targets_NK, {kind: 1.0 for kind in logits})
    assert weights.keys() == logits.keys()
    assert set(weights.values()) <= set(WEIGHTS) and any(weights.values())
    if (targets_NK == 1).any():
        alone = max(mean_average_precision(x_NK, targets_NK)[0] for x_NK in logits.values())
        assert precision(logits, weights, targets_NK) >= alone - 1e-9


@pytest.mark.parametrize("scale", [1, 7])
def test_one_branch_alone_has_weight_one(scale: int) -> None:
    logits, targets_NK = drawn(4, 1.0)
    assert choose_weights({"clip": scale * logits["clip"]}, targets_NK, USUAL) == {"clip": 1.0}


SHARED: dict[Branch, float] = {"clip": 1.0, "linear": 0.0, "decoder": 0.0}


def test_a_label_that_the_shared_weights_do_not_serve_gets_its_own() -> None:
    logits, targets_NK = drawn(4, 2.0, 0.0, 2.0, num_images=400)
    hard = 3  # its words mean nothing to the text tower, and the decoder has learned it
    logits["clip"][:, hard] = np.random.default_rng(5).standard_normal(400)
    logits["decoder"][:, hard] += 2 * targets_NK[:, hard]
    own = choose_own_weights(logits, targets_NK, {"clip": 1.0, "linear": 0.0, "decoder": 0.5}, seed=0)
    assert own[hard]["decoder"] == 1.0 and own[hard]["clip"] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_chance_gives_hardly_any_label_weights_of_its_own(seed: int) -> None:
    logits, targets_NK = drawn(seed, 2.0, 1.0, 1.0, num_images=300)
    shared = choose_weights(logits, targets_NK, USUAL)
    assert len(choose_own_weights(logits, targets_NK, shared, seed)) <= 1


def test_a_label_with_few_pictures_keeps_the_shared_weights() -> None:
    logits, targets_NK = drawn(6, 0.0, 0.0, 4.0, num_images=400)
    few_NK = targets_NK * (np.cumsum(targets_NK, axis=0) < OWN_POSITIVES)
    unknown_NK = np.where(few_NK != targets_NK, -1, targets_NK).astype(np.int8)
    assert choose_own_weights(logits, unknown_NK, SHARED, seed=0) == {}
    assert len(choose_own_weights(logits, targets_NK, SHARED, seed=0)) == 8
