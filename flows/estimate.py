"""What a tagging run would cost, from a sample of its first shard: `tag --dry-run`. Nothing is written."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel

from clipdecoder.clock import StageClock
from flows.features import stored_features
from flows.plan import TagPlan
from flows.reading import ShardReading, require_fingerprint
from flows.run import make_scorer, pending_shards
from flows.shard_job import Scorer, score_columns, score_features
from schemas.errors import ShardError
from storage.files import Folder
from storage.parts import write_features, write_samples, write_scores, write_tokens
from storage.patterns import ShardRef

SAMPLE_IMAGES = 256
_TAR_OVERHEAD = 1024  # bytes per image: the member's header, half a block of padding, and a side file's share


class TagEstimate(BaseModel):
    """What is to be done, how fast a sample went, and what follows from it."""

    run_id: str
    shards: int
    pending: int
    pending_bytes: int
    sampled: int = 0
    images_expected: int = 0
    images_per_second: float = 0.0  # end to end, as measured on the sample
    stage_images_per_second: dict[str, float] = {}
    limit: str | None = None  # the slowest stage
    hours: float = 0.0
    output_bytes: int = 0
    token_bytes_per_image: int | None = None  # of patch tokens that are to be kept
    more: list[TagEstimate] = []  # of the request's further runs

    def lines(self) -> list[str]:
        """Return the estimate as text."""
        return [*self._lines(), *(line for estimate in self.more for line in estimate.lines())]

    def _lines(self) -> list[str]:
        head = f"run {self.run_id}: {self.pending} of {self.shards} shards to do"
        if not self.sampled:
            return [head + ("; the first has no image to measure" if self.pending else "")]
        tokens = self.token_bytes_per_image
        stages = sorted(self.stage_images_per_second.items(), key=lambda item: item[1])
        return [
            f"{head}, about {self.images_expected:,} images in {self.pending_bytes / 1e9:.3f} GB",
            f"- measured on {self.sampled} images: {self.images_per_second:,.0f} images per second end to end",
            *(
                f"- {stage}: {rate:,.0f} images per second{' (the limit)' * (stage == self.limit)}"
                for stage, rate in stages
            ),
            f"- expect {self.hours:.2f} hours and {self.output_bytes / 1e6:,.1f} MB of output",
            *([] if tokens is None else [f"- {tokens:,} bytes of it are patch tokens, for each image"]),
        ]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One timed pass over the first images of a shard."""

    images: int
    image_bytes: int
    output_bytes: int
    token_bytes: int
    wall_seconds: float
    stage_seconds: dict[str, float]  # of wall time: decode is shared by its threads


def estimate_tag(plan: TagPlan) -> TagEstimate:
    """Measure the first images of the first readable shard to do, and say what the whole run would take.

    A shard whose features are stored is measured from them: its run reads no image.
    """
    estimate = _estimate(plan)
    return estimate.model_copy(update={"more": [_estimate(other) for other in plan.more]})


def _estimate(plan: TagPlan) -> TagEstimate:
    pending = [ref for ref in pending_shards(plan)[1] if ref.fingerprint is not None]
    estimate = TagEstimate(
        run_id=plan.record.run_id, shards=len(plan.shards), pending=len(pending), pending_bytes=_total_bytes(pending)
    )
    if not pending:
        return estimate
    scorer = make_scorer(plan)
    for ref in pending:
        with suppress(ShardError):
            _measure(plan, ref, scorer, plan.request.batch_size)  # a model's first batches are slow
            measured = _measure(plan, ref, scorer, SAMPLE_IMAGES)
            if measured.images:
                return _extrapolate(estimate, measured)
    return estimate


def _measure(plan: TagPlan, ref: ShardRef, scorer: Scorer, max_images: int) -> Measured:
    """Do everything to a shard's first images that a run does, writing to memory.

    Raises:
        ShardError: the shard cannot be read.
    """
    clock, started = StageClock(), time.perf_counter()
    wanted = plan.features(tokens=scorer.vocabulary.needs_tokens)
    features = stored_features(wanted, ref, clock)
    from_store = features is not None and (features.tokens_NTC is not None or not wanted.wants_tokens)
    if features is None or not from_store:
        reading = ShardReading(ref=ref, wanted=wanted, clock=clock, max_samples=max_images)
        features = reading.embed(scorer.encoder, require_fingerprint(ref))
    kept = score_features(plan, features, scorer, clock)
    memory = Folder(f"memory://estimate-{uuid.uuid4().hex}")
    token_bytes = 0
    with clock.stage("write"):
        parts = [
            write_samples(memory, "samples.parquet", features.rows),
            write_scores(memory, "scores.parquet", ref.shard, score_columns(kept, features, scorer.label_ids)),
        ]
        if not from_store:
            parts.append(write_features(memory, "features.parquet", features))
        if not from_store and wanted.store_tokens:
            parts.append(write_tokens(memory, "tokens.parquet", features))
            token_bytes = parts[-1].bytes
    memory.fs.rm(memory.root, recursive=True)
    return Measured(
        images=len(features.rows),
        image_bytes=sum(row.bytes for row in features.rows),
        output_bytes=sum(part.bytes for part in parts),
        token_bytes=token_bytes,
        wall_seconds=time.perf_counter() - started,
        stage_seconds=_wall_seconds(clock.seconds, plan.request.decode_threads),
    )


def _wall_seconds(seconds: dict[str, float], decode_threads: int) -> dict[str, float]:
    """Return seconds of wall time per stage: decoding is counted once per thread that does it."""
    threads = decode_threads or os.cpu_count() or 1
    return {stage: value / threads if stage == "decode" else value for stage, value in seconds.items()}


def _extrapolate(estimate: TagEstimate, measured: Measured) -> TagEstimate:
    images = round(estimate.pending_bytes / (measured.image_bytes / measured.images + _TAR_OVERHEAD))
    stages = {stage: measured.images / max(value, 1e-9) for stage, value in measured.stage_seconds.items()}
    return estimate.model_copy(
        update={
            "sampled": measured.images,
            "images_expected": images,
            "images_per_second": measured.images / measured.wall_seconds,
            "stage_images_per_second": stages,
            "limit": min(stages, key=lambda stage: stages[stage]),
            "hours": images * measured.wall_seconds / measured.images / 3600,
            "output_bytes": round(images * measured.output_bytes / measured.images),
            "token_bytes_per_image": round(measured.token_bytes / measured.images) or None,
        }
    )


def _total_bytes(refs: Sequence[ShardRef]) -> int:
    return sum(ref.fingerprint.size for ref in refs if ref.fingerprint is not None)
