"""Sample rows as a table, and stored ones that become objects only where somebody looks at them.

Scoring from stored features reads every row and writes it again without a look: as objects that took a third of its
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.sample import SampleRow, SampleStatus
from schemas.tables import SAMPLES

_STATUSES = {str(status): status for status in SampleStatus}


class StoredRows(Sequence[SampleRow]):
    """The sample rows of a stored table, which may have further columns.

    Raises:
        KeyError: a column is missing, or a status is unknown.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(SAMPLES.names)
        self.all_ok = _all_say(self.table["status"], str(SampleStatus.OK))
        self.statuses = (
            [SampleStatus.OK] * len(table)
            if self.all_ok
            else [_STATUSES[status] for status in self.table["status"].to_pylist()]
        )

    @cached_property
    def _rows(self) -> tuple[SampleRow, ...]:
        columns = {name: self.table[name].to_pylist() for name in SAMPLES.names} | {"status": self.statuses}
        names = columns.keys()
        rows = zip(*columns.values(), strict=True)
        return tuple(SampleRow(**dict(zip(names, values, strict=True))) for values in rows)

    def __len__(self) -> int:
        return len(self.statuses)

    @overload
    def __getitem__(self, index: int) -> SampleRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SampleRow, ...]: ...
    def __getitem__(self, index: int | slice) -> SampleRow | tuple[SampleRow, ...]:
        return self._rows[index]

    def __iter__(self) -> Iterator[SampleRow]:
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._rows == tuple(other)

    __hash__ = None  # type: ignore[assignment]


def sample_table(rows: Sequence[SampleRow]) -> pa.Table:
    """Return rows as a table of `SAMPLES`."""
    if isinstance(rows, StoredRows):
        return rows.table.replace_schema_metadata(None)
    # Column by column: as a dictionary for each row it takes ten times as long.
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SAMPLES]
    return pa.Table.from_arrays(columns, schema=SAMPLES)


def count_statuses(rows: Sequence[SampleRow]) -> Counter[SampleStatus]:
    """Return how many rows there are of each status."""
    if isinstance(rows, StoredRows) and rows.all_ok:
        return Counter({SampleStatus.OK: len(rows)} if len(rows) else {})
    return Counter(_statuses(rows))


def are_ok(rows: Sequence[SampleRow]) -> NDArray[np.bool_]:
    """Return which rows are `ok`."""
    if isinstance(rows, StoredRows) and rows.all_ok:
        return np.ones(len(rows), bool)
    return np.array([status is SampleStatus.OK for status in _statuses(rows)], bool)


def ok_samples(rows: Sequence[SampleRow]) -> NDArray[np.int32]:
    """Return the ordinals of the rows that are `ok`, in order."""
    is_ok = are_ok(rows)
    if isinstance(rows, StoredRows):
        return np.asarray(rows.table["sample"].to_numpy()[is_ok], np.int32)
    return np.asarray(np.array([row.sample for row in rows], np.int32)[is_ok])


def _statuses(rows: Sequence[SampleRow]) -> Sequence[SampleStatus]:
    return rows.statuses if isinstance(rows, StoredRows) else [row.status for row in rows]


def _all_say(column: pa.ChunkedArray, text: str) -> bool:
    """Return whether every cell is this text: by the bytes of all, as asking each takes fifty times as long."""
    return all(_repeats(chunk, text.encode()) for chunk in column.chunks)


def _repeats(cells: pa.StringArray, text: bytes) -> bool:
    if not len(cells):
        return True  # whose buffers may be empty too
    _, offsets, data = cells.buffers()
    if cells.null_count or data is None:
        return False
    ends_N = np.frombuffer(offsets, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    whole = data[ends_N[0] : ends_N[-1]].to_pybytes() == text * len(cells)
    return whole and bool((np.diff(ends_N) == len(text)).all())
