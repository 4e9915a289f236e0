"""Keys of a dataset: they should be unique, and are counted where they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

from schemas.commands import store_command
from schemas.digests import digest_of
from schemas.errors import StoreError
from schemas.manifest import Part, ShardReport
from storage.files import Folder
from storage.patterns import ShardRef
from storage.runs import StoredRun, last_asked
from storage.sandbox import PROTOCOL, StoreFiles, connect

_SHARED = """
SELECT count(*) FROM (SELECT key FROM read_parquet($paths) GROUP BY key HAVING min(shard) <> max(shard))
"""


@dataclass(frozen=True, kw_only=True)
class KnownKeys:
    """How many keys stand in more than one shard of some sample rows."""

    rows: str  # digest of the bytes of their parts
    shared: int


def known_keys(runs: Iterable[StoredRun], shards: Iterable[ShardRef]) -> KnownKeys | None:
    """Return what the complete run that was asked for last about just these shards knows of their keys, if any is."""
    wanted = {ref.shard for ref in shards}
    for run in sorted(runs, key=last_asked, reverse=True):
        if run.manifest is not None and {report.shard for report in run.reports} == wanted:
            return KnownKeys(rows=_rows_digest(run.reports), shared=run.manifest.shared_keys)
    return None


def shared_keys(folder: Folder, reports: Sequence[ShardReport], known: KnownKeys | None) -> int:
    """Return how many keys stand in more than one of a run's shards.

    The sample rows of a shard are the same bytes in every run that saw the same pictures, so after a backfill most
    often it is known already; else all of them are read.

    Raises:
        StoreError: a part cannot be read.
    """
    if known is not None and known.rows == _rows_digest(reports):
        return known.shared
    return count_shared_keys(folder, [report.parts["samples"] for report in reports])


def _rows_digest(reports: Iterable[ShardReport]) -> str:
    return digest_of(sorted(report.parts["samples"].sha256 for report in reports))


def count_shared_keys(folder: Folder, samples: Sequence[Part]) -> int:
    """Return how many keys stand in more than one of a run's shards, given its samples parts.

    Raises:
        StoreError: a part cannot be read.
    """
    if not samples:
        return 0
    with connect() as connection:
        connection.register_filesystem(StoreFiles(folder, {part.path: part.bytes for part in samples}))
        paths = [f"{PROTOCOL}://{part.path}" for part in samples]
        try:
            row = connection.execute(_SHARED, {"paths": paths}).fetchone()
        except duckdb.Error as error:
            raise StoreError(
                f"the samples of a run cannot be read; `{store_command('audit', store=folder.url)}` says which: {error}"
            ) from error
    assert row is not None, "count(*) has one row"
    return int(row[0])
