"""The calibration of one scorer: fitted, checked on what it was not fitted on, and applied by label id.

Shapes: N images, K seen labels, J labels left out of training, L labels asked for, R rows = K + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import (
    Floats,
    Targets8,
    expected_calibration_error,
    likely_cells,
    log_loss,
    number_or_none,
    reliability_bins,
)
from clipdecoder.judging.score_maps import (
    cross_fitted_novel_scores,
    cross_fitted_seen_scores,
    fit_novel,
    fit_seen,
)
from clipdecoder.judging.thresholds import choose_thresholds
from clipdecoder.scoring.label_maps import LabelMaps
from schemas.checkpoint import CalibrationRow
from schemas.evaluation import CalibrationCheck, GroupName
from schemas.tables import ANY_LABEL


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Logits of a scorer on what it did not learn from, and the truth."""

    logits_NK: Floats
    targets_NK: Targets8


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A scorer's maps and thresholds: a row for each seen label, and last the row of `ANY_LABEL`, for all others.

    score = sigmoid(slope * logit + intercept), slopes positive; a score at or above the threshold is a tag.
    """

    scorer: str
    label_ids: tuple[str, ...]
    slope_R: NDArray[np.float64]
    intercept_R: NDArray[np.float64]
    threshold_R: NDArray[np.float64]
    positives_R: NDArray[np.int64]  # that the row was fitted on

    @classmethod
    def of(cls, rows: Sequence[CalibrationRow], scorer: str) -> Calibration:
        """Return the calibration of one scorer out of the rows of `calibration.parquet`."""
        own = sorted((row for row in rows if row.scorer == scorer), key=lambda row: row.label_id == ANY_LABEL)
        assert own and own[-1].label_id == ANY_LABEL, f"no calibration row of {scorer!r} for {ANY_LABEL!r}"
        return cls(
            scorer=scorer,
            label_ids=tuple(row.label_id for row in own),
            slope_R=np.array([row.slope for row in own]),
            intercept_R=np.array([row.intercept for row in own]),
            threshold_R=np.array([row.threshold for row in own]),
            positives_R=np.array([row.positives for row in own], np.int64),
        )

    def records(self) -> tuple[CalibrationRow, ...]:
        """Return the rows of `calibration.parquet`, labels in order, `ANY_LABEL` last."""
        columns = zip(self.label_ids, self.slope_R, self.intercept_R, self.threshold_R, self.positives_R, strict=True)
        return tuple(
            CalibrationRow(
                scorer=self.scorer,
                label_id=label_id,
                slope=float(slope),
                intercept=float(intercept),
                threshold=float(threshold),
                positives=int(positives),
            )
            for label_id, slope, intercept, threshold, positives in columns
        )

    def rows(self, label_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row that holds for each label: its own, or the last."""
        row_of = {label_id: row for row, label_id in enumerate(self.label_ids)}
        return np.array([row_of.get(label_id, len(self.label_ids) - 1) for label_id in label_ids], np.int64)

    def scores(self, logits_NL: Floats, label_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the probabilities of logits whose columns are these labels."""
        rows_L = self.rows(label_ids)
        maps = LabelMaps(slope_K=self.slope_R[rows_L], intercept_K=self.intercept_R[rows_L])
        return maps.scores(logits_NL)

    def thresholds(self, label_ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the threshold of each of these labels."""
        return self.threshold_R[self.rows(label_ids)]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration, and what is known of it."""

    calibration: Calibration
    checks: tuple[CalibrationCheck, ...]  # of seen labels, and of novel ones where labels were left out
    unreached: tuple[str, ...]  # rows without any threshold of the target precision: theirs is of the highest


def calibrate(
    scorer: str,
    label_ids: Sequence[str],
    seen: HeldOut,
    novel: HeldOut | None,
    *,
    target_precision: float | None = None,
    seed: int = 0,
) -> Calibrated:
    """Fit maps and thresholds of one scorer, and check them by cross-fitting.

    Thresholds are chosen on cross-fitted scores too: on the scores of its own cells a label looks better than it is.
    A seen label with positives and no negative, of which people only ever said yes, is as one without evidence: it gets
    what is usual, where its own cells would call every image a yes.

    Args:
        label_ids: of the columns of `seen`.
        seen: held-out images, the labels that the scorer was trained on.
        novel: held-out images, labels that were left out when a scorer like this one was trained, as that one's logits.
            None where too few labels exist for it: then what is usual among the seen labels holds for all others.
        target_precision: for the thresholds; None: best F1.
    """
    one_sided_K = (seen.targets_NK == 1).any(axis=0) & ~(seen.targets_NK == 0).any(axis=0)
    seen = replace(seen, targets_NK=np.where(one_sided_K, np.int8(-1), seen.targets_NK))
    maps = fit_seen(seen.logits_NK, seen.targets_NK)
    seen_scores_NK = cross_fitted_seen_scores(seen.logits_NK, seen.targets_NK, seed=seed)
    thresholds = choose_thresholds(seen_scores_NK, seen.targets_NK, target_precision)
    checks = [check_calibration("seen", seen_scores_NK, seen.targets_NK)]
    any_map, common, common_reached, positives = maps.usual, thresholds.common, thresholds.common_reached, 0
    if novel is not None:
        any_map = fit_novel(novel.logits_NK, novel.targets_NK)
        novel_scores_NJ = cross_fitted_novel_scores(novel.logits_NK, novel.targets_NK, seed=seed)
        any_thresholds = choose_thresholds(novel_scores_NJ, novel.targets_NK, target_precision)
        common, common_reached = any_thresholds.common, any_thresholds.common_reached
        positives = int((novel.targets_NK == 1).sum())
        checks.append(check_calibration("novel", novel_scores_NJ, novel.targets_NK))
    rows = (*label_ids, ANY_LABEL)
    reached_R = np.append(thresholds.reached_K, common_reached)
    return Calibrated(
        calibration=Calibration(
            scorer=scorer,
            label_ids=rows,
            slope_R=np.append(maps.slope_K, any_map.slope),
            intercept_R=np.append(maps.intercept_K, any_map.intercept),
            threshold_R=np.append(thresholds.threshold_K, common),
            positives_R=np.append((seen.targets_NK == 1).sum(axis=0), positives),
        ),
        checks=tuple(checks),
        unreached=tuple(label_id for label_id, reached in zip(rows, reached_R, strict=True) if not reached),
    )


def check_calibration(group: GroupName, scores_NK: Floats, targets_NK: Targets8) -> CalibrationCheck:
    """Return how far scores are from the truth, beside a constant at each label's own true frequency.

    A small error over all cells is easy where most labels are rare: the constant has it as well. The error over likely
    cells and the logarithmic loss tell the two apart.
    """
    known_NK = targets_NK >= 0
    rate_K = (targets_NK == 1).sum(axis=0) / np.maximum(known_NK.sum(axis=0), 1)
    constant_NK = np.broadcast_to(rate_K, targets_NK.shape)
    bins = reliability_bins(scores_NK, targets_NK)
    likely = likely_cells(scores_NK, targets_NK)
    likely_bins = reliability_bins(scores_NK, likely)
    return CalibrationCheck(
        group=group,
        num_images=len(targets_NK),
        num_labels=targets_NK.shape[1],
        num_cells=int(known_NK.sum()),
        num_positives=int((targets_NK == 1).sum()),
        ece=number_or_none(expected_calibration_error(bins)),
        num_likely_cells=int((likely >= 0).sum()),
        likely_ece=number_or_none(expected_calibration_error(likely_bins)),
        log_loss=number_or_none(log_loss(scores_NK, targets_NK)),
        constant_ece=number_or_none(expected_calibration_error(reliability_bins(constant_NK, targets_NK))),
        constant_log_loss=number_or_none(log_loss(constant_NK, targets_NK)),
        bins=bins,
    )
