"""How the tags of the same images change from one model to another. No ground truth is needed.

Shapes: N images, K labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tags = NDArray[np.bool_]


def tags_of(scores_NK: NDArray[np.floating[Any]], thresholds_K: NDArray[np.float64]) -> Tags:
    """Return tags_NK: which labels are asserted on which images, compared in float64 as SQL does."""
    return np.asarray(scores_NK.astype(np.float64) >= thresholds_K)


def rate_changes(before_NK: Tags, after_NK: Tags, min_tagged: int) -> NDArray[np.float64]:
    """Return for each label how its share of tagged images changes; NaN where it says nothing.

    It says nothing of a label that both models tag on fewer than `min_tagged` images.
    """
    tagged_K = np.maximum(before_NK.sum(axis=0), after_NK.sum(axis=0))
    changes_K = after_NK.mean(axis=0) - before_NK.mean(axis=0) if len(before_NK) else np.zeros(len(tagged_K))
    return np.where(tagged_K >= min_tagged, changes_K, np.nan)


def rate_change_errors(before_NK: Tags, after_NK: Tags) -> NDArray[np.float64]:
    """Return the standard error of each of `rate_changes`: both tag the same images, so only what changed counts.

    NaN of fewer than two images.
    """
    changes_NK = after_NK.astype(np.int8) - before_NK.astype(np.int8)
    if len(changes_NK) < 2:
        return np.full(changes_NK.shape[1], np.nan)
    return np.asarray(changes_NK.std(axis=0, ddof=1) / len(changes_NK) ** 0.5)


def flip_rate(before_NK: Tags, after_NK: Tags) -> float:
    """Return the share of the tags, given by either model, that one of them gives alone: 0 the same, 1 none shared.

    NaN where neither gives a tag.
    """
    either = int((before_NK | after_NK).sum())
    return float((before_NK ^ after_NK).sum() / either) if either else float("nan")
