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
import pyarrow.compute as pc
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
        # Asked first, and of Arrow: to turn every cell into a status takes ten times as long.
        say_ok = pc.equal(self.table["status"], str(SampleStatus.OK))
        self.all_ok = bool(pc.all(say_ok, skip_nulls=False, min_count=0).as_py())
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
