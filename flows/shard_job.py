"""One shard from its tar to its report: read, embed, score, write. A plain function over plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from clipdecoder.clock import StageClock
from flows.features import shard_features
from flows.plan import TagPlan
from schemas.manifest import ShardReport
from schemas.sample import ShardStatus
from storage.files import Folder
from storage.parts import ScoreColumns, ShardFeatures, has_tokens, tokens_path, write_samples, write_scores
from storage.patterns import ShardRef
from storage.runs import finished_report, part_path, remove_report, write_report

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.scoring.scores import KeptScores, VocabularyScorer


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model with the vocabulary of one run, embedded once: what turns images into scores."""

    encoder: ImageEncoder
    vocabulary: VocabularyScorer
    label_ids: tuple[str, ...]


def tag_shard(plan: TagPlan, ref: ShardRef, scorer: Scorer) -> ShardReport:
    """Score one shard and write its parts, then its report. A shard that is done is only looked up.

    Raises:
        ShardError: the shard has no rows: it is missing, not a tar, or cannot be read.
        StoreError: the store cannot be written.
    """
    folder = Folder(plan.request.store)
    done = finished_report(folder, plan.record.run_id, ref)
    if done is not None and not needs_visit(plan, done):
        return done
    started, clock = datetime.now(UTC), StageClock()
    wanted = plan.features(tokens=scorer.vocabulary.needs_tokens)
    features, decoded = shard_features(wanted, ref, scorer.encoder, clock)
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


def needs_visit(plan: TagPlan, report: ShardReport) -> bool:
    """Whether a shard that is done is visited again: to retry what failed, or for patch tokens that are to be kept."""
    if plan.request.retry_failed and (report.num_failed > 0 or report.status is not ShardStatus.OK):
        return True
    if not plan.request.store_tokens:
        return False
    record, folder = plan.record, Folder(plan.request.store)
    path = tokens_path(record.encoder_id, record.dataset, report.shard)
    return not has_tokens(folder, path, report.fingerprint, record.max_pixels)


def score_features(plan: TagPlan, features: ShardFeatures, scorer: Scorer, clock: StageClock) -> KeptScores:
    """Return the scores that the run keeps of a shard."""
    from clipdecoder.scoring.scores import keep_scores

    record = plan.record
    with clock.stage("score"):
        return keep_scores(
            features.embeddings_ND, features.tokens_NTC, scorer.vocabulary, floor=record.floor, top_k=record.top_k
        )


def score_columns(kept: KeptScores, features: ShardFeatures, label_ids: tuple[str, ...]) -> ScoreColumns:
    """Name the samples by their ordinal in the shard: the model counts only those it saw."""
    return ScoreColumns(
        sample=features.ok_samples[kept.sample],
        label=kept.label,
        logit=kept.logit,
        score=kept.score,
        label_ids=label_ids,
    )
