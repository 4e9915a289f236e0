"""A tagging run from its plan to its manifest, whoever runs its groups of shards."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from flows.tagging.outcomes import GroupOutcome, RunOutcome, count_statuses, exceeds_budget
from flows.tagging.pending import pending_shards
from flows.tagging.plan import TagPlan, begin_run, load_planned_model
from flows.tagging.shard_job import Scorer, Statuses, tag_shards
from flows.tagging.stages import total_seconds
from schemas.errors import RunError, StoreError
from schemas.manifest import RunManifest, ShardReport
from schemas.sample import SampleStatus
from schemas.taxonomy import VocabularyLabel
from storage.files import Folder
from storage.keys import KnownKeys, shared_keys
from storage.patterns import ShardRef
from storage.runs import read_reports, read_run, reopen_run, write_manifest

if TYPE_CHECKING:
    from flows.models import Model
    from schemas.checkpoint import Scorer as ScorerName

_GROUPS_TO_SEE = 16  # that many steps are progress enough; at the end of each the device waits for a moment
_MAX_GROUPS = 1000  # thousands of tasks overload an orchestrator
_NONE: Statuses = Counter()
_READERS = 16  # looking at a file of an object store is a round trip


Groups = Sequence[tuple[ShardRef, ...]]


class Stop(Protocol):
    """Whether a run is to begin nothing more."""

    def __call__(self, ahead: Statuses = _NONE) -> bool:
        """Answer, given the rows by status of shards whose outcome is yet to be yielded."""


# Runs groups of shards and yields the outcome of each, or of some of its shards, as it ends. Once `stop()` is true it
# begins no further group, and still yields those that are running.
Execute = Callable[[TagPlan, Groups, Stop], Iterator[GroupOutcome]]
Progress = Callable[[RunOutcome], None]


def run_tag(plan: TagPlan, execute: Execute, progress: Progress = lambda outcome: None) -> RunOutcome:
    """Carry out a plan: skip what is done, run the rest in groups, write the manifest if nothing is missing.

    Raises:
        StoreError: the store cannot be written; nothing was done.
        RunError: it could be, and then no longer: the disk is full, the network is gone.
    """
    folder = Folder(plan.request.store)
    begin_run(plan)
    outcome = RunOutcome(plan=plan, resumed={})
    try:
        if plan.vocabulary:
            outcome = _carry_out(plan, folder, execute, progress)
        for other in plan.more:
            if outcome.over_budget:
                return outcome
            begin_run(other)
            outcome.more.append(_carry_out(other, folder, execute, progress))
        close_runs(folder, plan.unfinished)
    except StoreError as error:
        raise RunError(f"the run stopped; what is done stays done, and the same command goes on: {error}") from error
    return outcome


def _carry_out(plan: TagPlan, folder: Folder, execute: Execute, progress: Progress) -> RunOutcome:
    started = time.perf_counter()
    done, pending = pending_shards(plan)
    if pending:
        reopen_run(folder, plan.record.run_id)
    again = {ref.shard for ref in pending}
    resumed = {shard: report for shard, report in done.items() if shard not in again}
    outcome = RunOutcome(plan=plan, resumed=resumed)
    progress(outcome)
    outcome.judge()

    def stop(ahead: Statuses = _NONE) -> bool:
        return outcome.over_budget or exceeds_budget(outcome.statuses + ahead, plan.request.max_bad)

    for group in execute(plan, group_shards(pending, plan.request.shards_per_task), stop):
        outcome.add(group)
        progress(outcome)
    outcome.judge(at_end=True)
    if outcome.finished:
        _finish(folder, outcome)
    outcome.wall_seconds = time.perf_counter() - started
    return outcome


def run_tag_here(plan: TagPlan, progress: Progress = lambda outcome: None) -> RunOutcome:
    """Carry out a plan without an orchestrator: in this process, or in one for each of several devices."""
    from flows.tagging.processes import execute_on_all

    return run_tag(plan, partial(execute_on_all, otherwise=execute_here), progress)


def tag_group(plan: TagPlan, refs: Sequence[ShardRef]) -> GroupOutcome:
    """Tag some shards. A bad shard is an entry in the outcome; the others go on."""
    outcome, statuses = GroupOutcome(), Counter[SampleStatus]()

    def enough(more: Statuses) -> bool:
        statuses.update(more)
        return exceeds_budget(statuses, plan.request.max_bad)

    for done in tag_shards(plan, refs, make_scorer(plan), enough):
        outcome.add(done)
    return outcome


def execute_here(plan: TagPlan, groups: Groups, stop: Stop) -> Iterator[GroupOutcome]:
    """Run all groups as one, without an orchestrator, and yield each shard's outcome; see `Execute`."""
    refs = [ref for group in groups for ref in group]
    if stop() or not refs:
        return
    ahead: Statuses = Counter()

    def enough(more: Statuses) -> bool:
        ahead.update(more)
        return stop(ahead)

    for done in tag_shards(plan, refs, make_scorer(plan), enough):
        outcome = GroupOutcome()
        outcome.add(done)
        ahead.subtract(count_statuses(outcome.reports))
        yield outcome


def make_scorer(plan: TagPlan) -> Scorer:
    """Return the model with the run's vocabulary, which is embedded once per process."""
    record = plan.record
    keeping = (record.floor, record.top_k, plan.request.store_tokens)
    return _embed_vocabulary(load_planned_model(plan), plan.vocabulary, record.scorer, keeping)


@lru_cache(maxsize=2)
def _embed_vocabulary(
    model: Model, vocabulary: tuple[VocabularyLabel, ...], scorer: ScorerName, keeping: tuple[float, int, bool]
) -> Scorer:
    from clipdecoder.scoring.tagger import BatchTagger

    floor, top_k, tokens = keeping
    encoder, scores = model.encoders.image, model.scorer(vocabulary, scorer)
    return Scorer(
        encoder=encoder,
        vocabulary=scores,
        label_ids=tuple(label.label_id for label in vocabulary),
        tagger=BatchTagger(encoder, scores, floor=floor, top_k=top_k, tokens=tokens),
    )


def group_shards(pending: Sequence[ShardRef], shards_per_task: int) -> Groups:
    """Share shards out to groups: small ones to see progress, larger ones where they would be too many."""
    for_progress = min(shards_per_task, math.ceil(len(pending) / _GROUPS_TO_SEE))
    size = max(1, for_progress, math.ceil(len(pending) / _MAX_GROUPS))
    return [tuple(pending[start : start + size]) for start in range(0, len(pending), size)]


def _finish(folder: Folder, outcome: RunOutcome) -> None:
    """Write the manifest: the run is complete. One that is there already, with nothing done since, stays as it is.

    It is made of the reports in the store, not of those in memory: rows of a shard that is no longer under the
    pattern stay rows, and another process may have done a changed shard meanwhile, or may be doing it now. In that case
    the manifest is left for it to write.
    """
    run_id = outcome.plan.record.run_id
    manifest = read_run(folder, run_id).manifest
    if manifest is None or outcome.reports:
        reports = read_reports(folder, run_id)
        if not {ref.shard for ref in outcome.plan.shards} <= {report.shard for report in reports}:
            return
        manifest = _complete(folder, run_id, reports, outcome.plan.known_keys)
    outcome.shared_keys = manifest.shared_keys


def close_runs(folder: Folder, run_ids: Iterable[str]) -> None:
    """Write the manifests of partial runs that nobody will ask for again, made of the reports that they have.

    Such a run is about the shards that lacked its labels. If it was killed before its manifest was written, or if the
    taxonomy changed before it came to all of them, no shard lacks its labels any more.
    """
    for run_id in run_ids:
        run = read_run(folder, run_id)
        if run.manifest is None:
            _complete(folder, run_id, run.reports)


def _complete(
    folder: Folder, run_id: str, reports: tuple[ShardReport, ...], known: KnownKeys | None = None
) -> RunManifest:
    manifest = RunManifest(
        run_id=run_id,
        shards=reports,
        statuses=dict(count_statuses(reports)),
        seconds=total_seconds(reports),
        shared_keys=shared_keys(folder, reports, known),
        finished_at=datetime.now(UTC),
    )
    write_manifest(folder, manifest)
    return manifest
