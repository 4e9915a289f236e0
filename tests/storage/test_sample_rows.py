"""Stored rows are the rows that were written, whether somebody looks at them or not."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from benchmarks.generated import sample_row
from schemas.sample import SampleStatus
from storage.sample_rows import StoredRows, count_statuses, ok_samples, sample_table

ROWS = tuple(
    replace(sample_row("00000", sample), status=SampleStatus.EMPTY, error="no bytes", sha256=None)
    if sample in (1, 4)
    else sample_row("00000", sample)
    for sample in range(6)
)


def test_rows_come_back_as_they_were() -> None:
    stored = StoredRows(sample_table(ROWS).append_column("embedding", pa.array(range(6))))
    assert stored == ROWS and ROWS == stored and stored != ROWS[:5] and len(stored) == 6
    assert stored[1] == ROWS[1] and stored[2:4] == ROWS[2:4] and tuple(stored) == ROWS
    assert sample_table(stored).equals(sample_table(ROWS))
    for rows in (ROWS, stored):
        assert count_statuses(rows) == {SampleStatus.OK: 4, SampleStatus.EMPTY: 2}
        assert ok_samples(rows).tolist() == [0, 2, 3, 5]
    assert len(StoredRows(sample_table(()))) == 0 and ok_samples(()).tolist() == []


def test_an_unknown_status_is_damage() -> None:
    table = sample_table(ROWS).to_pylist()
    with pytest.raises(KeyError):
        StoredRows(pa.Table.from_pylist([row | {"status": "fine"} for row in table], schema=sample_table(ROWS).schema))


@pytest.mark.parametrize("statuses", [["ok"] * 3, ["empty"] * 3, ["ok", "empty", "ok"], []], ids=str)
def test_statuses_are_those_of_the_rows_that_are_left_of_a_table(statuses: list[str]) -> None:
    rows = [replace(ROWS[0], sample=sample, status=SampleStatus(status)) for sample, status in enumerate(statuses)]
    padded = pa.concat_tables([sample_table(ROWS[1:3]), sample_table(rows), sample_table(ROWS[:1])])
    for table in (sample_table(rows), padded.slice(2, len(rows)), padded.combine_chunks().slice(2, len(rows))):
        stored = StoredRows(table)
        assert stored.statuses == statuses
        assert (
            count_statuses(stored) == count_statuses(rows) and ok_samples(stored).tolist() == ok_samples(rows).tolist()
        )


def test_texts_of_the_same_bytes_are_told_apart_by_their_ends() -> None:
    table = sample_table(ROWS[2:4])
    odd = table.set_column(3, table.schema.field("status"), pa.array(["o", "kok"]))
    with pytest.raises(KeyError):
        StoredRows(odd)
