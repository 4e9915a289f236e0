"""Merge the many small parts of complete runs into few large files, which queries open and skip through faster.

Nothing is taken away: see storage/compacted.py. A file is named after the parts in it, so the same parts make the same
file; the record that lets the views read it is written last. A process killed at any moment leaves files that nobody
reads, which a later compaction removes.

Memory: the rows of one file, some hundred bytes each in passing, so below a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from schemas.commands import store_command
from schemas.compaction import CompactedFile, CompactedRun, CompactReport, Kind, RunCompaction
from schemas.digests import digest_of
from schemas.errors import StoreError
from schemas.manifest import Part
from schemas.tables import SAMPLES, SCORES
from storage.catalog import check_store
from storage.compacted import FOLDER, compacted_files, find_compacted, parts_of, write_compacted
from storage.files import Folder, checksum, transport_errors
from storage.parquet import read_parquet
from storage.parts import LARGE_SAMPLE_ENCODING, ROW_GROUP_ROWS, write_part
from storage.runs import StoredRun, chosen_run, read_runs, run_path
from storage.score_parts import SCORE_ENCODING

# Some 100,000 images with 32 scores each: larger files answer for a label sooner and for a single image later.
FILE_ROWS: dict[Kind, int] = {"samples": 8 * ROW_GROUP_ROWS, "scores": 32 * ROW_GROUP_ROWS}
# After it is not named any more, a file stays for so long: a query that began before may still read it.
KEPT_FOR = timedelta(days=1)


def compact_store(
    folder: Folder, run: str | None = None, *, dry_run: bool = False, file_rows: Mapping[Kind, int] = FILE_ROWS
) -> CompactReport:
    """Merge parts, of one run or of all that are complete.

    Args:
        folder: the store.
        run: a run, as `chosen_run` takes it.
        dry_run: say what would be done; write nothing.
        file_rows: rows of the largest files, by kind.

    Raises:
        StoreError: there is no store or no such run, the run is not complete, or the store cannot be read or written.
    """
    try:
        check_store(folder)
        runs = read_runs(folder)
        chosen = runs if run is None else [_complete(chosen_run(runs, run))]
        complete = [each for each in chosen if each.manifest is not None]
        compactions = [_compact(folder, each, file_rows, dry_run=dry_run) for each in complete]
    except transport_errors() as error:
        raise StoreError(f"the store {folder.url!r} cannot be read: {error}") from error
    incomplete = tuple(each.record.run_id for each in chosen if each.manifest is None)
    return CompactReport(dry_run=dry_run, runs=tuple(compactions), incomplete=incomplete)


def _complete(run: StoredRun) -> StoredRun:
    if run.manifest is None:
        raise StoreError(f"run {run.record.run_id!r} is not complete; finish it with its own command, then compact it")
    return run


def _compact(folder: Folder, run: StoredRun, file_rows: Mapping[Kind, int], *, dry_run: bool) -> RunCompaction:
    run_id, kinds = run.record.run_id, sorted(file_rows)
    there = {(each.kind, each.parts): each for each in compacted_files(folder, run_id)}
    planned = [(kind, parts) for kind in kinds for parts in _planned(parts_of(run, kind).values(), file_rows[kind])]
    files, problems = [there[wanted] for wanted in planned if wanted in there], []
    kept = len(files)
    for kind, parts in planned if not dry_run else ():
        try:
            files += [] if (kind, parts) in there else [_write(folder, run_id, kind, parts)]
        except _BadPartError as error:
            problems.append(str(error))
    if not dry_run:
        files.sort(key=lambda each: each.file.path)  # so that the same files are the same record
        _name(folder, run_id, tuple(files))
        planned = [(each.kind, each.parts) for each in files]
    return RunCompaction(
        run_id=run_id,
        parts=sum(len(parts_of(run, kind)) for kind in kinds),
        merged=sum(len(parts) for _, parts in planned),
        files=len(planned),
        written=len(planned) - kept,
        bytes=sum(each.file.bytes for each in files),
        problems=tuple(problems),
    )


def _planned(parts: Iterable[Part], most_rows: int) -> Iterator[tuple[Part, ...]]:
    """Yield the parts that go together, by the order of their paths; a part that would be alone stays as it is."""
    together: list[Part] = []
    rows = 0
    for part in sorted((part for part in parts if part.rows), key=lambda part: part.path):
        if rows + part.rows > most_rows:
            yield from [tuple(together)] * (len(together) > 1)
            together, rows = [], 0
        together.append(part)
        rows += part.rows
    yield from [tuple(together)] * (len(together) > 1)


class _BadPartError(Exception):
    """A part is not what its report says."""


def _write(folder: Folder, run_id: str, kind: Kind, parts: Sequence[Part]) -> CompactedFile:
    tables = [_read(folder, part) for part in parts]
    name = digest_of([part.model_dump() for part in parts])
    path = run_path(run_id, f"{FOLDER}/{kind}/{name}.parquet")
    if kind == "scores":
        file = write_part(folder, path, _by_label(tables), **SCORE_ENCODING)
    else:
        file = write_part(folder, path, pa.concat_tables(tables).cast(SAMPLES), **LARGE_SAMPLE_ENCODING)
    return CompactedFile(kind=kind, file=file, parts=tuple(parts))


def _read(folder: Folder, part: Part) -> pa.Table:
    try:
        data = folder.read_bytes(part.path)
    except FileNotFoundError:
        raise _BadPartError(f"{part.path} is not there; {_lost(folder)}") from None
    if checksum(data) != part.sha256:
        raise _BadPartError(f"{part.path} is not what was written; {_lost(folder)}")
    return read_parquet(data)


def _lost(folder: Folder) -> str:
    return f"`{store_command('audit', store=folder.url)}` says what is lost"


def _by_label(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of score parts by label, within a label in the order given."""
    table = pa.concat_tables(tables).cast(SCORES).unify_dictionaries().combine_chunks()
    label = table["label_id"].combine_chunks()
    rank_K = np.argsort(np.argsort(np.array(label.dictionary.to_pylist(), dtype=np.str_)))
    # Small numbers are sorted by their digits, in a fifth of the time.
    kind = np.uint16 if len(rank_K) <= np.iinfo(np.uint16).max else np.int32
    return table.take(pa.array(np.argsort(rank_K.astype(kind)[label.indices.to_numpy()], kind="stable")))


def _name(folder: Folder, run_id: str, files: tuple[CompactedFile, ...]) -> None:
    """Name the files, unless just these are named already, and remove what has not been named for long."""
    before, now = find_compacted(folder, run_id), datetime.now(UTC)
    named = {each.file.path for each in files}
    dropped = before.dropped | {each.file.path: now for each in before.files}
    others = [path for path in folder.list(run_path(run_id, FOLDER)) if path not in named]
    # What was never named was left by a process that was killed, or another is about to name it.
    old = [path for path in others if now - (dropped.get(path) or _changed_at(folder, path)) > KEPT_FOR]
    kept = {path: dropped[path] for path in sorted(set(others) - set(old)) if path in dropped}
    record = CompactedRun(run_id=run_id, files=files, dropped=kept)
    if record != before:
        write_compacted(folder, record)
    for path in old:
        folder.remove(path)


def _changed_at(folder: Folder, path: str) -> datetime:
    """Return when a file was written; of one that another compaction has just removed: now."""
    try:
        changed: datetime = folder.fs.modified(folder.path(path))
    except FileNotFoundError:
        return datetime.now(UTC)
    return changed.astimezone(UTC)
