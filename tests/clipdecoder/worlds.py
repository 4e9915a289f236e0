"""Logits and truths drawn from known distributions, so that the right probability of every cell is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class World:
    """Labels whose negatives' logits are normal (0, 1) and whose positives' are normal (distance, 1).

    Then P(yes | logit) = sigmoid(distance * logit + log(p / (1 - p)) - distance² / 2), with the label's frequency p.
    """

    frequency_K: np.ndarray
    distance_K: np.ndarray

    def draw(self, num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return logits_NK and targets_NK."""
        rng = np.random.default_rng(seed)
        targets_NK = (rng.random((num_images, len(self.frequency_K))) < self.frequency_K).astype(np.int8)
        logits_NK = rng.normal(size=targets_NK.shape) + self.distance_K * targets_NK
        return logits_NK.astype(np.float32), targets_NK

    def probabilities(self, logits_NK: np.ndarray) -> np.ndarray:
        odds_K = np.log(self.frequency_K / (1 - self.frequency_K)) - self.distance_K**2 / 2
        return 1 / (1 + np.exp(-(self.distance_K * logits_NK.astype(np.float64) + odds_K)))


def rare_labels(num_labels: int, seed: int = 0) -> World:
    """Long-tailed labels, most with few positives among some hundred images, and of very different quality."""
    rng = np.random.default_rng(seed)
    return World(
        frequency_K=np.clip(np.exp(rng.normal(np.log(0.01), 1.1, num_labels)), 0.002, 0.3),
        distance_K=np.clip(rng.normal(2.5, 0.8, num_labels), 0.5, 5.0),
    )


def equal_labels(num_labels: int) -> World:
    """Labels that are all alike."""
    return World(frequency_K=np.full(num_labels, 0.05), distance_K=np.full(num_labels, 2.5))
