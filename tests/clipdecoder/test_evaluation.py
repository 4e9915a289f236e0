"""The records of an evaluation: each number where it belongs, and none where there is none."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from clipdecoder.judging.evaluation import Facts, GroundTruth, ScorerOutput, evaluate_scores
from clipdecoder.judging.metrics import average_precision, f1_at_k, mean_average_precision
from schemas.evaluation import Evaluation, Protocol
from schemas.sample import SampleRow, SampleStatus
from tests.clipdecoder.worlds import rare_labels

NUM_IMAGES, NUM_LABELS = 300, 9
SEEN = np.array([True] * 6 + [False] * 3)


def facts(protocol: Protocol = "A") -> Facts:
    return Facts(
        model_id="m1",
        protocol=protocol,
        taxonomy_digest="d",
        dataset="made-up",
        patterns=("*.tar",),
        num_failed=2,
        calibrated=True,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        versions={},
    )


def images() -> list[SampleRow]:
    return [
        SampleRow(
            key=f"{number:03d}",
            shard="00000",
            sample=number,
            status=SampleStatus.OK,
            error=None,
            width=8,
            height=8,
            bytes=1,
            sha256=None,
        )
        for number in range(NUM_IMAGES)
    ]


def case(seed: int = 0) -> tuple[GroundTruth, np.ndarray, np.ndarray]:
    """Ground truth with unknown cells and a label without positives, logits, and scores."""
    world = rare_labels(NUM_LABELS)
    logits, targets = world.draw(NUM_IMAGES, seed)
    targets[:, 2] = 0
    targets[:20, 1] = -1
    truth = GroundTruth(
        targets_NK=targets,
        images=images(),
        label_ids=[f"l{number}" for number in range(NUM_LABELS)],
        names=[f"label {number}" for number in range(NUM_LABELS)],
        seen_K=SEEN,
    )
    return truth, logits, world.probabilities(logits).astype(np.float32)


def evaluated(protocol: Protocol = "A") -> tuple[Evaluation, GroundTruth, np.ndarray, np.ndarray]:
    truth, logits, scores = case()
    constant = np.broadcast_to(np.linspace(0.1, 0.2, NUM_LABELS, dtype=np.float32), logits.shape)
    outputs = [
        ScorerOutput(scorer="fused", logits_NK=logits, scores_NK=scores),
        ScorerOutput(scorer="ridge", logits_NK=-logits, scores_NK=None),
        ScorerOutput(scorer="label_ridge", logits_NK=logits, scores_NK=None, groups=("seen",)),
        ScorerOutput(scorer="constant", logits_NK=constant, scores_NK=constant),
    ]
    return evaluate_scores(facts(protocol), truth, outputs, np.full(NUM_LABELS, 0.3)), truth, logits, scores


def test_every_scorer_and_every_group() -> None:
    evaluation, truth, logits, scores = evaluated()
    rows = {row.scorer: row for row in evaluation.scorers}
    assert list(rows) == ["fused", "ridge", "label_ridge", "constant", "chance"]
    fused = rows["fused"]
    assert fused.seen is not None and fused.novel is not None and fused.all is not None
    assert fused.seen.mean_average_precision == mean_average_precision(logits[:, SEEN], truth.targets_NK[:, SEEN])[0]
    assert (fused.seen.num_labels, fused.seen.num_skipped, fused.novel.num_labels, fused.all.num_labels) == (6, 1, 3, 9)
    assert fused.novel.f1_at[1] == f1_at_k(scores[:, ~SEEN], truth.targets_NK[:, ~SEEN], 5)
    assert fused.all.num_cells == NUM_IMAGES * NUM_LABELS - 20
    assert fused.probabilities and fused.all.ece is not None and fused.all.ece < 0.03
    assert fused.harmonic_mean is not None
    assert fused.harmonic_mean == pytest.approx(
        2 / (1 / fused.seen.mean_average_precision + 1 / (fused.novel.mean_average_precision or 0))
    )


def test_what_a_scorer_cannot_do_is_none() -> None:
    evaluation, *_ = evaluated()
    rows = {row.scorer: row for row in evaluation.scorers}
    assert rows["label_ridge"].novel is None and rows["label_ridge"].all is None
    assert rows["label_ridge"].harmonic_mean is None
    ridge = rows["ridge"].seen
    assert ridge is not None and not rows["ridge"].probabilities
    assert (ridge.ece, ridge.likely_ece, ridge.brier, ridge.log_loss) == (None, None, None, None)
    chance = rows["chance"].seen
    assert chance is not None and chance.ece is None and chance.mean_average_precision is not None
    constant = rows["constant"].seen
    assert constant is not None and constant.mean_average_precision is not None
    assert constant.mean_average_precision < chance.mean_average_precision < 0.2


def test_labels_with_their_curves_and_pictures() -> None:
    evaluation, truth, logits, scores = evaluated()
    assert [label.label_id for label in evaluation.labels] == list(truth.label_ids)
    first = evaluation.labels[0]
    assert first.average_precision == average_precision(logits[:, 0], truth.targets_NK[:, 0])
    assert set(first.other_average_precisions) == {"ridge", "label_ridge", "constant"}
    assert set(evaluation.labels[8].other_average_precisions) == {"ridge", "constant"}  # novel
    said, right = scores[:, 0] >= 0.3, truth.targets_NK[:, 0] == 1
    assert first.precision == pytest.approx(right[said].mean()) and first.recall == pytest.approx(said[right].mean())
    assert first.curve is not None and len(first.curve.recall) <= 101 and first.curve.recall[-1] == 1
    assert sum(first.histogram.positives) == first.num_positives == right.sum()
    assert sum(first.histogram.negatives) == first.num_negatives
    assert len(first.histogram.positives) == 20
    best = first.examples.surest_right[0]
    assert best.score == pytest.approx(scores[right, 0].max()) and truth.targets_NK[best.sample, 0] == 1
    assert first.examples.surest_wrong[0].score == pytest.approx(scores[~right, 0].max())
    assert first.examples.least_sure_positives[0].score == pytest.approx(scores[right, 0].min())
    assert best.key == f"{best.sample:03d}" and best.target == 1


def test_a_label_without_positives_is_skipped_and_not_invented() -> None:
    label = evaluated()[0].labels[2]
    assert label.average_precision is None and label.recall is None and label.f1 is None and label.curve is None
    assert label.other_average_precisions == {"ridge": None, "label_ridge": None, "constant": None}
    assert label.examples.surest_right == () and len(label.examples.surest_wrong) == 4
    assert (evaluated()[0].labels[1].num_unknown, evaluated()[0].num_unknown) == (20, 20)


def test_protocol_f_leaves_out_images_without_a_label_of_the_group() -> None:
    evaluation, truth, logits, _ = evaluated("F")
    positive = truth.targets_NK == 1
    rows = evaluation.scorers[0]
    assert rows.seen is not None and rows.novel is not None and rows.all is not None
    assert rows.seen.num_images == positive[:, SEEN].any(axis=1).sum() < NUM_IMAGES
    assert rows.novel.num_images == positive[:, ~SEEN].any(axis=1).sum()
    assert rows.all.num_images == positive.any(axis=1).sum()
    kept = positive[:, ~SEEN].any(axis=1)
    novel = evaluation.labels[8]
    assert novel.average_precision == average_precision(logits[kept, 8], truth.targets_NK[kept, 8])
    assert novel.examples.surest_wrong[0].sample in np.flatnonzero(kept)


def test_reliability_is_of_seen_and_of_novel() -> None:
    evaluation = evaluated()[0]
    assert [found.group for found in evaluation.reliability] == ["seen", "novel"]
    assert all(len(found.bins) == 15 for found in evaluation.reliability)
    assert sum(found.count for found in evaluation.reliability[1].bins) == 3 * NUM_IMAGES


def test_without_novel_labels_there_is_no_novel_group() -> None:
    truth, logits, scores = case()
    only = GroundTruth(
        targets_NK=truth.targets_NK[:, :6],
        images=truth.images,
        label_ids=truth.label_ids[:6],
        names=truth.names[:6],
        seen_K=SEEN[:6],
    )
    output = ScorerOutput(scorer="clip", logits_NK=logits[:, :6], scores_NK=scores[:, :6])
    evaluation = evaluate_scores(facts(), only, [output], np.full(6, 0.5), num_examples=0)
    row = evaluation.scorers[0]
    assert row.novel is None and row.harmonic_mean is None and row.all is not None
    assert [found.group for found in evaluation.reliability] == ["seen"]
    assert evaluation.labels[0].examples.surest_right == ()


def test_the_record_survives_json() -> None:
    evaluation = evaluated()[0]
    text = evaluation.model_dump_json()
    assert "NaN" not in text and "Infinity" not in text
    assert Evaluation.model_validate_json(text) == evaluation
