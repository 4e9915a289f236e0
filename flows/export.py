"""`export`: from a query to shards of their own, or to labels, with the pictures or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from schemas.errors import RequestError, one_of
from schemas.export import ExportRecord, ExportRequest, ExportSummary, Format, SourceShard
from schemas.manifest import ShardReport
from storage.catalog import open_catalog
from storage.exports.labels import LabelsTarget, parse_labels_target, write_labels
from storage.exports.selection import Selection, select_samples
from storage.exports.shards import MANIFEST, export_shards
from storage.files import Folder
from storage.labels import current_taxonomies, why_unlabelled
from storage.pack import ShardTarget, parse_target
from storage.runs import StoredRun, chosen_run, read_runs
from storage.visibility import current_reports

Watch = Callable[[int, int], None]  # shards done, of how many
Note = Callable[[str], None]  # what a person should know beside the summary

_BY_SUFFIX: dict[str, Format] = {".tar": "webdataset", ".csv": "csv", ".parquet": "parquet", ".json": "coco"}


def format_of(to: str) -> Format:
    """Return the format that the suffix of `to` says.

    Raises:
        RequestError: it says none that is known.
    """
    suffix = to[to.rfind(".") :].lower()
    if suffix not in _BY_SUFFIX:
        raise RequestError(f"--to {to!r}: {one_of('suffix', suffix, _BY_SUFFIX)}; or choose with --format")
    return _BY_SUFFIX[suffix]


def run_export(
    request: ExportRequest, watch: Watch = lambda done, total: None, note: Note = lambda line: None
) -> ExportSummary:
    """Export what a query chooses, and return what was written and what could not be.

    Args:
        request: what to export.
        watch: told how many shards are done.
        note: told why there are no tags, where their taxonomies were withdrawn.

    Raises:
        RequestError: the query, the target or the store is not right. Nothing was touched.
        RunError: the target could not be written any more; the same request goes on.
    """
    if request.model is not None and request.run is not None:
        raise RequestError(f"--run {request.run} has the tags of its own model; leave out --model {request.model}")
    shards = request.format == "webdataset"
    target = parse_target(request.to) if shards else parse_labels_target(request.to, request.format)
    with open_catalog(request.store, model_id=request.model, run_id=request.run) as connection:
        for line in why_unlabelled(connection, Folder(request.store), request.run):
            note(f"no label and no tag is shown: {line}")
        selection = select_samples(connection, request.sql)
    if isinstance(target, LabelsTarget):
        return _labels_summary(request, target, selection, watch)
    return _shards_summary(request, target, selection, watch)


def _labels_summary(request: ExportRequest, target: LabelsTarget, selection: Selection, watch: Watch) -> ExportSummary:
    sources = None
    if request.pictures:
        sources = _sources(selection, current_reports(_runs(request, Folder(request.store))))
    written = write_labels(target, selection, request.format, sources, watch)
    rows = written.selection.rows
    return ExportSummary(
        format=request.format,
        to=request.to,
        model_id=selection.model_id,
        samples=rows.num_rows,
        tags=sum(map(len, rows["tags"].to_pylist())),
        files=written.files,
        pictures=written.pictures,
        manifest=None,
        kept=0,
        renamed=0,
        untagged=0,
        missing=written.missing,
    )


def _shards_summary(request: ExportRequest, target: ShardTarget, selection: Selection, watch: Watch) -> ExportSummary:
    folder = Folder(request.store)
    record = _record(request, selection, folder, _runs(request, folder))
    written = export_shards(target, record, selection.rows, watch)
    shards = written.manifest.shards
    place = target.folder.url.rstrip("/")
    return ExportSummary(
        format=request.format,
        to=request.to,
        model_id=selection.model_id,
        samples=sum(shard.samples for shard in shards),
        tags=sum(shard.tags for shard in shards),
        files=tuple(f"{place}/{shard.name}" for shard in shards),
        manifest=f"{place}/{MANIFEST}",
        kept=written.kept,
        renamed=selection.renamed,
        untagged=sum(len(shard.untagged) for shard in shards),
        missing=written.manifest.missing,
    )


def _runs(request: ExportRequest, folder: Folder) -> list[StoredRun]:
    """Return the runs that the query saw."""
    runs = read_runs(folder)
    return runs if request.run is None else [chosen_run(runs, request.run)]


def _record(request: ExportRequest, selection: Selection, folder: Folder, runs: list[StoredRun]) -> ExportRecord:
    reports = current_reports(runs)
    taxonomies = current_taxonomies(folder, runs)
    return ExportRecord(
        query=request.sql,
        model_id=selection.model_id,
        run_id=runs[0].record.run_id if request.run is not None else None,
        taxonomy_digests={
            dataset: tuple(taxonomy.digest for taxonomy in taxonomies[dataset]) for dataset in selection.datasets
        },
        labels=selection.labels,
        samples_per_shard=request.samples_per_shard,
        samples=selection.rows.num_rows,
        renamed=selection.renamed,
        digest=selection.digest,
        sources=_sources(selection, reports),
    )


def _sources(selection: Selection, reports: Mapping[tuple[str, str], ShardReport]) -> tuple[SourceShard, ...]:
    """Return the shards that chosen samples are read from."""
    return tuple(
        SourceShard(
            dataset=dataset,
            shard=shard,
            url=reports[dataset, shard].url,
            fingerprint=reports[dataset, shard].fingerprint,
            samples=count,
        )
        for (dataset, shard), count in selection.places.items()
    )
