"""Parquet from memory: whole, damaged, and in a process that ends at once."""

from __future__ import annotations

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.parquet import read_parquet

TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})

COUNT_THREADS = """
import sys
import pyarrow.parquet
from pathlib import Path
from storage.parquet import read_parquet
threads = lambda: len(list(Path("/proc/self/task").iterdir()))
before = threads()
rows = read_parquet(sys.stdin.buffer.read(), ["a"]).num_rows
print(rows, threads() - before)
"""


def written() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer, write_page_checksum=True, use_dictionary=False)
    return buffer.getvalue()


def test_a_table_comes_back_with_the_columns_that_are_there() -> None:
    assert read_parquet(written()).equals(TABLE)
    assert read_parquet(written(), ["b", "c"]).column_names == ["b"]


def test_damage_is_found() -> None:
    data = bytearray(written())
    column = pq.read_metadata(io.BytesIO(bytes(data))).row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 2] ^= 255
    for damaged in (bytes(data), b"", b"no Parquet"):
        with pytest.raises((pa.ArrowException, OSError)):
            read_parquet(damaged)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_arrow_starts_no_thread_that_could_outlive_python() -> None:
    """A thread that lets go of a Python object while the interpreter ends takes the process down."""
    done = subprocess.run([sys.executable, "-c", COUNT_THREADS], input=written(), capture_output=True, check=True)
    assert done.stdout.split() == [b"3", b"0"]
