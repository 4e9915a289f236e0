"""How much each branch counts in `fused`: chosen on images and labels that no branch was trained on.

Shapes: N images, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Targets8, mean_average_precision, rankable_labels
from schemas.checkpoint import Branch, Group

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
ROUNDS = 3
LEAST_GAIN = 0.01  # of mAP; on some hundred images less is chance, and the simpler weights stay


def usual_weights(group: Group, kinds: Sequence[Branch]) -> dict[Branch, float]:
    """Return the weights to take where there is nothing to choose by.

    For seen labels all branches alike. For novel ones what was never trained, since what was trained may have learned
    its labels by heart: the cosines, or without a joint space the regression.
    """
    joint = "clip" in kinds
    trusted: tuple[Branch, ...] = ("clip", "local") if joint else ("linear",)
    return {kind: float(group == "seen" or kind in trusted) for kind in kinds}


def choose_weights(
    standardised: Mapping[Branch, NDArray[np.float32]], targets_NK: Targets8, usual: Mapping[Branch, float]
) -> dict[Branch, float]:
    """Return a weight for each branch that makes the mAP of their weighted sum as good as a coarse search finds.

    The search starts from the best single branch, so that a branch which knows nothing, such as an untrained decoder,
    ends with weight 0; then one branch's weight is moved at a time. Few labels and images choose between few weights:
    a fine search would fit their noise.

    Args:
        standardised: logits_NK of each branch, in deviations from each label's mean.
        targets_NK: ground truth for the same cells; -1 unknown.
        usual: the weights to take where no label has a positive and a negative.
    """
    if not rankable_labels(targets_NK).any():
        return dict(usual)

    def value(weights: Mapping[Branch, float]) -> float:
        fused_NK = np.sum([weight * standardised[kind] for kind, weight in weights.items() if weight], axis=0)
        return mean_average_precision(fused_NK, targets_NK)[0]

    singles = {kind: value({kind: 1.0}) for kind in standardised}
    first = max(singles, key=lambda kind: singles[kind])
    weights: dict[Branch, float] = {kind: float(kind == first) for kind in standardised}
    best = singles[first]
    for _ in range(ROUNDS):
        before = best
        for kind in standardised:
            for weight in WEIGHTS:
                tried = weights | {kind: weight}
                if not any(tried.values()):
                    continue
                found = value(tried)
                if found > best + LEAST_GAIN:
                    weights, best = tried, found
        if best == before:
            break
    return weights
