"""How much each branch counts in `fused`: chosen on images and labels that no branch was trained on.

One set of weights serves all seen labels: most have few pictures, and weights of their own would fit chance. But what
is best for most can be wrong for one, such as a label whose words the text tower never met: its cosine says nothing,
and the decoder has learned it. So a label with enough pictures gets weights of its own, if these are better beyond
chance.

Shapes: N images, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.chance import SURE_ERRORS, Counts, draw_counts, drawn_precision
from clipdecoder.judging.metrics import Targets8, average_precision, average_precisions, rankable_labels
from schemas.checkpoint import Branch, Group

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
ROUNDS = 3
# Of a label's own weights: pictures that it takes, what they must gain in average precision, and in how many of the
# resampled sets of images they must gain anything.
OWN_POSITIVES, OWN_GAIN, RESAMPLES, SURE_SHARE = 20, 0.03, 100, 0.95
# Of the shared weights: what a move must gain in mAP. It must also be beyond chance: over labels, since one set of
# weights is to serve labels at large.
LEAST_GAIN = 0.01


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
    ends with weight 0; then one branch's weight is moved at a time, where the gain is beyond chance. Few labels and
    images choose between few weights: a fine search would fit their noise.

    Args:
        standardised: logits_NK of each branch, in deviations from each label's mean.
        targets_NK: ground truth for the same cells; -1 unknown.
        usual: the weights to take where no label has a positive and a negative.
    """
    rankable_K = rankable_labels(targets_NK)
    if not rankable_K.any():
        return dict(usual)

    def precisions(weights: Mapping[Branch, float]) -> NDArray[np.float64]:
        fused_NK = np.sum([weight * standardised[kind] for kind, weight in weights.items() if weight], axis=0)
        return average_precisions(fused_NK[:, rankable_K], targets_NK[:, rankable_K])

    singles = {kind: precisions({kind: 1.0}) for kind in standardised}
    first = max(singles, key=lambda kind: float(singles[kind].mean()))
    weights: dict[Branch, float] = {kind: float(kind == first) for kind in standardised}
    best_K = singles[first]
    for _ in range(ROUNDS):
        before = weights
        for kind, weight in product(standardised, WEIGHTS):
            tried = weights | {kind: weight}
            if any(tried.values()) and _is_sure_gain((found_K := precisions(tried)) - best_K):
                weights, best_K = tried, found_K
        if weights == before:
            break
    return weights


def _is_sure_gain(gain_K: NDArray[np.float64]) -> bool:
    """Whether what each label gains in average precision is a gain for labels at large; one label alone cannot say."""
    if len(gain_K) < 2:
        return False
    standard_error = gain_K.std(ddof=1) / len(gain_K) ** 0.5
    return bool(gain_K.mean() > max(LEAST_GAIN, SURE_ERRORS * standard_error))


def choose_own_weights(
    standardised: Mapping[Branch, NDArray[np.float32]], targets_NK: Targets8, shared: Mapping[Branch, float], seed: int
) -> dict[int, dict[Branch, float]]:
    """Return, by column, weights for the labels that rank images clearly better with others than the shared ones.

    Tried are single branches and the sums of two. The images that choose also judge, so the gain must be large, and
    must be there in nearly every resampled set of them (bootstrap).

    Args:
        standardised: logits_NK of each branch on images that it was not trained on, in deviations.
        targets_NK: ground truth for the same cells; -1 unknown.
        shared: the weights of all seen labels.
        seed: of the resampling.
    """
    counts_RN = draw_counts(len(targets_NK), RESAMPLES, [seed, 3])
    candidates = list(_simple_weights(tuple(standardised)))
    own: dict[int, dict[Branch, float]] = {}
    for column in np.flatnonzero(rankable_labels(targets_NK) & ((targets_NK == 1).sum(axis=0) >= OWN_POSITIVES)):
        targets_N = targets_NK[:, column]
        logits = {kind: logits_NK[:, column] for kind, logits_NK in standardised.items()}
        tried = [_fused(logits, weights) for weights in candidates]
        best = int(np.argmax([average_precision(tried_N, targets_N) for tried_N in tried]))
        if _is_better(tried[best], _fused(logits, shared), targets_N, counts_RN):
            own[int(column)] = candidates[best]
    return own


def _simple_weights(kinds: Sequence[Branch]) -> Iterator[dict[Branch, float]]:
    """Yield each branch by itself, then each pair of them."""
    for chosen in (*combinations(kinds, 1), *combinations(kinds, 2)):
        yield {kind: float(kind in chosen) for kind in kinds}


def _fused(logits: Mapping[Branch, NDArray[np.float32]], weights: Mapping[Branch, float]) -> NDArray[np.float32]:
    return np.asarray(np.sum([weights.get(kind, 0.0) * logits_N for kind, logits_N in logits.items()], axis=0))


def _is_better(
    tried_N: NDArray[np.float32], shared_N: NDArray[np.float32], targets_N: Targets8, counts_RN: Counts
) -> bool:
    """Whether one ranking of the images is better than another, beyond chance."""
    if average_precision(tried_N, targets_N) < average_precision(shared_N, targets_N) + OWN_GAIN:
        return False
    gains_R = drawn_precision(tried_N, targets_N, counts_RN) > drawn_precision(shared_N, targets_N, counts_RN)
    return float(gains_R.mean()) >= SURE_SHARE
