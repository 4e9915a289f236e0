"""One label under the scorer under test: at its threshold, over all thresholds, and in pictures.

Shapes: R images that count for the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats, Targets8, curve_points, operating_points
from schemas.evaluation import (
    EvaluatedImage,
    LabelEvaluation,
    LabelExamples,
    PrecisionRecallCurve,
    ScoreHistogram,
    ScorerName,
)
from schemas.sample import SampleRow

HISTOGRAM_BINS = 20


@dataclass(frozen=True, kw_only=True)
class LabelCells:
    """A label, and its column of the tables."""

    label_id: str
    name: str
    seen: bool
    threshold: float
    scores_R: Floats
    targets_R: Targets8
    rows_R: NDArray[np.int64]  # which of all images these are


def evaluate_label(
    cells: LabelCells,
    images: Sequence[SampleRow],
    average_precision: float | None,
    others: Mapping[ScorerName, float | None],
    num_examples: int,
) -> LabelEvaluation:
    """Return the record of one label; `average_precision` and `others` (of the other scorers) are copied into it."""
    right, said, positives = _counts(cells)
    return LabelEvaluation(
        label_id=cells.label_id,
        name=cells.name,
        seen=cells.seen,
        num_positives=positives,
        num_negatives=int((cells.targets_R == 0).sum()),
        num_unknown=int((cells.targets_R < 0).sum()),
        average_precision=average_precision,
        other_average_precisions=dict(others),
        threshold=cells.threshold,
        precision=right / said if said else None,
        recall=right / positives if positives else None,
        f1=2 * right / (said + positives) if positives else None,
        curve=_curve(cells) if positives else None,
        histogram=_histogram(cells),
        examples=_examples(cells, images, num_examples),
    )


def _counts(cells: LabelCells) -> tuple[int, int, int]:
    """Return the right tags, all tags and the positives among annotated images, a tag as SQL finds it."""
    known_R = cells.targets_R >= 0
    tagged_R = known_R & (cells.scores_R.astype(np.float64) >= cells.threshold)
    positive_R = cells.targets_R == 1
    return int((tagged_R & positive_R).sum()), int(tagged_R.sum()), int(positive_R.sum())


def _curve(cells: LabelCells) -> PrecisionRecallCurve:
    points = operating_points(cells.scores_R, cells.targets_R)
    chosen = curve_points(points)
    return PrecisionRecallCurve(
        recall=tuple(points.recall_T[chosen].tolist()),
        precision=tuple(points.precision_T[chosen].tolist()),
        threshold=tuple(points.threshold_T[chosen].tolist()),
    )


def _histogram(cells: LabelCells) -> ScoreHistogram:
    place_R = np.minimum((cells.scores_R.astype(np.float64) * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    positives, negatives = (
        tuple(np.bincount(place_R[cells.targets_R == value], minlength=HISTOGRAM_BINS).tolist()) for value in (1, 0)
    )
    return ScoreHistogram(positives=positives, negatives=negatives)


def _examples(cells: LabelCells, images: Sequence[SampleRow], count: int) -> LabelExamples:
    """Return the surest positives, the surest negatives and the least sure positives; equal scores in image order."""
    positives, negatives = np.flatnonzero(cells.targets_R == 1), np.flatnonzero(cells.targets_R == 0)

    def first(places: NDArray[np.int64], sign: float) -> tuple[EvaluatedImage, ...]:
        order = np.argsort(sign * cells.scores_R[places].astype(np.float64), kind="stable")
        return tuple(_image(cells, images, int(place)) for place in places[order[:count]])

    return LabelExamples(
        surest_right=first(positives, -1.0),
        surest_wrong=first(negatives, -1.0),
        least_sure_positives=first(positives, 1.0),
    )


def _image(cells: LabelCells, images: Sequence[SampleRow], place: int) -> EvaluatedImage:
    image = images[cells.rows_R[place]]
    return EvaluatedImage(
        key=image.key,
        shard=image.shard,
        sample=image.sample,
        score=float(cells.scores_R[place]),
        target=1 if cells.targets_R[place] == 1 else 0,
    )
