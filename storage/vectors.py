"""Vectors of float16 as Parquet holds them: one cell of bytes each, which is read as it stands.

As lists of numbers they took five times as long to read and eight times to write: Parquet counts a list's items one by
one.

Shapes: N rows, V rows that have a vector, D numbers of a vector.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_STORED = np.dtype("<f2")


def vector_width(kind: pa.DataType) -> int:
    """Return how many numbers a stored vector has.

    Raises:
        ValueError: the column is none of vectors: another version wrote it, or a bit of its schema was turned.
    """
    if not pa.types.is_fixed_size_binary(kind):
        raise ValueError(f"vectors were expected, not {kind}, which an earlier version wrote")
    return int(kind.byte_width) // _STORED.itemsize


def vector_column(vectors_ND: NDArray[np.float16], is_there_N: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return a column that holds these very bytes; null where `is_there_N` says so."""
    cells_ND = np.ascontiguousarray(vectors_ND, _STORED)
    bits = None if is_there_N is None else pa.py_buffer(np.packbits(is_there_N, bitorder="little"))
    kind = pa.binary(_STORED.itemsize * cells_ND.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(cells_ND), [bits, pa.py_buffer(cells_ND)])


def vectors_of(column: pa.Array) -> tuple[NDArray[np.float16], NDArray[np.bool_] | None]:
    """Return vectors_VD of the rows that have one, a view of the column's bytes where all have; and which, else None.

    By numpy alone: to ask Arrow which are null loads a library of a quarter of a second.
    """
    width, (bits, cells) = vector_width(column.type), column.buffers()
    rows = slice(column.offset, column.offset + len(column))
    if cells is None or not len(column):
        vectors_ND = np.empty((len(column), width), _STORED)
    else:
        vectors_ND = np.frombuffer(cells, _STORED)[: rows.stop * width].reshape(-1, width)[rows]
    if not column.null_count:
        return vectors_ND, None
    is_there_N = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[rows].astype(bool)
    return vectors_ND[is_there_N], is_there_N
