"""Ways in which a Parquet file of a store is damaged, or is another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in (60, 100):
        data[place] ^= 0xFF
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "flipped": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no Parquet"),
    "foreign": _foreign,
}
