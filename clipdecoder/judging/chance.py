"""What is more than chance: a change beside its standard error, from the same images drawn again and again (bootstrap).

Shapes: N images, K labels, R draws of as many images, C images of which a label is known, T distinct logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats, Targets8, mean_or_nan
from clipdecoder.scoring.label_maps import CHUNK_CELLS

# A change of more standard errors than this is more than chance: one comparison in 22 of equal models goes as far.
SURE_ERRORS = 2.0
# They tell a standard error to a twentieth of itself.
DRAWS = 200
# Of fewer pictures that have a label, the draws do not tell how another few would have been ranked.
LEAST_POSITIVES = 3

# How often each image is drawn. A byte is enough: 256 times the same one is rarer than one in 10^500.
Counts = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measured change, and how far other images would have moved it. NaN as the error: too few images to tell."""

    value: float
    error: float  # standard error
    comparisons: int = 1  # changes that are looked at together: the largest of them goes further by chance

    def among(self, comparisons: int) -> Change:
        """Return the same change as one of so many."""
        return replace(self, comparisons=comparisons)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true change lies, unless chance played a rare trick; None where nothing is known of it."""
        if np.isnan(self.error):
            return None
        reach = sure_errors(self.comparisons) * self.error
        return self.value - reach, self.value + reach

    def is_sure(self) -> bool:
        """Whether it is more than chance: its interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def is_gain(self) -> bool:
        """Whether it is a rise, and more than chance."""
        return self.is_sure() and self.value > 0


def sure_errors(comparisons: int) -> float:
    """Return how many standard errors the largest of several changes must have to be as rare by chance as one of 2.

    Bonferroni's rule, which divides the chance among them: 3.1 for 20 comparisons, 4.1 for 1,000.
    """
    normal = NormalDist()
    return -normal.inv_cdf(normal.cdf(-SURE_ERRORS) / max(comparisons, 1))


def mean_change(change_K: Floats, drawn_RK: Floats, positives: int) -> Change:
    """Return the mean change of some labels; those that have none (NaN), in all images or in a draw, are left out.

    Args:
        change_K: of each label.
        drawn_RK: of each label in each draw.
        positives: pictures that have any of the labels, counted once for each.
    """
    means_R = np.array([mean_or_nan(change_K) for change_K in drawn_RK])
    known = means_R[~np.isnan(means_R)]
    enough = positives >= LEAST_POSITIVES and len(known) > len(means_R) / 2
    return Change(value=mean_or_nan(change_K), error=float(known.std(ddof=1)) if enough else float("nan"))


def draw_counts(num_images: int, draws: int, seed: int | Sequence[int]) -> Counts:
    """Return counts_RN: how often each image is drawn when as many are drawn with replacement."""
    counts_RN = np.zeros((draws, num_images), np.uint8)
    if num_images:
        random = np.random.default_rng(seed)
        for counts_N in counts_RN:  # one draw at a time is in memory
            counts_N[:] = np.bincount(random.integers(num_images, size=num_images), minlength=num_images)
    return counts_RN


def drawn_precisions(logits_NK: Floats, targets_NK: Targets8, counts_RN: Counts) -> NDArray[np.float64]:
    """Return precisions_RK: each label's average precision in each draw, NaN where a draw has no yes or no no."""
    columns = zip(logits_NK.T, targets_NK.T, strict=True)
    found = [drawn_precision(logits_N, targets_N, counts_RN) for logits_N, targets_N in columns]
    return np.stack(found, axis=1) if found else np.empty((len(counts_RN), 0))


def drawn_precision(logits_N: Floats, targets_N: Targets8, counts_RN: Counts) -> NDArray[np.float64]:
    """Return precisions_R of one label: `average_precision` of images that count several times, or not at all."""
    known = np.flatnonzero(targets_N >= 0)
    order_C = known[np.argsort(-logits_N[known], kind="stable")]
    if not len(order_C):
        return np.full(len(counts_RN), np.nan)
    last_T = np.append(np.flatnonzero(np.diff(logits_N[order_C])), len(order_C) - 1)
    rows = max(1, CHUNK_CELLS // len(order_C))
    chunks = (counts_RN[start : start + rows, order_C] for start in range(0, len(counts_RN), rows))
    return np.concatenate([_weighted_precision(counts_RC, targets_N[order_C], last_T) for counts_RC in chunks])


def _weighted_precision(counts_RC: Counts, targets_C: Targets8, last_T: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the area under each draw's precision-recall steps; columns by falling logit, steps end at `last_T`."""
    predicted_RT = np.cumsum(counts_RC, axis=1)[:, last_T]
    true_RT = np.cumsum(counts_RC * targets_C, axis=1)[:, last_T]
    positives_R = true_RT[:, -1]
    areas_RT = np.diff(true_RT, axis=1, prepend=0) * (true_RT / np.maximum(predicted_RT, 1))
    area_R = areas_RT.sum(axis=1) / np.maximum(positives_R, 1)
    return np.where((positives_R == 0) | (positives_R == predicted_RT[:, -1]), np.nan, area_R)
