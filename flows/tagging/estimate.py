"""What a tagging run would cost, from a sample of its first shard: `tag --dry-run`. Nothing is written."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from flows.tagging.batch_sizes import choose_batch_size
from flows.tagging.pending import pending_shards
from flows.tagging.plan import TagPlan
from flows.tagging.run import make_scorer
from flows.tagging.shard_job import Scorer, ShardTrouble, Trial, tag_shards, trouble_of
from flows.tagging.stages import limit
from schemas.counts import counted
from schemas.manifest import ShardReport
from schemas.sample import ShardStatus
from storage.files import Folder
from storage.parts import count_image_bytes
from storage.patterns import ShardRef

SAMPLE_IMAGES = 256
_NAMED = 10
_TAR_OVERHEAD = 1024  # bytes per image: the member's header, half a block of padding, and a side file's share


class TagEstimate(BaseModel):
    """What is to be done, how fast a sample went, and what follows from it."""

    run_id: str
    shards: int
    pending: int
    pending_bytes: int
    troubles: list[ShardTrouble] = []  # shards that are not there, or that a look at their first images found broken
    opened: int = 0  # shards of which something was read
    sampled: int = 0
    images_expected: int = 0
    images_per_second: float = 0.0  # end to end, as measured on the sample
    stage_images_per_second: dict[str, float] = {}
    limit: str | None = None  # the stage that had the least idle time, e.g. "decode-bound: 4 threads, 96 % busy"
    hours: float = 0.0
    output_bytes: int = 0
    token_bytes_per_image: int | None = None  # of patch tokens that are to be kept
    more: list[TagEstimate] = []  # of the request's further runs

    def lines(self) -> list[str]:
        """Return the estimate as text."""
        return [*self._lines(), *(line for estimate in self.more for line in estimate.lines())]

    def _lines(self) -> list[str]:
        head = f"run {self.run_id}: {self.pending} of {self.shards} shards to do"
        broken = [f"- shard {each.shard}: {each.status}: {each.error}" for each in self.troubles[:_NAMED]]
        if len(self.troubles) > _NAMED:
            broken.append(f"- and {len(self.troubles) - _NAMED} more such shards")
        if not self.sampled:
            return [head + ("; none has an image to measure" if self.pending else ""), *broken]
        tokens = self.token_bytes_per_image
        stages = sorted(self.stage_images_per_second.items(), key=lambda item: item[1])
        return [
            f"{head}, about {counted(self.images_expected, 'image')} in {self.pending_bytes / 1e9:.3f} GB",
            f"- measured on {counted(self.sampled, 'image')}: {self.images_per_second:,.0f} images per "
            "second end to end",
            *(f"- {stage}: {rate:,.0f} images per second" for stage, rate in stages),
            *([] if self.limit is None else [f"- {self.limit}"]),
            f"- expect {self.hours:.2f} hours and {self.output_bytes / 1e6:,.1f} MB of output",
            *([] if tokens is None else [f"- {tokens:,} bytes of it are patch tokens, for each image"]),
            *broken,
            *self._unseen(),
        ]

    def _unseen(self) -> list[str]:
        """Say how much of the run was not looked at: a broken shard shows when it is read, and costs its own task."""
        unseen = self.pending - self.opened
        return [f"- {counted(unseen, 'shard')} not opened: what is broken there shows in the run"] if unseen else []


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One timed pass over the first images of a shard."""

    images: int
    image_bytes: int
    output_bytes: int
    token_bytes: int
    wall_seconds: float
    stage_seconds: dict[str, float]  # of wall time: decode is shared by its threads
    limit: str | None
    trouble: ShardTrouble | None  # the shard's, if it ends before so many images


def estimate_tag(plan: TagPlan) -> TagEstimate:
    """Measure the first images of the first readable shard to do, and say what the whole run would take.

    A shard whose features are stored is measured from them: its run reads no image.
    """
    estimate = _estimate(plan)
    return estimate.model_copy(update={"more": [_estimate(other) for other in plan.more]})


def _estimate(plan: TagPlan) -> TagEstimate:
    to_do = pending_shards(plan)[1]
    pending = [ref for ref in to_do if ref.fingerprint is not None]
    estimate = TagEstimate(
        run_id=plan.record.run_id,
        shards=len(plan.shards),
        pending=len(pending),
        pending_bytes=_total_bytes(pending),
        troubles=[_missing(ref) for ref in to_do if ref.fingerprint is None],
    )
    if not pending:
        return estimate
    scorer = make_scorer(plan)
    for ref in pending:
        estimate.opened += 1
        # A model's first batches are slow.
        warm = _measure(plan, ref, scorer, choose_batch_size(plan.request.batch_size, scorer.encoder))
        measured = _measure(plan, ref, scorer, SAMPLE_IMAGES) if isinstance(warm, Measured) else warm
        if isinstance(measured, ShardTrouble):
            estimate.troubles.append(measured)
            continue
        if measured.trouble is not None:
            estimate.troubles.append(measured.trouble)
        if measured.images:
            return _extrapolate(estimate, measured)
    return estimate


def _missing(ref: ShardRef) -> ShardTrouble:
    return ShardTrouble(shard=ref.shard, url=ref.url, status=ShardStatus.MISSING, error=f"{ref.url} is not there")


def _measure(plan: TagPlan, ref: ShardRef, scorer: Scorer, max_images: int) -> Measured | ShardTrouble:
    """Do everything to a shard's first images that a run does, writing to memory, unless it cannot be read."""
    memory, started = Folder(f"memory://estimate-{uuid.uuid4().hex}"), time.perf_counter()
    trial = Trial(into=memory, max_samples=max_images)
    [report] = tag_shards(plan, [ref], scorer, lambda statuses: False, trial=trial)
    wall_seconds = time.perf_counter() - started
    if isinstance(report, ShardTrouble):
        return report
    sizes = memory.sizes("", ".parquet")
    measured = Measured(
        images=report.num_samples,
        image_bytes=count_image_bytes(memory, report.parts["samples"]),
        output_bytes=sum(sizes.values()),
        token_bytes=sum(size for name, size in sizes.items() if name.startswith("tokens/")),
        wall_seconds=wall_seconds,
        stage_seconds=_wall_seconds(report),
        limit=limit(report.seconds, report.queues),
        trouble=trouble_of(report),
    )
    memory.fs.rm(memory.root, recursive=True)
    return measured


def _wall_seconds(report: ShardReport) -> dict[str, float]:
    """Return seconds of wall time per stage: decoding is counted once per thread that does it."""
    threads = report.queues["files"].threads
    return {stage: value / threads if stage == "decode" else value for stage, value in report.seconds.items()}


def _extrapolate(estimate: TagEstimate, measured: Measured) -> TagEstimate:
    expected = round(estimate.pending_bytes / (measured.image_bytes / measured.images + _TAR_OVERHEAD))
    images = max(expected, measured.images)
    stages = {stage: measured.images / max(value, 1e-9) for stage, value in measured.stage_seconds.items()}
    return estimate.model_copy(
        update={
            "sampled": measured.images,
            "images_expected": images,
            "images_per_second": measured.images / measured.wall_seconds,
            "stage_images_per_second": stages,
            "limit": measured.limit,
            "hours": images * measured.wall_seconds / measured.images / 3600,
            "output_bytes": round(images * measured.output_bytes / measured.images),
            "token_bytes_per_image": round(measured.token_bytes / measured.images) or None,
        }
    )


def _total_bytes(refs: Sequence[ShardRef]) -> int:
    return sum(ref.fingerprint.size for ref in refs if ref.fingerprint is not None)
