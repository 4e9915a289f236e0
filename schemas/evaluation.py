"""What an evaluation found: the content of `metrics.json`, and all that its page and its tables show.

A group is a set of labels: `seen` were trained on, `novel` were not (ZSL scores these alone), `all` are both together
(GZSL). A label's logits rank the images (average precision); scores, the calibrated probabilities, rank the labels of
one image (F1@k) and are held against what is true (ECE, Brier score, log loss). None stands wherever a number does not
exist: an average precision without positives, a probability of a scorer that gives none.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.record import Record

ScorerName = Literal["fused", "decoder", "clip", "clip+local", "linear", "ridge", "label_ridge", "constant", "chance"]
GroupName = Literal["seen", "novel", "all"]

# A: all images. F: only images that have at least one label of the group (the published filtered test lists).
Protocol = Literal["A", "F"]

# Cells that are at least this sure count for `likely_ece`: with rare labels nearly every cell is a sure no, and
# a calibration error over all cells is small for anybody, the constant predictor included.
LIKELY_SCORE = 0.05


class ScoreBin(Record):
    """One bar of a reliability diagram: the cells (image, label) whose score lies in [low, high); the last takes 1."""

    low: float
    high: float
    count: int
    mean_score: float | None  # None where the bin is empty
    positive_rate: float | None  # share of the cells that are true


class F1AtK(Record):
    """Micro average over all images: of each image, the k surest labels of the group count as said."""

    k: int
    precision: float
    recall: float
    f1: float


class GroupMetrics(Record):
    """One scorer on one group of labels."""

    group: GroupName
    num_images: int  # fewer than all under protocol F
    num_labels: int
    # Labels without a positive or without a negative here: they have no average precision and are not in the mean.
    num_skipped: int
    mean_average_precision: float | None
    f1_at: tuple[F1AtK, ...]
    # Of probabilities, over cells (image, label) that are annotated. None where the scorer gives no probability.
    num_cells: int
    ece: float | None
    num_likely_cells: int | None  # cells with a score of at least LIKELY_SCORE
    likely_ece: float | None  # ECE over those cells; None where there are none
    brier: float | None
    log_loss: float | None  # nats


class ScorerEvaluation(Record):
    """One row of the table of scorers. A group that the data does not have (no novel labels, say) is None."""

    scorer: ScorerName
    probabilities: bool  # whether it gives scores that stand for probabilities, and not only a ranking
    seen: GroupMetrics | None
    novel: GroupMetrics | None
    all: GroupMetrics | None
    harmonic_mean: float | None  # of the mAPs of seen and novel


class CalibrationCheck(Record):
    """How far calibrated scores are from the truth, on cells that the calibration was not fitted on."""

    group: GroupName  # novel: of labels that were left out of training for the purpose
    num_images: int
    num_labels: int
    num_cells: int  # annotated
    num_positives: int
    ece: float | None  # of 15 equal-width bins
    num_likely_cells: int  # with a score of at least LIKELY_SCORE
    likely_ece: float | None
    log_loss: float | None
    constant_ece: float | None  # of a constant score at each label's true frequency here
    constant_log_loss: float | None
    bins: tuple[ScoreBin, ...]


class EvaluatedImage(Record):
    """One picture as an example of a label, with what the scorer under test said of it."""

    key: str
    shard: str
    sample: int
    score: float
    target: Literal[0, 1]


class LabelExamples(Record):
    """Pictures that show what the scorer understood of a label, the most telling first."""

    surest_right: tuple[EvaluatedImage, ...]  # positives, highest score first
    surest_wrong: tuple[EvaluatedImage, ...]  # negatives, highest score first
    least_sure_positives: tuple[EvaluatedImage, ...]  # positives, lowest score first


class PrecisionRecallCurve(Record):
    """Points by rising recall, at most 101: the exact curve, or points of it near every hundredth of recall.

    A point says: with a score of at least `threshold` taken as a yes, this is recall and precision.
    """

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]


class ScoreHistogram(Record):
    """Counts in 20 equal bins of the score from 0 to 1."""

    positives: tuple[int, ...]
    negatives: tuple[int, ...]


class LabelEvaluation(Record):
    """One label under the scorer under test, with the baselines' average precision beside it."""

    label_id: str
    name: str
    seen: bool
    num_positives: int
    num_negatives: int
    num_unknown: int  # images that nobody annotated for this label; left out of everything here
    average_precision: float | None  # None where skipped: no positives, or no negatives
    other_average_precisions: dict[ScorerName, float | None]  # of the other scorers; those that can score this label
    threshold: float
    precision: float | None  # at the threshold; None where nothing is said
    recall: float | None  # None without positives
    f1: float | None
    curve: PrecisionRecallCurve | None
    histogram: ScoreHistogram
    examples: LabelExamples


class Reliability(Record):
    """The reliability diagram of one group under the scorer under test, of 15 equal-width bins."""

    group: GroupName
    bins: tuple[ScoreBin, ...]


class Evaluation(Record):
    """One evaluation, whole. `scorers[0]` is the scorer under test; the baselines follow, strongest kind first."""

    model_id: str
    scorer: ScorerName
    protocol: Protocol
    taxonomy_digest: str
    dataset: str
    patterns: tuple[str, ...]  # the shards
    num_images: int  # annotated images that were scored
    num_failed: int  # annotated images that could not be scored; in no number here
    num_positives: int  # cells
    num_unknown: int  # cells that nobody annotated; in no number here
    calibration: Literal["none", "fitted"]  # none: the scores are a prior, and what rests on them is to be read so
    scorers: tuple[ScorerEvaluation, ...]
    labels: tuple[LabelEvaluation, ...]  # in the order of the taxonomy
    reliability: tuple[Reliability, ...]
    created_at: datetime
    versions: dict[str, str]
