"""Reading a table of precomputed text embeddings: Parquet at any fsspec URL, columns `text` and `embedding`.

Shapes: M texts, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import RequestError
from storage.files import read_file
from storage.parquet import read_parquet

TEXT_COLUMN, EMBEDDING_COLUMN = "text", "embedding"


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """What the file holds, in the order of its rows."""

    texts: tuple[str, ...]
    vectors: NDArray[np.float32]  # (M, D)


def read_text_table(url: str) -> TextTable:
    """Return the texts and vectors of a Parquet file. What vectors may be is the text encoder's to say.

    Raises:
        RequestError: it cannot be read, is no Parquet, lacks a column, has one of the wrong kind, nulls, or vectors
            of different lengths; the message says which file, which column and what is there.
    """
    table = _read(url)
    for name in (TEXT_COLUMN, EMBEDDING_COLUMN):
        if name not in table.column_names:
            found = ", ".join(table.column_names) or "none"
            raise RequestError(f"{url}: no column {name!r}; it has {found}; rename the one that is meant")
    if not table.num_rows:
        raise RequestError(f"{url}: the table has no rows; it needs one per text of the taxonomy")
    return TextTable(
        texts=_texts(table.column(TEXT_COLUMN), url), vectors=_vectors(table.column(EMBEDDING_COLUMN), url)
    )


def _read(url: str) -> pa.Table:
    data = read_file(url)
    try:
        return read_parquet(data)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{url}: not a Parquet file that can be read: {error}") from error


def _texts(column: pa.ChunkedArray, url: str) -> tuple[str, ...]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise RequestError(f"{url}: column {TEXT_COLUMN!r} is {column.type}; it must be text")
    _refuse_nulls(column, TEXT_COLUMN, url)
    return tuple(column.to_pylist())


def _vectors(column: pa.ChunkedArray, url: str) -> NDArray[np.float32]:
    kind = column.type
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists and pa.types.is_floating(kind.value_type)):
        raise RequestError(f"{url}: column {EMBEDDING_COLUMN!r} is {kind}; it must be a list of floats")
    _refuse_nulls(column, EMBEDDING_COLUMN, url)
    array = column.combine_chunks()
    values = array.flatten()
    _refuse_nulls(values, EMBEDDING_COLUMN, url)
    widths = set(array.value_lengths().to_pylist())
    if len(widths) > 1 or 0 in widths:
        raise RequestError(
            f"{url}: column {EMBEDDING_COLUMN!r} has vectors of {min(widths)} to {max(widths)} numbers; all need one "
            "length above 0"
        )
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, for the text encoder to refuse
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(array), -1)


def _refuse_nulls(column: pa.ChunkedArray | pa.Array, name: str, url: str) -> None:
    if column.null_count:
        raise RequestError(f"{url}: column {name!r} has {column.null_count} nulls; remove those rows")
