"""From logits to probabilities: score = sigmoid(slope * logit + intercept), fitted on images held out of training.

Slopes are positive, always: calibration never changes a label's order of images. Seen labels have annotated images to
be fitted on, each label with as much freedom as its evidence allows. Novel labels have none: one map for all of them is
fitted on labels that were left out of training for the purpose, scored as if novel.

Logits must be comparable between labels (standardised ones are), as labels of little evidence take what is usual.
Whoever reports how good a calibration is takes scores from `cross_fitted_*`: no cell is scored there by a map that it
helped to fit.

Shapes: N images, K seen labels, J labels left out of training, C cells that are annotated, P = 2 (slope, intercept).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.logistic import Doubles, fit_logistic, inverse, sigmoid
from clipdecoder.judging.metrics import Floats, Targets8
from clipdecoder.scoring.label_maps import CHUNK_CELLS, LabelMaps

# Lowest slope, per standard deviation of the logits: a label whose logits say nothing, or the reverse of the truth,
# gets a score that hardly moves, and still ranks as its logits do.
LOWEST_SLOPE = 0.01

# How much the usual map, and how much labels differ, are held to the map of all labels together: as if this many labels
# more had been found there. It counts where there are few labels.
USUAL_WEIGHT = 1.0

ROUNDS, ROUND_TOLERANCE = 30, 0.03


@dataclass(frozen=True, kw_only=True)
class ScoreMap:
    """One map for any label."""

    slope: float
    intercept: float

    def scores(self, logits: Floats) -> NDArray[np.float32]:
        """Return probabilities of the logits' shape."""
        return sigmoid(self.slope * logits.astype(np.float64) + self.intercept).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SeenMaps(LabelMaps):
    """The maps of seen labels, and what is usual among them."""

    usual: ScoreMap


@dataclass(frozen=True)
class _Prior:
    """What is known of a label's slope and intercept before its cells are seen: a normal distribution."""

    mean_P: Doubles
    covariance_PP: Doubles


def fit_platt(logits_C: Floats, targets_C: Targets8) -> ScoreMap:
    """Fit one map to all annotated cells by maximum likelihood, of a table as well as of a list.

    With Platt's targets `(P + 1) / (P + 2)` for yes and `1 / (N - P + 2)` for no (Platt 1999), so that a perfect
    ranking ends in finite numbers, and cells of one kind only in a small or great probability.
    """
    known = targets_C >= 0
    centre, spread = _centre_and_spread(logits_C[known])
    beta_P = _pooled((logits_C[known] - centre) / spread, targets_C[known])
    return _in_units(beta_P, centre, spread)


def fit_novel(logits_NJ: Floats, targets_NJ: Targets8) -> ScoreMap:
    """Fit the one map of labels without evidence: of labels that were left out of training, all cells together."""
    return fit_platt(logits_NJ, targets_NJ)


def fit_seen(logits_NK: Floats, targets_NK: Targets8) -> SeenMaps:
    """Fit a map for each label, drawn to what is usual among the labels the more, the less its cells say.

    Slope and intercept of the labels come from one normal distribution; its mean and covariance are estimated from the
    labels themselves (empirical Bayes: expectation maximisation with Laplace's approximation), each label's map is its
    most probable one under both. So a label with three positives gets nearly the usual map, one with hundreds its own,
    and where labels are alike all get the same. A label without any positive is drawn down as its cells ask for.
    """
    centre, spread = _centre_and_spread(logits_NK[targets_NK >= 0])
    table = _Table((logits_NK - np.float32(centre)) / np.float32(spread), targets_NK)
    beta_KP, prior = _fit_hierarchy(table)
    beta_KP = _lift_slopes(table, beta_KP, prior)
    usual_P = np.array([max(prior.mean_P[0], LOWEST_SLOPE), prior.mean_P[1]])
    slope_K = beta_KP[:, 0] / spread
    return SeenMaps(
        slope_K=slope_K,
        intercept_K=beta_KP[:, 1] - slope_K * centre,
        usual=_in_units(usual_P, centre, spread),
    )


def cross_fitted_seen_scores(
    logits_NK: Floats, targets_NK: Targets8, *, folds: int = 5, seed: int = 0
) -> NDArray[np.float32]:
    """Return scores_NK as `fit_seen` gives them to images that it was not fitted on: each fold from the others."""
    scores_NK = np.empty(logits_NK.shape, np.float32)
    for inside_N in _folds(len(logits_NK), folds, seed):
        maps = fit_seen(logits_NK[~inside_N], targets_NK[~inside_N])
        scores_NK[inside_N] = maps.scores(logits_NK[inside_N])
    return scores_NK


def cross_fitted_novel_scores(
    logits_NJ: Floats, targets_NJ: Targets8, *, folds: int = 5, seed: int = 0
) -> NDArray[np.float32]:
    """Return scores_NJ as `fit_novel` gives them to labels that it was not fitted on: each fold from the others.

    With a single label there is no other to fit on: its scores come from its own cells.
    """
    scores_NJ = np.empty(logits_NJ.shape, np.float32)
    for inside_J in _folds(logits_NJ.shape[1], folds, seed):
        others_J = ~inside_J if not inside_J.all() else inside_J
        scores_NJ[:, inside_J] = fit_novel(logits_NJ[:, others_J], targets_NJ[:, others_J]).scores(
            logits_NJ[:, inside_J]
        )
    return scores_NJ


def _folds(count: int, folds: int, seed: int) -> list[NDArray[np.bool_]]:
    """Return a mask for each fold, of nearly equal sizes and drawn at random; fewer folds where there is less."""
    fold_of = np.random.default_rng(seed).permutation(count) % max(1, min(folds, count))
    return [fold_of == fold for fold in range(max(1, min(folds, count)))]


class _Table:
    """Logits and targets of all labels, handed out in blocks of whole labels that keep memory bounded."""

    def __init__(self, logits_NK: Floats, targets_NK: Targets8) -> None:
        self._logits_NK, self._targets_NK = logits_NK, targets_NK
        self.num_labels = logits_NK.shape[1]
        labels = max(1, CHUNK_CELLS // max(1, len(logits_NK)))
        self.blocks = [slice(start, start + labels) for start in range(0, self.num_labels, labels)]

    def pooled(self) -> Doubles:
        """Return slope and intercept of all annotated cells together."""
        known_NK = self._targets_NK >= 0
        return _pooled(self._logits_NK[known_NK], self._targets_NK[known_NK])

    def most_probable(self, start_KP: Doubles, mean_KP: Doubles, precision_PP: Doubles) -> tuple[Doubles, Doubles]:
        """Return each label's most probable slope and intercept, and the covariance of what is left uncertain."""
        found = [
            fit_logistic(
                self._logits_NK[:, block].astype(np.float64),
                np.maximum(self._targets_NK[:, block], 0).astype(np.float64),
                (self._targets_NK[:, block] >= 0).astype(np.float64),
                start_KP[block],
                mean_KP[block],
                precision_PP,
            )
            for block in self.blocks
        ]
        return np.concatenate([beta for beta, _ in found]), np.concatenate([spread for _, spread in found])

    def columns(self, chosen_K: NDArray[np.bool_]) -> _Table:
        """Return the table of some of the labels."""
        return _Table(self._logits_NK[:, chosen_K], self._targets_NK[:, chosen_K])


def _fit_hierarchy(table: _Table) -> tuple[Doubles, _Prior]:
    """Return beta_KP and the distribution of slope and intercept among labels, in turns until both stand still."""
    pooled_P = table.pooled()
    # A first guess of how much labels differ: slopes by a third, intercepts by a factor of three in the odds.
    guess_PP = np.diag([(0.3 * pooled_P[0]) ** 2, 1.0])
    prior = _Prior(pooled_P, guess_PP)
    beta_KP = np.repeat(pooled_P[None], table.num_labels, axis=0)
    for _ in range(ROUNDS):
        mean_KP = np.broadcast_to(prior.mean_P, beta_KP.shape)
        before_KP = beta_KP
        beta_KP, covariance_KPP = table.most_probable(beta_KP, mean_KP, inverse(prior.covariance_PP))
        prior = _updated(beta_KP, covariance_KPP, prior.mean_P, _Prior(pooled_P, guess_PP))
        if np.abs(beta_KP - before_KP).max() < ROUND_TOLERANCE:
            break
    return beta_KP, prior


def _updated(beta_KP: Doubles, covariance_KPP: Doubles, mean_P: Doubles, anchor: _Prior) -> _Prior:
    """Return mean and covariance among labels, with `USUAL_WEIGHT` labels more at the anchor."""
    total = len(beta_KP) + USUAL_WEIGHT
    away_KP = beta_KP - mean_P
    covariance_PP = away_KP.T @ away_KP + covariance_KPP.sum(axis=0) + USUAL_WEIGHT * anchor.covariance_PP
    return _Prior((beta_KP.sum(axis=0) + USUAL_WEIGHT * anchor.mean_P) / total, covariance_PP / total)


def _lift_slopes(table: _Table, beta_KP: Doubles, prior: _Prior) -> Doubles:
    """Return beta_KP with slopes of at least `LOWEST_SLOPE`; where that changes one, the best intercept beside it."""
    low_K = beta_KP[:, 0] < LOWEST_SLOPE
    if not low_K.any():
        return beta_KP
    start_KP = np.column_stack([np.full(int(low_K.sum()), LOWEST_SLOPE), beta_KP[low_K, 1]])
    mean_KP = np.broadcast_to([LOWEST_SLOPE, prior.mean_P[1]], start_KP.shape)
    fixed_PP = np.diag([1e12, 1 / prior.covariance_PP[1, 1]])
    lifted_KP = beta_KP.copy()
    lifted_KP[low_K] = table.columns(low_K).most_probable(start_KP, mean_KP, fixed_PP)[0]
    lifted_KP[low_K, 0] = LOWEST_SLOPE
    return lifted_KP


def _pooled(logits_C: Floats, targets_C: Targets8) -> Doubles:
    """Return slope and intercept of cells whose logits have mean 0 and deviation 1, slope at least `LOWEST_SLOPE`."""
    positives, cells = int((targets_C == 1).sum()), len(targets_C)
    yes, no = (positives + 1) / (positives + 2), 1 / (cells - positives + 2)
    soft_C1 = np.where(targets_C == 1, yes, no)[:, None]
    logits_C1 = logits_C.astype(np.float64)[:, None]
    start_1P = np.array([[0.0, np.log((positives + 1) / (cells - positives + 1))]])
    loose_PP = np.diag([1e-6, 1e-6])  # for constant logits, of which no slope is better than another
    beta_1P, _ = fit_logistic(logits_C1, soft_C1, np.ones_like(soft_C1), start_1P, np.zeros((1, 2)), loose_PP)
    if beta_1P[0, 0] < LOWEST_SLOPE:
        lowest_1P = np.array([[LOWEST_SLOPE, 0.0]])
        fixed_PP = np.diag([1e12, 1e-6])
        beta_1P, _ = fit_logistic(logits_C1, soft_C1, np.ones_like(soft_C1), lowest_1P + start_1P, lowest_1P, fixed_PP)
    return np.array([max(beta_1P[0, 0], LOWEST_SLOPE), beta_1P[0, 1]])


def _centre_and_spread(logits_C: Floats) -> tuple[float, float]:
    """Return mean and deviation; 1 for a deviation of nothing."""
    values = logits_C.astype(np.float64)
    spread = float(values.std()) if len(values) else 0.0
    return (float(values.mean()) if len(values) else 0.0), spread or 1.0


def _in_units(beta_P: Doubles, centre: float, spread: float) -> ScoreMap:
    slope = float(beta_P[0]) / spread
    return ScoreMap(slope=slope, intercept=float(beta_P[1]) - slope * centre)
