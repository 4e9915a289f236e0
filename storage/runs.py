"""Runs on disk: the record first, a report per shard, the manifest last.

A shard is done when its report is there, is about the same bytes, and its parts have the sizes it names. A run is
complete when its manifest is there. Nothing else is remembered anywhere, so the same command resumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import ValidationError

from schemas.errors import StoreError, one_of
from schemas.manifest import SCORE_LAYOUT, RunManifest, RunRecord, ShardReport
from storage.files import Folder, part_name
from storage.patterns import ShardRef
from storage.records import find_json, read_json, write_json

RUNS = "runs"
_READERS = 16  # report files are small; on an object store the wait is the round trip


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as the store has it. `manifest` is None while it is incomplete."""

    record: RunRecord
    reports: tuple[ShardReport, ...]
    manifest: RunManifest | None


def run_path(run_id: str, name: str) -> str:
    """Return the path of one of a run's own files."""
    return f"{RUNS}/{run_id}/{name}"


def part_path(run_id: str, kind: str, shard: str) -> str:
    """Return the path of a shard's `samples` or `scores` part."""
    return run_path(run_id, f"{kind}/{part_name(shard)}.parquet")


def report_path(run_id: str, shard: str) -> str:
    """Return the path of a shard's report."""
    return run_path(run_id, f"reports/{part_name(shard)}.json")


def write_record(folder: Folder, record: RunRecord) -> None:
    """Write what the run is, and that it is asked for now. A run that was begun before keeps the date of its start."""
    path = run_path(record.run_id, "run.json")
    begun = find_json(folder, path, RunRecord)
    write_json(folder, path, record.model_copy(update={"created_at": begun.created_at}) if begun else record)


def remove_report(folder: Folder, run_id: str, shard: str) -> None:
    """Unmark a shard, before its parts are written anew: no moment has an old report beside new parts."""
    folder.remove(report_path(run_id, shard))


def write_report(folder: Folder, report: ShardReport) -> None:
    """Mark a shard as done. Its parts must be in place."""
    write_json(folder, report_path(report.run_id, report.shard), report)


def write_manifest(folder: Folder, manifest: RunManifest) -> None:
    """Mark a run as complete. All its reports must be in place."""
    write_json(folder, run_path(manifest.run_id, "manifest.json"), manifest)


def reopen_run(folder: Folder, run_id: str) -> None:
    """Make a run incomplete again, before more work is done for it.

    The manifest may be all that knows of a shard: reports that are lost are written first.
    """
    path = run_path(run_id, "manifest.json")
    manifest = find_json(folder, path, RunManifest)
    if manifest is None:
        return
    left = {report.shard for report in read_reports(folder, run_id)}
    for report in manifest.shards:
        if report.shard not in left:
            write_report(folder, report)
    folder.remove(path)


def finished_report(folder: Folder, run_id: str, ref: ShardRef) -> ShardReport | None:
    """Return the shard's report if the shard is done: same bytes, every part there with its size. Else None."""
    report = _read_report(folder, report_path(run_id, ref.shard))
    if report is None:
        return None
    sizes = {part.path: _size(folder, part.path) for part in report.parts.values()}
    return report if _is_finished(report, ref, sizes) else None


def finished_reports(folder: Folder, run_id: str, refs: Iterable[ShardRef]) -> dict[str, ShardReport]:
    """Return the reports of the shards that are done, by shard; one listing tells the sizes of all parts."""
    try:
        reports = {report.shard: report for report in read_run(folder, run_id).reports}
    except FileNotFoundError:
        return {}
    sizes = folder.sizes(run_path(run_id, ""))
    known = ((ref, reports[ref.shard]) for ref in refs if ref.shard in reports)
    return {ref.shard: report for ref, report in known if _is_finished(report, ref, sizes)}


def without_lost_parts(folder: Folder, runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Return the runs without those reports of partial ones whose parts are not there as they were written."""
    return [_without_lost_parts(folder, run) if run.record.partial else run for run in runs]


def _without_lost_parts(folder: Folder, run: StoredRun) -> StoredRun:
    sizes = folder.sizes(run_path(run.record.run_id, ""))
    return replace(run, reports=tuple(report for report in run.reports if _has_parts(report, sizes)))


def _is_finished(report: ShardReport, ref: ShardRef, sizes: Mapping[str, int | None]) -> bool:
    """Whether a report is about these bytes, and every part of it is there with its size."""
    return report.fingerprint == ref.fingerprint and _has_parts(report, sizes)


def _has_parts(report: ShardReport, sizes: Mapping[str, int | None]) -> bool:
    return all(sizes.get(part.path) == part.bytes for part in report.parts.values())


def list_runs(folder: Folder) -> list[str]:
    """Return the ids of all runs of which the store has any file."""
    return sorted({name.split("/")[1] for name in folder.list(RUNS) if name.count("/") > 1})


def read_runs(folder: Folder) -> list[StoredRun]:
    """Return every run in the store that has a record, oldest first."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda run_id: _find_run(folder, run_id), folder.folders(RUNS))
        return sorted((run for run in found if run is not None), key=begun)


def _find_run(folder: Folder, run_id: str) -> StoredRun | None:
    try:
        return read_run(folder, run_id)
    except FileNotFoundError:
        return None


def chosen_run(runs: Sequence[StoredRun], name: str | None = None) -> StoredRun:
    """Return the run that a person means.

    Args:
        runs: all of a store.
        name: a run's id, the start of one id only, or a dataset, of which it is the run that was asked for last; None:
            of all the complete run that was asked for last.

    Raises:
        StoreError: there is none, or the start fits several.
    """
    if not runs:
        raise StoreError("the store has no run; `clipdecoder tag` makes one")
    if name is not None and not name.strip():
        raise StoreError(f"a run's name is empty; leave it out for the newest, or name one of {_ids(runs)}")
    if name is None:
        complete = [run for run in runs if run.manifest is not None]
        if not complete:
            raise StoreError(f"no run of the store is complete; of those begun name one: {_ids(runs)}")
        return max(complete, key=last_asked)
    exact = [run for run in runs if run.record.run_id == name]
    of_dataset = sorted((run for run in runs if run.record.dataset == name), key=last_asked)
    begins = [run for run in runs if run.record.run_id.startswith(name)]
    if found := exact or of_dataset[-1:] or begins:
        if len(found) > 1:
            raise StoreError(f"run {name!r} may be {_ids(found)}; write more of its id")
        return found[0]
    raise StoreError(one_of("run", name, (run.record.run_id for run in runs)))


def _ids(runs: Sequence[StoredRun]) -> str:
    return ", ".join(run.record.run_id for run in runs) or "none"


def begun(run: StoredRun) -> tuple[datetime, str]:
    """Sorts runs by when they were first asked for."""
    return run.record.created_at, run.record.run_id


def last_asked(run: StoredRun) -> datetime:
    """Return when a run was last asked for: asking again for an old run makes it the newest."""
    return run.record.asked_at


def read_run(folder: Folder, run_id: str) -> StoredRun:
    """Return one run: from its manifest if it is complete, else from the reports so far.

    Raises:
        FileNotFoundError: there is no such run.
        StoreError: its record or its manifest is damaged, or its scores have a layout that this version does not read.
    """
    record = read_json(folder, run_path(run_id, "run.json"), RunRecord)
    if "layout" not in record.model_fields_set or record.layout != SCORE_LAYOUT:
        raise StoreError(
            f"the scores of run {run_id!r} in the store {folder.url!r} are laid out as another version of clipdecoder "
            f"does; move {run_path(run_id, '')} away and give its command again: they are made from stored features"
        )
    manifest = find_json(folder, run_path(run_id, "manifest.json"), RunManifest)
    reports = manifest.shards if manifest is not None else read_reports(folder, run_id)
    return StoredRun(record=record, reports=reports, manifest=manifest)


def read_reports(folder: Folder, run_id: str) -> tuple[ShardReport, ...]:
    """Return the reports that are there now, by shard id, whatever the manifest says. A damaged one counts as none."""
    paths = folder.list(run_path(run_id, "reports"), ".json")
    if folder.local:  # where a report is read before a thread has been told of it
        found = [_read_report(folder, path) for path in paths]
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda path: _read_report(folder, path), paths))
    return tuple(report for report in found if report is not None)


def _read_report(folder: Folder, path: str) -> ShardReport | None:
    try:
        return ShardReport.model_validate_json(folder.read_bytes(path))
    except (FileNotFoundError, ValidationError):
        return None


def _size(folder: Folder, path: str) -> int | None:
    try:
        return folder.size(path)
    except FileNotFoundError:
        return None
