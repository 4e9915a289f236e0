"""A query's result, written as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Iterable
from decimal import Decimal
from typing import IO, Any, Literal, cast

import pyarrow as pa

from schemas.counts import counted
from schemas.errors import QueryError, one_of
from storage.sandbox import connect
from storage.terminal import draw_table

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

_BATCH_ROWS = 10_000
# What Arrow's CSV writer holds as it is. Times are DuckDB's to write: Arrow has no infinity among them.
_CSV_TYPES = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_null,
)


def write_result(table: pa.Table, format: Format, target: IO[bytes] | IO[str], *, max_rows: int | None = None) -> None:
    """Write a result.

    `json` is an array of objects: times are ISO 8601, NaN and infinity are null. `csv` has a header, and lists and
    structs as JSON text. `table` is for reading: numbers to the right, control characters spelled out. Times that
    Python cannot hold (infinity, years after 9999, nanoseconds) are in all three as DuckDB writes them.

    Args:
        table: the result of `run_query`.
        format: one of FORMATS.
        target: an open file; `parquet` needs one that takes bytes.
        max_rows: rows to show in a `table`; it says how many it left out. None: all.

    Raises:
        QueryError: the format is unknown or cannot hold a column, or the target takes no bytes.
    """
    match format:
        case "table":
            width = shutil.get_terminal_size().columns if target.isatty() else None
            _write_text(target, _as_table(table, max_rows, width))
        case "csv":
            _write_text(target, _as_csv(table))
        case "json":
            _write_text(target, _as_json(table))
        case "parquet":
            _write_parquet(table, target)
        case _:
            raise QueryError(one_of("format", format, FORMATS))


def _write_text(target: IO[bytes] | IO[str], chunks: Iterable[str]) -> None:
    if hasattr(target, "encoding"):
        cast(IO[str], target).writelines(chunks)
    else:
        cast(IO[bytes], target).writelines(chunk.encode() for chunk in chunks)


def _write_parquet(table: pa.Table, target: IO[bytes] | IO[str]) -> None:
    import pyarrow.parquet as pq

    binary = cast(IO[bytes], getattr(target, "buffer", target))  # standard output has one
    if hasattr(binary, "encoding"):
        raise QueryError("parquet is not text; write it to a file with -o FILE")
    columns = [_in_duckdb(c) if pa.types.is_interval(c.type) else c for c in table.columns]
    buffer = io.BytesIO()  # nothing is written of a result that cannot be written whole
    try:
        pq.write_table(pa.table(columns, names=table.column_names), buffer)
    except pa.ArrowException as error:
        raise QueryError(
            f"parquet cannot hold every column ({error}); cast the column to text: SELECT CAST(... AS VARCHAR), "
            "or choose csv or json"
        ) from None
    binary.write(buffer.getbuffer())


def _as_csv(table: pa.Table) -> Iterable[str]:
    import pyarrow.csv

    buffer = io.BytesIO()
    if table.num_columns:
        pyarrow.csv.write_csv(pa.table([_csv_column(c) for c in table.columns], names=table.column_names), buffer)
    yield buffer.getvalue().decode()


def _csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if any(check(column.type) for check in _CSV_TYPES):
        return column
    return _in_duckdb(column) if pa.types.is_temporal(column.type) else _as_text(column)


def _as_json(table: pa.Table) -> Iterable[str]:
    before = "[\n"
    for start in range(0, table.num_rows, _BATCH_ROWS):
        columns = [_values(column) for column in table.slice(start, _BATCH_ROWS).columns]
        for row in zip(*columns, strict=True):
            record = dict(zip(table.column_names, map(_plain, row), strict=True))
            yield before + json.dumps(record, ensure_ascii=False, allow_nan=False)
            before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _as_table(table: pa.Table, max_rows: int | None, width: int | None) -> Iterable[str]:
    """Yield a table for reading. Cells fold at `width` characters; where nobody looks at it, None: lines stay whole."""
    shown = table if max_rows is None else table.slice(0, max_rows)
    values = zip(*(_values(column) for column in shown.columns), strict=True)
    columns = [(field.name, _is_number(field.type)) for field in table.schema]
    yield draw_table(columns, ([_cell(value) for value in row] for row in values), width)
    left_out = table.num_rows - shown.num_rows
    yield f"{counted(table.num_rows, 'row')}" + (f", {left_out} of them not shown" if left_out else "") + "\n"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values, those that Python cannot hold as text."""
    if pa.types.is_interval(column.type):
        return cast("list[Any]", _in_duckdb(column).to_pylist())
    try:
        return cast("list[Any]", column.to_pylist())
    except (OverflowError, ValueError):
        texts = _in_duckdb(column).to_pylist()
        return [_value(scalar, text) for scalar, text in zip(column, texts, strict=True)]


def _value(scalar: pa.Scalar, text: str | None) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return text


def _in_duckdb(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as DuckDB writes its values as text: it knows infinity, all years and nanoseconds."""
    with connect() as connection:
        connection.register("result", pa.table({"value": column}))
        return connection.sql("SELECT CAST(value AS VARCHAR) AS value FROM result").to_arrow_table()["value"]


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Return a column that has no plain form as text: strings as they are, anything else as JSON."""
    values = (_plain(value) for value in _values(column))
    return pa.array(
        (v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values), pa.string()
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: what JSON cannot say is null (NaN) or text (times, bytes)."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case pa.MonthDayNano():
            return f"{value.months} months {value.days} days {value.nanoseconds / 1e9} seconds"
        case list() | tuple():
            return [_plain(item) for item in value]
        case bytes():
            return value.hex()
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _cell(value: Any) -> str:
    """Return a value as a person reads it: NULL empty, floats to four digits after the point."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:g}"
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
