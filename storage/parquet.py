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
