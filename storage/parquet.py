"""Parquet from memory, read in the caller's thread alone."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table in a file's bytes, each page checked against its checksum; of `columns` those that are there.

    Not `pq.read_table`: that has Arrow's own threads hold the bytes, and one that lets go of a Python object while the
    interpreter ends takes the process down with it ("terminate called"), after all its work is done.

    Raises:
        pa.ArrowException, OSError: it is no Parquet, or damaged.
    """
    import pyarrow.parquet as pq  # a query of the store need not load it

    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(None if columns is None else list(columns), use_threads=False)


def read_parquet_of(data: bytes, schema: pa.Schema) -> pa.Table:
    """Return the table in a file's bytes, checked as by `read_parquet`, if it has these columns of these types.

    Raises:
        pa.ArrowException, OSError: it is no Parquet, or damaged.
        ValueError: it has other columns.
    """
    table = read_parquet(data)
    if not table.schema.equals(schema):
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema) or "none"
        raise ValueError(f"its columns are {found}, and not {', '.join(f'{each.name} {each.type}' for each in schema)}")
    return table
