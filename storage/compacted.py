"""Large files that stand for many parts: which of them the views may read in place of the parts.

They are copies. The parts stay, reports name the parts, and whoever resumes, retries or audits looks at the parts. A
large file counts only while every one of its parts is still the one that the reports name; after a shard was tagged
again the views read parts, until somebody compacts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pydantic import ValidationError

from schemas.commands import store_command
from schemas.compaction import CompactedFile, CompactedRun, Kind
from schemas.manifest import Part
from storage.files import Folder, checksum
from storage.findings import Finding, FindingCode
from storage.records import write_json
from storage.runs import StoredRun, run_path
from storage.visibility import VisibleParts

RECORD = "compacted.json"
FOLDER = "compacted"
_READERS = 16  # looking at a file of an object store is a round trip

Compacted = Mapping[str, tuple[CompactedFile, ...]]  # by run


def read_compacted(folder: Folder, runs: Iterable[StoredRun]) -> Compacted:
    """Return the large files of each run that are there with their size. A damaged record counts as none."""
    run_ids = [run.record.run_id for run in runs]
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(run_ids, pool.map(lambda run_id: compacted_files(folder, run_id), run_ids), strict=True))


def compacted_files(folder: Folder, run_id: str) -> tuple[CompactedFile, ...]:
    """Return the large files of one run that are there with their size. A damaged record counts as none."""
    record = find_compacted(folder, run_id)
    sizes = folder.sizes(run_path(run_id, FOLDER)) if record.files else {}
    return tuple(each for each in record.files if sizes.get(each.file.path) == each.file.bytes)


def find_compacted(folder: Folder, run_id: str) -> CompactedRun:
    """Return what a run's record says, whether its files are there or not; one that is damaged says nothing."""
    try:
        return CompactedRun.model_validate_json(folder.read_bytes(run_path(run_id, RECORD)))
    except (FileNotFoundError, ValidationError):
        return CompactedRun(run_id=run_id, files=())


def write_compacted(folder: Folder, record: CompactedRun) -> None:
    """Say which files stand for which parts. They must be in place."""
    write_json(folder, run_path(record.run_id, RECORD), record)


def in_large_files(
    kind: Kind, groups: Iterable[VisibleParts], runs: Iterable[StoredRun], compacted: Compacted
) -> list[VisibleParts]:
    """Return the groups with a large file in place of its parts, where all of these are shown alike."""
    reported = {run.record.run_id: parts_of(run, kind) for run in runs if compacted.get(run.record.run_id)}
    return [
        replace(group, paths=_paths(kind, group, reported[group.run_id], compacted[group.run_id]))
        if group.run_id in reported
        else group
        for group in groups
    ]


def parts_of(run: StoredRun, kind: Kind) -> dict[str, Part]:
    """Return by path the parts of a kind that a run's reports name."""
    return {part.path: part for report in run.reports if (part := report.parts.get(kind)) is not None}


def _paths(
    kind: Kind, group: VisibleParts, reported: Mapping[str, Part], files: Iterable[CompactedFile]
) -> tuple[str, ...]:
    loose = set(group.paths)
    large: list[Part] = []
    for each in files:
        if each.kind == kind and all(part.path in loose and reported[part.path] == part for part in each.parts):
            loose -= {part.path for part in each.parts}
            large.append(each.file)
    # DuckDB takes all files for as long as the first: after a short one it would take samples for fewer than tags.
    longest_first = sorted(large, key=lambda file: (-file.rows, file.path))
    return (*(file.path for file in longest_first), *sorted(loose))


def iter_unsound_compacted(folder: Folder, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Yield a finding for every large file that the views may read and that is not what was written."""
    again = f"`{store_command('compact', store=folder.url)}` writes it again"
    for run_id, files in read_compacted(folder, runs).items():
        for part in (each.file for each in files):
            if checksum(folder.read_bytes(part.path)) != part.sha256:
                message = f"{part.path} is not what was written; remove it: {again}"
                yield Finding(code=FindingCode.PART_CHANGED, run_id=run_id, message=message)
