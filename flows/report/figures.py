"""What a report says of a run: joined from its record, its shards' reports, and what the views answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from flows.tagging.stages import limit, total_queues, total_seconds
from schemas.errors import ConfigError, one_of
from schemas.manifest import ModelRecord, RunRecord, ShardReport
from schemas.report import (
    LabelFigures,
    ReportRequest,
    RunFacts,
    RunReport,
    ShardFigures,
    ShardTime,
    ShardTroubleFact,
    TimeFigures,
)
from schemas.sample import SampleStatus, ShardStatus
from storage.catalog import check_store, open_catalog, shown_model
from storage.files import Folder
from storage.labels import said_if_withdrawn
from storage.models import read_model, read_promotion
from storage.run_examples import labels_in_full
from storage.run_figures import (
    count_failures,
    count_labels,
    count_statuses,
    count_tags_per_picture,
    count_together,
)
from storage.runs import StoredRun, chosen_run, read_runs
from storage.taxonomies import read_taxonomy

_OF_A_KIND = 2  # labels shown where none is named: the most frequent, the rarest, novel ones
_TOGETHER = 16  # labels, the most frequent ones: more are no table that a person reads
_SLOWEST = 5
_TROUBLES = 10


def run_report(request: ReportRequest) -> RunReport:
    """Return the figures of a run. Reads the store, and no shard.

    Raises:
        StoreError: there is no store, no such run, or a file of it cannot be read.
        ConfigError: a label that is named is none of the run's.
    """
    folder = Folder(request.store)
    check_store(folder)
    runs = read_runs(folder)
    run = chosen_run(runs, request.run)
    with open_catalog(folder, run_id=run.record.run_id) as connection:
        labels = count_labels(connection, run.record)
        statuses = count_statuses(connection)
        chosen = _chosen(labels, request.labels, run.record.run_id)
        tags_per_picture = count_tags_per_picture(connection)
        scored = statuses.get(SampleStatus.OK, 0)
        return RunReport(
            run=_facts(folder, runs, run),
            shards=_shards(run),
            time=_time(run.reports),
            samples=sum(statuses.values()),
            statuses=statuses,
            shared_keys=run.manifest.shared_keys if run.manifest is not None else None,
            failures=tuple(count_failures(connection)),
            labels=tuple(labels),
            tags_per_picture={0: scored - sum(tags_per_picture.values()), **tags_per_picture},
            together=count_together(connection, [label.label_id for label in labels[:_TOGETHER] if label.tags]),
            chosen=labels_in_full(connection, folder, run, chosen, count=request.per_label),
        )


def _chosen(labels: Sequence[LabelFigures], named: Sequence[str] | None, run_id: str) -> list[str]:
    """Return the labels that are shown in full: those named, else a few of every kind."""
    known = [label.label_id for label in labels]
    if named is not None:
        unknown = [label_id for label_id in named if label_id not in known]
        if unknown:
            raise ConfigError(f"{one_of('label', unknown[0], known)}; these are what run {run_id} counts for now")
        return list(dict.fromkeys(named))
    tagged = [label.label_id for label in labels if label.tags] or known
    novel = [label.label_id for label in labels if label.tags and not label.seen]
    return list(dict.fromkeys([*tagged[:_OF_A_KIND], *tagged[-_OF_A_KIND:], *novel[:_OF_A_KIND]]))


def _facts(folder: Folder, runs: Sequence[StoredRun], run: StoredRun) -> RunFacts:
    record, model = run.record, read_model(folder, run.record.model_id)
    taxonomy = read_taxonomy(folder, record.taxonomy_digest).name
    same = record.model_dump(include=RunFacts.model_fields.keys() & RunRecord.model_fields.keys())
    return RunFacts(
        **same,
        **_model_facts(model),
        shown=shown_model(runs, read_promotion(folder)) == record.model_id,
        taxonomy=taxonomy,
        withdrawn=said_if_withdrawn(folder, taxonomy),
        scored_labels=len(record.vocabulary),
        finished_at=run.manifest.finished_at if run.manifest is not None else None,
    )


def _model_facts(model: ModelRecord) -> dict[str, str | int]:
    return {"model": model.name, "architecture": model.architecture, "seen_labels": len(model.seen_labels)}


def _shards(run: StoredRun) -> ShardFigures:
    troubled = [report for report in run.reports if report.status is not ShardStatus.OK]
    members = sum((Counter(report.members) for report in run.reports), Counter[str]())
    slowest = sorted(run.reports, key=_seconds, reverse=True)[:_SLOWEST]
    return ShardFigures(
        count=len(run.reports),
        before=sum(report.finished_at < run.record.asked_at for report in run.reports),
        members=dict(members),
        troubles=len(troubled),
        examples=tuple(
            ShardTroubleFact(shard=each.shard, status=each.status, error=each.error) for each in troubled[:_TROUBLES]
        ),
        slowest=tuple(
            ShardTime(shard=each.shard, samples=each.num_samples, seconds=round(_seconds(each), 3)) for each in slowest
        ),
    )


def _seconds(report: ShardReport) -> float:
    return (report.finished_at - report.started_at).total_seconds()


def _time(reports: Sequence[ShardReport]) -> TimeFigures:
    seconds, queues = total_seconds(reports), total_queues(reports)
    busy, decoded = busy_seconds(reports), sum(report.decoded for report in reports)
    return TimeFigures(
        stages={stage: round(seconds[stage], 3) for stage in sorted(seconds, key=lambda name: -seconds[name])},
        limit=limit(seconds, queues),
        queues=queues,
        busy_seconds=round(busy, 3),
        decoded=decoded,
        images_per_second=round(decoded / busy, 1) if decoded and busy else None,
    )


def busy_seconds(reports: Iterable[ShardReport]) -> float:
    """Return for how long some shard was worked on: runs stop and resume, and shards overlap."""
    busy, until = 0.0, None
    for report in sorted(reports, key=lambda report: report.started_at):
        begin = report.started_at if until is None else max(until, report.started_at)
        busy += max(0.0, (report.finished_at - begin).total_seconds())
        until = report.finished_at if until is None else max(until, report.finished_at)
    return busy
