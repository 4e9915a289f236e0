"""One shard from its tar to its report: read, embed, score, write. A plain function over plain data.

Shapes: N samples that could be decoded, K labels, D embedding width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from flows.plan import TagPlan
from flows.reading import ShardReading, require_fingerprint
from schemas.manifest import ShardReport
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from storage.files import Folder
from storage.parts import (
    ScoreColumns,
    ShardFeatures,
    features_path,
    read_features,
    write_features,
    write_samples,
    write_scores,
)
from storage.patterns import ShardRef
from storage.runs import finished_report, part_path, remove_report, write_report

if TYPE_CHECKING:
    from clipdecoder.model import ClipModel
    from clipdecoder.scores import KeptScores


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model with the vocabulary of one run, embedded once: what turns images into scores."""

    model: ClipModel
    queries_KD: NDArray[np.float32]
    label_ids: tuple[str, ...]


def tag_shard(plan: TagPlan, ref: ShardRef, scorer: Scorer) -> ShardReport:
    """Score one shard and write its parts, then its report. A shard that is done is only looked up.

    Raises:
        ShardError: the shard has no rows: it is missing, not a tar, or cannot be read.
        StoreError: the store cannot be written.
    """
    folder = Folder(plan.request.store)
    done = finished_report(folder, plan.record.run_id, ref)
    if done is not None and not (plan.request.retry_failed and needs_retry(done)):
        return done
    started, clock = datetime.now(UTC), StageClock()
    features, decoded = shard_features(plan, ref, scorer.model, clock)
    kept = score_features(plan, features, scorer, clock)
    run_id, shard = plan.record.run_id, ref.shard
    with clock.stage("write"):
        remove_report(folder, run_id, shard)
        parts = {
            "samples": write_samples(folder, part_path(run_id, "samples", shard), features.rows),
            "scores": write_scores(
                folder, part_path(run_id, "scores", shard), shard, score_columns(kept, features, scorer.label_ids)
            ),
        }
    report = ShardReport(
        run_id=run_id,
        shard=shard,
        url=ref.url,
        fingerprint=features.facts.fingerprint,
        status=features.facts.status,
        error=features.facts.error,
        statuses=dict(Counter(row.status for row in features.rows)),
        members=features.facts.members,
        decoded=decoded,
        parts=parts,
        seconds=clock.seconds,
        started_at=started,
        finished_at=datetime.now(UTC),
    )
    write_report(folder, report)
    return report


def needs_retry(report: ShardReport) -> bool:
    """Whether `--retry-failed` visits this shard again."""
    return report.num_failed > 0 or report.status is not ShardStatus.OK


def shard_features(plan: TagPlan, ref: ShardRef, model: ClipModel, clock: StageClock) -> tuple[ShardFeatures, int]:
    """Return a shard's features and how many images were decoded for them: none, if the store has them already.

    Features that are made are stored at once, so that the next vocabulary needs no image.
    """
    stored = stored_features(plan, ref, clock)
    retry = plan.request.retry_failed and stored is not None and _has_failures(stored)
    if stored is not None and not retry:
        return stored, 0
    reading = ShardReading(ref=ref, plan=plan, clock=clock, known=_good_samples(stored))
    features = reading.embed(model, require_fingerprint(ref))
    with clock.stage("write"):
        write_features(Folder(plan.request.store), _features_path(plan, ref), features)
    return features, reading.decoded


def stored_features(plan: TagPlan, ref: ShardRef, clock: StageClock) -> ShardFeatures | None:
    """Return the shard's features if the store has them, of the same bytes and limits.

    Raises:
        ShardError: the shard is not there.
    """
    fingerprint = require_fingerprint(ref)
    with clock.stage("features"):
        folder = Folder(plan.request.store)
        return read_features(folder, _features_path(plan, ref), fingerprint, plan.request.max_pixels)


def _features_path(plan: TagPlan, ref: ShardRef) -> str:
    return features_path(plan.record.encoder_id, plan.record.dataset, ref.shard)


def score_features(plan: TagPlan, features: ShardFeatures, scorer: Scorer, clock: StageClock) -> KeptScores:
    """Return the scores that the run keeps of a shard."""
    from clipdecoder.scores import score_embeddings

    record = plan.record
    with clock.stage("score"):
        return score_embeddings(
            features.embeddings_ND, scorer.queries_KD, plan.model, floor=record.floor, top_k=record.top_k
        )


def _has_failures(features: ShardFeatures) -> bool:
    return len(features.ok_samples) < len(features.rows) or features.facts.status is not ShardStatus.OK


def _good_samples(stored: ShardFeatures | None) -> dict[int, tuple[SampleRow, NDArray[np.float16]]]:
    """Return the rows and embeddings of the samples that need no second visit, by ordinal."""
    if stored is None:
        return {}
    good = [row for row in stored.rows if row.status is SampleStatus.OK]
    return {row.sample: (row, embedding) for row, embedding in zip(good, stored.embeddings_ND, strict=True)}


def score_columns(kept: KeptScores, features: ShardFeatures, label_ids: tuple[str, ...]) -> ScoreColumns:
    """Name the samples by their ordinal in the shard: the model counts only those it saw."""
    return ScoreColumns(
        sample=features.ok_samples[kept.sample],
        label=kept.label,
        logit=kept.logit,
        score=kept.score,
        label_ids=label_ids,
    )
