"""Keys of a dataset: they should be unique, and are counted where they are not."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from schemas.errors import StoreError
from schemas.manifest import Part
from storage.files import Folder
from storage.sandbox import PROTOCOL, StoreFiles, connect

_SHARED = """
SELECT count(*) FROM (SELECT key FROM read_parquet($paths) GROUP BY key HAVING min(shard) <> max(shard))
"""


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
            raise StoreError(f"the samples of a run cannot be read; `clipdecoder audit` says which: {error}") from error
    assert row is not None, "count(*) has one row"
    return int(row[0])
