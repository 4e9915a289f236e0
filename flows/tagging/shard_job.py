"""Shards from their tars to their reports: read, embedded, scored and written, many at a time, each by itself done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.tagging.features import FeatureKeeper
from flows.tagging.pending import needs_visit
from flows.tagging.pipeline import run_shards
from flows.tagging.plan import TagPlan
from flows.tagging.reading import ShardReading
from flows.tagging.shard_rows import Cells, ShardRows
from schemas.manifest import Part, QueueFacts, ShardReport
from schemas.sample import SampleRow, SampleStatus, ShardStatus
from storage.files import Folder
from storage.parts import write_samples
from storage.patterns import ShardRef
from storage.runs import finished_report, part_path, remove_report, write_report
from storage.sample_rows import count_statuses
from storage.score_parts import ScoreColumns, write_scores
from storage.tokens import TokenChunk

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import ImageEncoder
    from clipdecoder.scoring.scores import VocabularyScorer
    from clipdecoder.scoring.tagger import BatchTagger


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model with the vocabulary of one run, embedded once: what turns images into scores."""

    encoder: ImageEncoder
    vocabulary: VocabularyScorer
    label_ids: tuple[str, ...]
    tagger: BatchTagger

    def columns(self, cells: Cells) -> ScoreColumns:
        """Return kept scores as they are stored."""
        return ScoreColumns(
            sample=cells.sample_M,
            label=cells.label_M,
            logit=cells.logit_M,
            label_ids=self.label_ids,
            slope=self.vocabulary.maps.slope_K,
            intercept=self.vocabulary.maps.intercept_K,
        )


@dataclass(frozen=True, kw_only=True)
class ShardTrouble:
    """A shard that gave no rows, or not all of them."""

    shard: str
    url: str
    status: ShardStatus
    error: str | None


def trouble_of(report: ShardReport) -> ShardTrouble | None:
    """Return what is wrong with a shard that gave rows, such as that it ends early; None for a sound one."""
    if report.status is ShardStatus.OK:
        return None
    return ShardTrouble(shard=report.shard, url=report.url, status=report.status, error=report.error)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a run is tried out: on a few samples of each shard, writing elsewhere."""

    into: Folder
    max_samples: int


Statuses = Counter[SampleStatus]  # rows by status


def tag_shards(
    plan: TagPlan,
    refs: Sequence[ShardRef],
    scorer: Scorer,
    enough: Callable[[Statuses], bool],
    *,
    trial: Trial | None = None,
) -> Iterator[ShardReport | ShardTrouble]:
    """Score shards and write their parts, then their reports; yield each as it is done.

    A shard that is done is only looked up.

    Args:
        plan: the run.
        refs: its shards.
        scorer: its model and labels.
        enough: asked when all of a shard has come, with its rows by status: whether to take no more.
        trial: given where the run is only tried out.

    Raises:
        StoreError: the store cannot be written.
        RunError: the device failed.
    """
    wanted = plan.features(tokens=scorer.vocabulary.needs_tokens)
    sink = _TagSink(plan, scorer, enough, trial.into if trial else Folder(plan.request.store))
    readings = (
        ShardReading(ref=ref, wanted=wanted, max_samples=trial.max_samples)
        if trial
        else ShardReading(ref=ref, wanted=wanted, find_done=sink.find_done)
        for ref in refs
    )
    shards = (ShardRows(reading=reading, encoder=scorer.encoder, tagger=scorer.tagger) for reading in readings)
    return run_shards(shards, scorer.tagger, wanted, sink)


class _TagSink:
    """A `Sink` that writes all that a run keeps of its shards."""

    def __init__(self, plan: TagPlan, scorer: Scorer, enough: Callable[[Statuses], bool], folder: Folder) -> None:
        self._plan = plan
        self._scorer = scorer
        self._enough = enough
        self._folder = folder
        keeper = self._keeper = FeatureKeeper(self._folder)
        self.keep_tokens: Callable[[ShardRows, TokenChunk], None] = keeper.keep_tokens
        self.close: Callable[[], None] = keeper.close

    def find_done(self, ref: ShardRef) -> ShardReport | None:
        """Return the report of a shard that needs no visit."""
        done = finished_report(self._folder, self._plan.record.run_id, ref)
        return done if done is not None and not needs_visit(self._plan, done) else None

    def enough(self, rows: ShardRows) -> bool:
        """Ask with the shard's rows by status."""
        reading = rows.reading
        if reading.failed is not None:
            return False
        return self._enough(Counter(reading.done.statuses) if reading.done is not None else rows.statuses())

    def finish(self, rows: ShardRows, queues: dict[str, QueueFacts]) -> ShardReport | ShardTrouble:
        """Write what is known of the shard, its report last."""
        reading = rows.reading
        if reading.done is not None:
            return reading.done
        if reading.failed is not None:
            self._keeper.drop(rows)
            ref, error = reading.ref, reading.failed
            return ShardTrouble(shard=ref.shard, url=ref.url, status=error.status, error=str(error))
        features = self._keeper.finish(rows)
        with reading.clock.stage("write"):
            parts = self._write_parts(reading.ref.shard, features.rows, rows.kept())
        report = ShardReport(
            run_id=self._plan.record.run_id,
            shard=reading.ref.shard,
            url=reading.ref.url,
            fingerprint=features.facts.fingerprint,
            status=features.facts.status,
            error=features.facts.error,
            statuses=dict(count_statuses(features.rows)),
            members=features.facts.members,
            decoded=rows.decoded,
            lenient=rows.lenient,
            parts=parts,
            seconds=reading.clock.seconds,
            queues=queues,
            started_at=reading.started_at,
            finished_at=datetime.now(UTC),
        )
        write_report(self._folder, report)
        return report

    def _write_parts(self, shard: str, rows: Sequence[SampleRow], cells: Cells) -> dict[str, Part]:
        run_id = self._plan.record.run_id
        remove_report(self._folder, run_id, shard)
        samples = write_samples(self._folder, part_path(run_id, "samples", shard), rows)
        columns = self._scorer.columns(cells)
        return {
            "samples": samples,
            "scores": write_scores(self._folder, part_path(run_id, "scores", shard), shard, columns),
        }
