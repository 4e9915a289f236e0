"""Per-label thresholds on scores: the best F1, or a precision that the tags are to have.

A label with few positives says little about its own threshold: the best one on five pictures is mostly luck. So each
label's threshold lies between its own and the one that all labels together ask for.

Shapes: N images, K labels, T distinct thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats, OperatingPoints, Targets8, operating_points
from schemas.manifest import DEFAULT_THRESHOLD

# A label of this many positives has a threshold halfway, in log odds, between its own and the common one.
HALFWAY_POSITIVES = 10

# Thresholds stay inside (0, 1), so that they have log odds.
EDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """A threshold for each label, and the common one for labels without evidence of their own."""

    threshold_K: NDArray[np.float64]
    reached_K: NDArray[np.bool_]  # whether some threshold of the label's own has the target precision
    common: float
    common_reached: bool


def choose_thresholds(scores_NK: Floats, targets_NK: Targets8, target_precision: float | None = None) -> Thresholds:
    """Return thresholds for the best F1, or for the highest recall at `target_precision`.

    A label's own threshold stands in the middle between two scores, and is drawn in log odds to the common threshold,
    that of all cells together, by `HALFWAY_POSITIVES / (P + HALFWAY_POSITIVES)` for its P positives: without any it is
    the common one. A precision that no threshold reaches gets the threshold of the highest precision, and is flagged; a
    label without positives takes the flag of all cells. Without any positive at all: `DEFAULT_THRESHOLD`, flagged.

    Args:
        scores_NK: calibrated scores, of images that the calibration was not fitted on.
        target_precision: share of right tags asked for, in (0, 1]; None: best F1, and every label counts as reached.
    """
    common, common_reached = _best(operating_points(scores_NK.ravel(), targets_NK.ravel()), target_precision)
    found = [
        _best(operating_points(scores_N, targets_N), target_precision)
        for scores_N, targets_N in zip(scores_NK.T, targets_NK.T, strict=True)
    ]
    own_K, reached_K = np.array([own for own, _ in found]), np.array([reached for _, reached in found], np.bool_)
    positives_K = (targets_NK == 1).sum(axis=0)
    weight_K = positives_K / (positives_K + HALFWAY_POSITIVES)
    odds_K = weight_K * _log_odds(own_K) + (1 - weight_K) * _log_odds(np.array(common))
    return Thresholds(
        threshold_K=1 / (1 + np.exp(-odds_K)),
        reached_K=np.where(positives_K > 0, reached_K, common_reached),
        common=common,
        common_reached=common_reached,
    )


def _best(points: OperatingPoints, target_precision: float | None) -> tuple[float, bool]:
    """Return the threshold and whether it has what was asked for."""
    if points.num_positives == 0:
        return DEFAULT_THRESHOLD, False
    if target_precision is None:
        return _below(points, int(np.argmax(points.f1_T))), True
    precision_T = points.precision_T
    wanted = min(target_precision, float(precision_T.max()))
    return _below(points, int(np.flatnonzero(precision_T >= wanted)[-1])), wanted == target_precision


def _below(points: OperatingPoints, place: int) -> float:
    """Return the middle between an operating point's threshold and the next lower score."""
    lower = points.threshold_T[place + 1] if place + 1 < len(points.threshold_T) else 0.0
    return float(points.threshold_T[place] + lower) / 2


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))
