"""Numbers that say how good logits and scores are. None of them depends on the order of images.

A logit ranks the images of one label; a score is a probability and may be compared between labels. A target is 1
(yes), 0 (no) or -1 (nobody said): unknown cells are left out of every number, as if that image had no such cell.

Shapes: N images, K labels, C cells that are annotated (any selection of the table N x K), T distinct thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdecoder.scoring.label_maps import CHUNK_CELLS
from clipdecoder.scoring.selection import top_cells
from schemas.evaluation import LIKELY_SCORE, F1AtK, ScoreBin

Floats = NDArray[np.floating[Any]]
Targets8 = NDArray[np.int8]

# Scores are held this far from 0 and 1 in the logarithmic loss: about the rounding of float32.
SURE = 1e-7


@dataclass(frozen=True)
class OperatingPoints:
    """What every distinct threshold gives, the highest first. Equal logits enter together: no threshold parts them."""

    threshold_T: NDArray[np.float64]
    true_positives_T: NDArray[np.int64]
    predicted_T: NDArray[np.int64]  # images at or above the threshold
    num_positives: int

    @property
    def num_images(self) -> int:
        """Images of which something is known."""
        return int(self.predicted_T[-1]) if len(self.predicted_T) else 0

    @property
    def precision_T(self) -> NDArray[np.float64]:
        """Share of the predicted that is right; never a division by zero, as each threshold predicts something."""
        return np.asarray(self.true_positives_T / self.predicted_T)

    @property
    def recall_T(self) -> NDArray[np.float64]:
        """Share of the positives that is found. Needs a positive."""
        return np.asarray(self.true_positives_T / self.num_positives)

    @property
    def f1_T(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall."""
        return np.asarray(2 * self.true_positives_T / (self.predicted_T + self.num_positives))


def operating_points(logits_N: Floats, targets_N: Targets8) -> OperatingPoints:
    """Return what each distinct logit does as a threshold (`logit >= threshold` is a yes), unknown cells left out."""
    known = targets_N >= 0
    logits_C, targets_C = logits_N[known], targets_N[known]
    order = np.argsort(-logits_C, kind="stable")
    sorted_C = logits_C[order]
    last = np.append(np.flatnonzero(np.diff(sorted_C)), len(sorted_C) - 1) if len(sorted_C) else np.empty(0, np.int64)
    true_C = np.cumsum(targets_C[order], dtype=np.int64)
    return OperatingPoints(
        threshold_T=sorted_C[last].astype(np.float64),
        true_positives_T=true_C[last],
        predicted_T=last + 1,
        num_positives=int(true_C[-1]) if len(true_C) else 0,
    )


def average_precision(logits_N: Floats, targets_N: Targets8) -> float:
    """Return the area under the precision-recall steps, `sum_t (recall_t - recall_(t-1)) * precision_t`.

    Without interpolation, equal logits as one step: scikit-learn's `average_precision_score`. 1 is a perfect ranking; a
    constant logit gives the share of positives. NaN without positives, and without negatives: then every order is
    perfect, and 1 would say nothing of the logits.
    """
    points = operating_points(logits_N, targets_N)
    if points.num_positives in (0, points.num_images):
        return float("nan")
    return float(np.sum(np.diff(points.recall_T, prepend=0.0) * points.precision_T))


def average_precisions(logits_NK: Floats, targets_NK: Targets8) -> NDArray[np.float64]:
    """Return the average precision of each label, NaN for labels that no image tells apart: see `rankable_labels`."""
    columns = zip(logits_NK.T, targets_NK.T, strict=True)
    return np.array([average_precision(logits_N, targets_N) for logits_N, targets_N in columns], np.float64)


def rankable_labels(targets_NK: Targets8) -> NDArray[np.bool_]:
    """Return which labels have both a positive and a negative, so that an order of images can be right or wrong."""
    return np.asarray((targets_NK == 1).any(axis=0) & (targets_NK == 0).any(axis=0))


def mean_average_precision(logits_NK: Floats, targets_NK: Targets8) -> tuple[float, NDArray[np.float64], int]:
    """Return mAP, the average precision of each label and the number of labels skipped.

    Macro: every label counts the same, however rare. Labels without positives or without negatives have no average
    precision (NaN); they are skipped and counted. mAP is NaN if that leaves none.
    """
    precisions_K = average_precisions(logits_NK, targets_NK)
    return mean_or_nan(precisions_K), precisions_K, int(np.isnan(precisions_K).sum())


def number_or_none(value: float) -> float | None:
    """Return the number as JSON can hold it: None for NaN."""
    return None if np.isnan(value) else float(value)


def mean_or_nan(values_K: Floats) -> float:
    """Return the mean of the values that are not NaN; NaN where none is left."""
    known = values_K[~np.isnan(values_K)]
    return float(known.mean()) if len(known) else float("nan")


def chance_average_precisions(targets_NK: Targets8) -> NDArray[np.float64]:
    """Return for each label the expected average precision of a random order of its images; NaN where it has none.

    With P of N images positive the k-th place is a positive with P / N, and then k - 1 places before it hold
    `(k - 1) (P - 1) / (N - 1)` more on average. Hence `(H_N + (P - 1) / (N - 1) * (N - H_N)) / N` with the harmonic
    number H_N: somewhat above the share of positives P / N, and far above it for rare labels and few images.
    """
    known_K = (targets_NK >= 0).sum(axis=0)
    positives_K = (targets_NK == 1).sum(axis=0)
    harmonic_N1 = np.concatenate(([0.0], np.cumsum(1.0 / np.arange(1, len(targets_NK) + 1))))
    sum_K = harmonic_N1[known_K] + (positives_K - 1) / np.maximum(known_K - 1, 1) * (known_K - harmonic_N1[known_K])
    return np.where(rankable_labels(targets_NK), sum_K / np.maximum(known_K, 1), np.nan)


def f1_at_k(scores_NK: Floats, targets_NK: Targets8, k: int) -> F1AtK:
    """Return precision, recall and F1 when each image's k surest labels are its answer; micro, over all images.

    As in the zero-shot papers on NUS-WIDE: every image gives k answers, also one without any positive. Equal scores
    rank by label order. An unknown label is no answer: the next surest takes its place.
    """
    right = answers = 0
    rows = max(1, CHUNK_CELLS // max(1, scores_NK.shape[1]))
    for start in range(0, len(scores_NK), rows):
        targets_RK = targets_NK[start : start + rows]
        known_RK = targets_RK >= 0
        ranked_RK = np.where(known_RK, scores_NK[start : start + rows], np.float32(-np.inf))
        answers_RK = top_cells(ranked_RK, k) & known_RK
        answers += int(answers_RK.sum())
        right += int((targets_RK[answers_RK] == 1).sum())
    return _f1(k, right, answers, int((targets_NK == 1).sum()))


def chance_f1_at_k(targets_NK: Targets8, k: int) -> F1AtK:
    """Return what k labels drawn at random for each image give on average: its expected counts, taken together."""
    known_N = (targets_NK >= 0).sum(axis=1)
    answers_N = np.minimum(known_N, k)
    positives_N = (targets_NK == 1).sum(axis=1)
    right = float(np.sum(positives_N * answers_N / np.maximum(known_N, 1)))
    return _f1(k, right, int(answers_N.sum()), int(positives_N.sum()))


def _f1(k: int, right: float, answers: int, positives: int) -> F1AtK:
    precision, recall = right / max(answers, 1), right / max(positives, 1)
    return F1AtK(k=k, precision=precision, recall=recall, f1=2 * right / max(answers + positives, 1))


def reliability_bins(scores_C: Floats, targets_C: Targets8, bins: int = 15) -> tuple[ScoreBin, ...]:
    """Return how often cells of a score are true, in equal-width bins of the score; the last bin takes 1 as well.

    Takes a table as well as a list of cells; unknown cells are left out.
    """
    known = targets_C >= 0
    scores, targets = scores_C[known].astype(np.float64), targets_C[known]
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    score_sums = np.bincount(place, weights=scores, minlength=bins)
    target_sums = np.bincount(place, weights=targets, minlength=bins)
    return tuple(
        ScoreBin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(count),
            mean_score=float(score_sums[number] / count) if count else None,
            positive_rate=float(target_sums[number] / count) if count else None,
        )
        for number, count in enumerate(counts)
    )


def expected_calibration_error(bins: tuple[ScoreBin, ...]) -> float:
    """Return the mean over cells of `|mean score - share of true cells|` of the cell's bin: 0 is perfect; NaN if empty.

    Guo et al. 2017 (arXiv:1706.04599), for the probability of yes and not of the top label. It depends on the bins, and
    it says nothing of telling images apart: a constant at the true frequency has 0.
    """
    total = sum(found.count for found in bins)
    if total == 0:
        return float("nan")
    gaps = (
        found.count * abs(found.mean_score - found.positive_rate)
        for found in bins
        if found.mean_score is not None and found.positive_rate is not None
    )
    return sum(gaps) / total


def likely_cells(scores_NK: Floats, targets_NK: Targets8) -> Targets8:
    """Return the targets with cells of a score below `LIKELY_SCORE` made unknown, so that they count no more."""
    return np.where(scores_NK >= LIKELY_SCORE, targets_NK, np.int8(-1))


def brier_score(scores_C: Floats, targets_C: Targets8) -> float:
    """Return the mean squared distance of score and target over known cells; NaN if there are none."""
    known = targets_C >= 0
    return mean_or_nan((scores_C[known].astype(np.float64) - targets_C[known]) ** 2)


def log_loss(scores_C: Floats, targets_C: Targets8) -> float:
    """Return the mean negative log likelihood (nats) of the targets over known cells; NaN if there are none."""
    known = targets_C >= 0
    scores = np.clip(scores_C[known].astype(np.float64), SURE, 1 - SURE)
    return mean_or_nan(-np.log(np.where(targets_C[known] == 1, scores, 1 - scores)))


def harmonic_mean(first: float, second: float) -> float:
    """Return `2ab / (a + b)`, the customary balance of seen and novel mAP; 0 where either is 0, NaN where either is."""
    return 0.0 if first == 0 or second == 0 else 2 * first * second / (first + second)


def curve_points(points: OperatingPoints, limit: int = 101) -> NDArray[np.int64]:
    """Return which operating points draw the curve: all, or the first to reach each of `limit` even steps of recall.

    Points that find no positive more than the one before are never needed where points must go.
    """
    if len(points.threshold_T) <= limit:
        return np.arange(len(points.threshold_T))
    wanted = np.ceil(np.linspace(0, 1, limit) * points.num_positives)
    return np.unique(np.searchsorted(points.true_positives_T, np.maximum(wanted, 1)))
