"""Statistics of pictures: a file for each shard, written when all of it is measured, so presence means complete."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import IMAGE_STATISTICS
from storage.files import Folder
from storage.parquet import read_parquet_of
from storage.parts import write_part


@dataclass(frozen=True, kw_only=True, slots=True)
class StatisticsRow:
    """What is stored of a picture that could be decoded."""

    sample: int
    phash: int | None
    brightness: float
    contrast: float
    sharpness: float


def write_statistics(
    folder: Folder, path: str, shard: str, rows: Iterable[StatisticsRow], stored: Iterable[str] = ()
) -> None:
    """Write a shard's statistics, then remove those of bytes that it had before. Equal rows give equal bytes.

    Args:
        folder: the store.
        path: from `statistics_path`.
        shard: its id.
        rows: in any order.
        stored: the shard's files that are there.

    Raises:
        StoreError: the store cannot be written.
    """
    write_part(folder, path, _table(shard, sorted(rows, key=lambda row: row.sample)))
    for name in stored:
        if name != path:
            folder.remove(name)


def is_damaged(folder: Folder, path: str, shard: str) -> bool:
    """Whether a file is there that is not a shard's statistics, all of them readable: they can be computed again."""
    try:
        table = read_parquet_of(folder.read_bytes(path), IMAGE_STATISTICS)
    except FileNotFoundError:
        return False
    except (pa.ArrowException, OSError, ValueError):
        return True
    return pc.unique(table["shard"]).to_pylist() not in ([], [shard])


def _table(shard: str, rows: Sequence[StatisticsRow]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in rows] for name in IMAGE_STATISTICS.names if name != "shard"}
    return pa.Table.from_pydict({"shard": [shard] * len(rows), **columns}, schema=IMAGE_STATISTICS)
