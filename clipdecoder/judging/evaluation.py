"""From logits, scores and ground truth to the records of an evaluation.

Shapes: N images, K labels, R images that count for a group of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.label_evaluation import LabelCells, evaluate_label
from clipdecoder.judging.metrics import (
    Floats,
    Targets8,
    average_precisions,
    brier_score,
    chance_average_precisions,
    chance_f1_at_k,
    expected_calibration_error,
    f1_at_k,
    harmonic_mean,
    likely_cells,
    log_loss,
    mean_or_nan,
    number_or_none,
    reliability_bins,
)
from schemas.evaluation import (
    Evaluation,
    GroupMetrics,
    GroupName,
    LabelEvaluation,
    Protocol,
    Reliability,
    ScorerEvaluation,
    ScorerName,
)
from schemas.sample import SampleRow

F1_AT = (3, 5)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an evaluation says about itself besides its numbers."""

    model_id: str
    protocol: Protocol
    taxonomy_digest: str
    dataset: str
    patterns: tuple[str, ...]
    num_failed: int  # annotated images without a score
    calibrated: bool  # whether the scores of the scorer under test come from a fitted calibration
    created_at: datetime
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The evaluated images and labels."""

    targets_NK: Targets8  # 1, 0, or -1 unknown
    images: Sequence[SampleRow]
    label_ids: Sequence[str]
    names: Sequence[str]
    seen_K: NDArray[np.bool_]

    def columns(self, group: GroupName) -> NDArray[np.int64]:
        """Return the columns of a group of labels."""
        if group == "all":
            return np.arange(len(self.seen_K))
        return np.flatnonzero(self.seen_K if group == "seen" else ~self.seen_K)

    def rows(self, group: GroupName, protocol: Protocol) -> NDArray[np.int64]:
        """Return the images that count for a group: all, or under protocol F those with a label of the group."""
        if protocol == "A":
            return np.arange(len(self.targets_NK))
        return np.flatnonzero((self.targets_NK[:, self.columns(group)] == 1).any(axis=1))


@dataclass(frozen=True, kw_only=True)
class ScorerOutput:
    """What one scorer says of every image and label. Columns that it cannot score hold anything: see `groups`."""

    scorer: ScorerName
    logits_NK: Floats  # rank the images of a label
    scores_NK: Floats | None  # probabilities; None: it only ranks
    groups: tuple[GroupName, ...] = ("seen", "novel", "all")


def evaluate_scores(
    facts: Facts,
    truth: GroundTruth,
    outputs: Sequence[ScorerOutput],
    thresholds_K: NDArray[np.float64],
    *,
    num_examples: int = 4,
) -> Evaluation:
    """Return the whole evaluation. The first output is the scorer under test and has scores; chance is added here.

    Average precision ranks by logits; F1@k ranks by scores where there are any, as logits of different labels need not
    compare, and by logits otherwise.

    Args:
        facts: copied into the record; the protocol decides which images count.
        truth: of all labels, in the order of the taxonomy.
        outputs: the scorer under test, then what it is compared with.
        thresholds_K: of the scorer under test, on its scores.
        num_examples: images per label and kind of example.
    """
    tested = outputs[0]
    assert tested.scores_NK is not None, "the scorer under test gives scores"
    groups: list[GroupName] = [group for group in ("seen", "novel", "all") if len(truth.columns(group))]
    precisions = {output.scorer: _label_precisions(output, truth, facts.protocol) for output in outputs}
    return Evaluation(
        model_id=facts.model_id,
        scorer=tested.scorer,
        protocol=facts.protocol,
        taxonomy_digest=facts.taxonomy_digest,
        dataset=facts.dataset,
        patterns=facts.patterns,
        num_images=len(truth.targets_NK),
        num_failed=facts.num_failed,
        num_positives=int((truth.targets_NK == 1).sum()),
        num_unknown=int((truth.targets_NK < 0).sum()),
        calibration="fitted" if facts.calibrated else "none",
        scorers=(
            *(_scorer(output, truth, facts.protocol, groups) for output in outputs),
            _chance(truth, facts, groups),
        ),
        labels=_labels(tested, truth, facts.protocol, precisions, thresholds_K, num_examples),
        reliability=tuple(_reliability(tested, truth, facts.protocol, group) for group in groups if group != "all"),
        created_at=facts.created_at,
        versions=facts.versions,
    )


def _scorer(
    output: ScorerOutput, truth: GroundTruth, protocol: Protocol, groups: Sequence[GroupName]
) -> ScorerEvaluation:
    found = {g: _group_metrics(output, truth, protocol, g) for g in groups if g in output.groups}
    return _row(output.scorer, output.scores_NK is not None, found)


def _row(scorer: ScorerName, probabilities: bool, found: dict[GroupName, GroupMetrics]) -> ScorerEvaluation:
    seen, novel = found.get("seen"), found.get("novel")
    first = seen.mean_average_precision if seen else None
    second = novel.mean_average_precision if novel else None
    return ScorerEvaluation(
        scorer=scorer,
        probabilities=probabilities,
        seen=seen,
        novel=novel,
        all=found.get("all"),
        harmonic_mean=None if first is None or second is None else harmonic_mean(first, second),
    )


def _group_metrics(output: ScorerOutput, truth: GroundTruth, protocol: Protocol, group: GroupName) -> GroupMetrics:
    cells = np.ix_(truth.rows(group, protocol), truth.columns(group))
    targets_RK, logits_RK = truth.targets_NK[cells], output.logits_NK[cells]
    precisions_K = average_precisions(logits_RK, targets_RK)
    scores_RK = None if output.scores_NK is None else output.scores_NK[cells]
    ranks_RK = logits_RK if scores_RK is None else scores_RK
    ece = likely_ece = brier = loss = num_likely = None
    if scores_RK is not None:
        likely_RK = likely_cells(scores_RK, targets_RK)
        num_likely = int((likely_RK >= 0).sum())
        ece = number_or_none(expected_calibration_error(reliability_bins(scores_RK, targets_RK)))
        likely_ece = number_or_none(expected_calibration_error(reliability_bins(scores_RK, likely_RK)))
        brier = number_or_none(brier_score(scores_RK, targets_RK))
        loss = number_or_none(log_loss(scores_RK, targets_RK))
    return GroupMetrics(
        group=group,
        num_images=len(targets_RK),
        num_labels=len(precisions_K),
        num_skipped=int(np.isnan(precisions_K).sum()),
        mean_average_precision=number_or_none(mean_or_nan(precisions_K)),
        f1_at=tuple(f1_at_k(ranks_RK, targets_RK, k) for k in F1_AT),
        num_cells=int((targets_RK >= 0).sum()),
        ece=ece,
        num_likely_cells=num_likely,
        likely_ece=likely_ece,
        brier=brier,
        log_loss=loss,
    )


def _chance(truth: GroundTruth, facts: Facts, groups: Sequence[GroupName]) -> ScorerEvaluation:
    """Return what a random order of images, and random labels for each image, give on average."""
    found: dict[GroupName, GroupMetrics] = {}
    for group in groups:
        targets_RK = truth.targets_NK[np.ix_(truth.rows(group, facts.protocol), truth.columns(group))]
        precisions_K = chance_average_precisions(targets_RK)
        found[group] = GroupMetrics(
            group=group,
            num_images=len(targets_RK),
            num_labels=len(precisions_K),
            num_skipped=int(np.isnan(precisions_K).sum()),
            mean_average_precision=number_or_none(mean_or_nan(precisions_K)),
            f1_at=tuple(chance_f1_at_k(targets_RK, k) for k in F1_AT),
            num_cells=int((targets_RK >= 0).sum()),
            ece=None,
            num_likely_cells=None,
            likely_ece=None,
            brier=None,
            log_loss=None,
        )
    return _row("chance", False, found)


def _reliability(tested: ScorerOutput, truth: GroundTruth, protocol: Protocol, group: GroupName) -> Reliability:
    assert tested.scores_NK is not None
    cells = np.ix_(truth.rows(group, protocol), truth.columns(group))
    return Reliability(group=group, bins=reliability_bins(tested.scores_NK[cells], truth.targets_NK[cells]))


def _label_precisions(output: ScorerOutput, truth: GroundTruth, protocol: Protocol) -> dict[int, float]:
    """Return the average precision of every label that the scorer can score, by column, on its own group's images."""
    found: dict[int, float] = {}
    for group in ("seen", "novel"):
        columns = truth.columns(group)
        if group in output.groups and len(columns):
            cells = np.ix_(truth.rows(group, protocol), columns)
            precisions = average_precisions(output.logits_NK[cells], truth.targets_NK[cells])
            found |= dict(zip(columns.tolist(), precisions.tolist(), strict=True))
    return found


def _labels(
    tested: ScorerOutput,
    truth: GroundTruth,
    protocol: Protocol,
    precisions: dict[ScorerName, dict[int, float]],
    thresholds_K: NDArray[np.float64],
    num_examples: int,
) -> tuple[LabelEvaluation, ...]:
    assert tested.scores_NK is not None
    rows_of = {True: truth.rows("seen", protocol), False: truth.rows("novel", protocol)}
    found = []
    for column, label_id in enumerate(truth.label_ids):
        rows = rows_of[bool(truth.seen_K[column])]
        cells = LabelCells(
            label_id=label_id,
            name=truth.names[column],
            seen=bool(truth.seen_K[column]),
            threshold=float(thresholds_K[column]),
            scores_R=tested.scores_NK[rows, column],
            targets_R=truth.targets_NK[rows, column],
            rows_R=rows,
        )
        of = {
            scorer: number_or_none(by_column[column]) for scorer, by_column in precisions.items() if column in by_column
        }
        found.append(evaluate_label(cells, truth.images, of.pop(tested.scorer), of, num_examples))
    return tuple(found)
