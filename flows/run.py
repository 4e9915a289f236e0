"""A tagging run from its plan to its manifest, whoever runs its groups of shards."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from flows.plan import TagPlan, begin_run, load_planned_model
from flows.shard_job import Scorer, ShardTrouble, Statuses, needs_visit, tag_shards
from flows.stages import total_seconds
from schemas.errors import RunError, StoreError
from schemas.manifest import RunManifest, ShardReport
from schemas.sample import SampleStatus, ShardStatus
from schemas.taxonomy import VocabularyLabel
from storage.files import Folder
from storage.keys import count_shared_keys
from storage.patterns import ShardRef
from storage.runs import finished_reports, read_reports, read_run, remove_manifest, write_manifest

if TYPE_CHECKING:
    from flows.models import Model
    from schemas.checkpoint import Scorer as ScorerName

_GROUPS_TO_SEE = 16  # that many steps are progress enough; at the end of each the device waits for a moment
_MAX_GROUPS = 1000  # thousands of tasks overload an orchestrator
_NONE: Statuses = Counter()
# A budget is judged on no fewer samples than this while the run goes on; at its end, on however many there are.
_BUDGET_SAMPLES = 100
_READERS = 16  # looking at a file of an object store is a round trip


@dataclass(kw_only=True)
class GroupOutcome:
    """What became of a group of shards."""

    reports: list[ShardReport] = field(default_factory=list)
    failures: list[ShardTrouble] = field(default_factory=list)

    def add(self, done: ShardReport | ShardTrouble) -> None:
        """Add what became of one shard."""
        if isinstance(done, ShardReport):
            self.reports.append(done)
        else:
            self.failures.append(done)


@dataclass(kw_only=True)
class RunOutcome:
    """What became of a run: `reports` of this time, and `resumed` ones of shards that needed no visit."""

    plan: TagPlan
    resumed: dict[str, ShardReport]
    reports: dict[str, ShardReport] = field(default_factory=dict)
    failures: list[ShardTrouble] = field(default_factory=list)
    shared_keys: int = 0
    over_budget: bool = False
    wall_seconds: float = 0.0
    more: list[RunOutcome] = field(default_factory=list)  # of the plan's further runs

    @property
    def all_reports(self) -> list[ShardReport]:
        """The report of every planned shard that is done, by shard."""
        return [report for _, report in sorted((self.resumed | self.reports).items())]

    @property
    def statuses(self) -> Counter[SampleStatus]:
        """Rows by status over all planned shards that are done."""
        return count_statuses([*self.resumed.values(), *self.reports.values()])

    @property
    def finished(self) -> bool:
        """Whether every shard of this run has its rows."""
        return len(self.all_reports) == len(self.plan.shards)

    @property
    def complete(self) -> bool:
        """Whether every planned shard has its rows, in the plan's further runs too."""
        more = len(self.more) == len(self.plan.more) and all(outcome.complete for outcome in self.more)
        return self.finished and more

    @property
    def whole(self) -> bool:
        """Whether nothing is left to complain of: complete, no shard truncated, within budget, something scored."""
        samples, ok = self.statuses.total(), self.statuses[SampleStatus.OK]
        untruncated = all(report.status is ShardStatus.OK for report in self.all_reports)
        sound = untruncated and not self.over_budget and (ok > 0 or samples == 0)
        return self.complete and sound and all(outcome.whole for outcome in self.more)

    def judge(self, *, at_end: bool = False) -> None:
        """Note whether the run is over its budget of failures."""
        self.over_budget |= exceeds_budget(self.statuses, self.plan.request.max_bad, at_end=at_end)


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
    again = {ref.shard for ref in pending}
    resumed = {shard: report for shard, report in done.items() if shard not in again}
    outcome = RunOutcome(plan=plan, resumed=resumed)
    progress(outcome)
    if pending:
        remove_manifest(folder, plan.record.run_id)
    outcome.judge()

    def stop(ahead: Statuses = _NONE) -> bool:
        return outcome.over_budget or exceeds_budget(outcome.statuses + ahead, plan.request.max_bad)

    for group in execute(plan, group_shards(pending, plan.request.shards_per_task), stop):
        outcome.reports |= {report.shard: report for report in group.reports}
        outcome.failures += group.failures
        outcome.judge()
        progress(outcome)
    outcome.judge(at_end=True)
    if outcome.finished:
        _finish(folder, outcome)
    outcome.wall_seconds = time.perf_counter() - started
    return outcome


def run_tag_here(plan: TagPlan, progress: Progress = lambda outcome: None) -> RunOutcome:
    """Carry out a plan without an orchestrator: in this process, or in one for each of several devices."""
    from flows.processes import execute_on_all

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


def count_statuses(reports: Iterable[ShardReport]) -> Counter[SampleStatus]:
    """Return the rows by status of several shards together."""
    statuses: Counter[SampleStatus] = Counter()
    for report in reports:
        statuses.update(report.statuses)
    return statuses


def exceeds_budget(statuses: Counter[SampleStatus], max_bad: float | None, *, at_end: bool = False) -> bool:
    """Whether the share of failed samples is above what the request allows."""
    samples = statuses.total()
    if max_bad is None or samples == 0 or (samples < _BUDGET_SAMPLES and not at_end):
        return False
    return (samples - statuses[SampleStatus.OK]) / samples > max_bad


def pending_shards(plan: TagPlan) -> tuple[dict[str, ShardReport], list[ShardRef]]:
    """Return the reports of the shards that are done, by shard, and the shards that are to be visited."""
    done = finished_reports(Folder(plan.request.store), plan.record.run_id, plan.shards)
    again: set[str] = set()
    if plan.request.retry_failed or plan.request.store_tokens:
        with ThreadPoolExecutor(_READERS) as pool:
            visits = pool.map(lambda report: needs_visit(plan, report), done.values())
            again = {shard for shard, visit in zip(done, visits, strict=True) if visit}
    return done, [ref for ref in plan.shards if ref.shard not in done or ref.shard in again]


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
        manifest = _complete(folder, run_id, reports)
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


def _complete(folder: Folder, run_id: str, reports: tuple[ShardReport, ...]) -> RunManifest:
    manifest = RunManifest(
        run_id=run_id,
        shards=reports,
        statuses=dict(count_statuses(reports)),
        seconds=total_seconds(reports),
        shared_keys=count_shared_keys(folder, [report.parts["samples"] for report in reports]),
        finished_at=datetime.now(UTC),
    )
    write_manifest(folder, manifest)
    return manifest
