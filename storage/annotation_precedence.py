"""Which answers of a file count for nothing, as something newer is known of the same picture and label."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.annotations import read_annotations
from storage.files import Folder
from storage.query import run_query

_NEWER = """
SELECT dataset, shard, key, label_id, max("at") AS newest
FROM annotations SEMI JOIN (SELECT unnest($keys) AS key) USING (key)
WHERE "at" > $earliest GROUP BY ALL
"""

_Scope = tuple[str | None, str | None]  # dataset and shard; None: any
_WHAT = ["dataset", "shard", "key", "label_id"]


def count_outdated(connection: duckdb.DuckDBPyConnection, folder: Folder, path: str) -> int:
    """Return of how many answers of a file of annotations a newer one, or a newer side file, takes the place.

    What the file says of one picture and label at several times is one answer, the newest of them.

    Args:
        connection: a catalog, opened before the file was written or after.
        folder: its store.
        path: the file, as `write_annotations` gave it.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    answers = read_annotations(folder, path).group_by(_WHAT).aggregate([("at", "max")])
    newer = _newer(connection, answers)
    columns = (answers[name].to_pylist() for name in (*_WHAT, "at_max"))
    return sum(
        any(time > at and _meet(place, (dataset, shard)) for place, time in newer.get((key, label_id), ()))
        for dataset, shard, key, label_id, at in zip(*columns, strict=True)
    )


def _newer(
    connection: duckdb.DuckDBPyConnection, answers: pa.Table
) -> dict[tuple[str, str], list[tuple[_Scope, datetime]]]:
    """Return by key and label what is newer than the oldest of the answers."""
    asked = {"keys": answers["key"].unique().to_pylist(), "earliest": pc.min(answers["at_max"]).as_py()}
    found = defaultdict(list)
    for row in run_query(connection, _NEWER, asked).to_pylist():
        found[row["key"], row["label_id"]].append(((row["dataset"], row["shard"]), row["newest"]))
    return found


def _meet(one: _Scope, other: _Scope) -> bool:
    """Whether there may be samples in both places."""
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
