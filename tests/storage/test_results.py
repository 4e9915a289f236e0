"""How results are written: every type in every format, and nothing in a terminal but text."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import QueryError
from storage.query import run_query
from storage.results import FORMATS, Format, write_result
from storage.sandbox import connect


def ask(sql: str) -> pa.Table:
    with connect() as connection:
        return run_query(connection, sql)


def text(table: pa.Table, format: Format, max_rows: int | None = None) -> str:
    buffer = io.StringIO()
    write_result(table, format, buffer, max_rows=max_rows)
    return buffer.getvalue()


EVERY_TYPE = """
SELECT 1 AS i, 3::HUGEINT AS h, 1.5::DECIMAL(4, 2) AS d, 'nan'::DOUBLE AS nan, 'inf'::FLOAT AS inf, NULL AS nothing,
    TIMESTAMPTZ '2026-06-01 12:00:00+00' AS at, DATE '2026-06-01' AS day, INTERVAL 1 DAY AS span, true AS yes,
    ['a', 'é"'] AS list, {'x': 'nan'::DOUBLE} AS struct, 'ab'::BLOB AS blob, 'a,"b"' AS quoted, 'a'::ENUM ('a') AS enum
"""


def test_json_is_an_array_of_objects_that_any_parser_reads() -> None:
    (row,) = json.loads(text(ask(EVERY_TYPE), "json"))
    assert row == {
        "i": 1,
        "h": 3,
        "d": 1.5,
        "nan": None,
        "inf": None,
        "nothing": None,
        "at": "2026-06-01T12:00:00+00:00",
        "day": "2026-06-01",
        "span": "1 day",
        "yes": True,
        "list": ["a", 'é"'],
        "struct": {"x": None},
        "blob": "6162",
        "quoted": 'a,"b"',
        "enum": "a",
    }
    rows = json.loads(text(ask("SELECT range AS n FROM range(25000)"), "json"))
    assert [row["n"] for row in rows] == list(range(25000))


def test_csv_and_parquet_take_every_type() -> None:
    table = ask(EVERY_TYPE)
    header, row = text(table, "csv").splitlines()
    assert header.startswith('"i","h","d"')
    assert row.startswith('1,3,1.50,nan,inf,,"2026-06-01 12:00:00+00","2026-06-01","1 day",true,')
    assert '"[""a"", ""é\\""""]"' in row and '"a,""b"""' in row
    buffer = io.BytesIO()
    write_result(table, "parquet", buffer)
    back = pq.read_table(buffer).to_pylist()[0]
    assert back["at"] == datetime(2026, 6, 1, 12, tzinfo=UTC) and back["list"] == ["a", 'é"']


def test_a_table_is_for_reading() -> None:
    rows = [{"key": f"[red]{number}é", "score": number / 3, "labels": ["a"]} for number in range(1, 6)]
    lines = text(pa.Table.from_pylist(rows), "table", max_rows=2).splitlines()
    assert "[red]1é" in lines[3] and '["a"]' in lines[3]
    assert "│ 0.3333 │" in lines[3]
    assert lines[-1] == "5 rows, 3 of them not shown"
    assert len(lines) == 7
    wide = pa.table({"key": ["x" * 500], "null": pa.array([None], pa.string())})
    assert "x" * 500 in text(wide, "table"), "nothing is cut where nobody looks"


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_bytes_get_the_same_as_files_of_text(tmp_path: Path, format: Format) -> None:
    table = pa.table({"key": ["é"], "score": [0.5]})
    with (tmp_path / "out").open("wb") as file:
        write_result(table, format, file)
    if format == "parquet":
        assert pq.read_table(tmp_path / "out").equals(table)
        with pytest.raises(QueryError, match="-o FILE"):
            write_result(table, format, io.StringIO())
    else:
        assert (tmp_path / "out").read_text(encoding="utf-8") == text(table, format)


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(QueryError, match="'xml'; known: csv, json, parquet, table"):
        write_result(pa.table({"a": [1]}), "xml", io.StringIO())  # type: ignore[arg-type]


VALUES = {
    "hugeint": "170141183460469231731687303715884105727::HUGEINT",
    "uhugeint": "340282366920938463463374607431768211455::UHUGEINT",
    "ubigint": "18446744073709551615::UBIGINT",
    "decimal": "1.5::DECIMAL(38, 10)",
    "bignum": "12345678901234567890123456789012345678901234567890::BIGNUM",
    "double": "'-inf'::DOUBLE",
    "bit": "'10101'::BIT",
    "blob": "'\\xAA\\x00'::BLOB",
    "text": "chr(0) || chr(27) || chr(10) || '\"'",
    "enum": "'a'::ENUM ('a', 'b')",
    "uuid": "uuid()",
    "json": "'{\"a\": [1]}'::JSON",
    "geometry": "'POINT(1 2)'::GEOMETRY",
    "variant": "{'a': 1}::VARIANT",
    "date": "DATE '2026-06-01'",
    "late date": "DATE '290000-01-01'",
    "early date": "DATE '0044-03-15 (BC)'",
    "infinite date": "DATE '-infinity'",
    "time": "TIME '12:00:00.123456'",
    "late time": "TIME '24:00:00'",
    "time in ns": "TIME_NS '12:00:00.123456789'",
    "time with a zone": "TIMETZ '12:00:00+02'",
    "timestamp": "TIMESTAMP '290000-01-01 00:00:00'",
    "infinite timestamp": "TIMESTAMP '-infinity'",
    "timestamp with a zone": "TIMESTAMPTZ '290000-01-01 00:00:00+00'",
    "infinite timestamp with a zone": "TIMESTAMPTZ 'infinity'",
    "timestamp in ms": "TIMESTAMP_MS 'infinity'",
    "timestamp in ns": "TIMESTAMP_NS '2026-06-01 00:00:00.123456789'",
    "infinite timestamp in ns": "TIMESTAMP_NS 'infinity'",
    "interval": "INTERVAL '1 month 2 days 3.5 seconds'",
    "list": "[TIMESTAMP 'infinity', NULL]",
    "array": "[DATE 'infinity', NULL]::DATE[2]",
    "map": "MAP {DATE 'infinity': 1}",
    "deep": "{'a': [{'b': TIMESTAMP_NS '2026-06-01 00:00:00.123456789'}]}",
    "tuple": "row(1, [])",
    "null": "NULL",
    "nulls": "[NULL, NULL]",
}
# What Parquet has no type for; the other formats write it.
NOT_IN_PARQUET = {
    "union": "union_value(i := 1)",
    "unions": "[union_value(d := DATE 'infinity')]",
    "intervals": "[INTERVAL 1 DAY]",
    "interval by name": "MAP {[1]: INTERVAL 1 DAY}",
    "empty struct": "{}",
    "infinite timestamp in s": "TIMESTAMP_S 'infinity'",
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", VALUES | NOT_IN_PARQUET)
def test_every_type_can_be_written_or_is_refused_with_the_next_step(name: str, format: Format) -> None:
    value = (VALUES | NOT_IN_PARQUET)[name]
    for table in (
        ask(f"SELECT {value} AS v, 1 AS n UNION ALL SELECT NULL, 2"),
        ask(f"SELECT {value} AS v WHERE false"),
    ):
        buffer = io.BytesIO()
        if format == "parquet" and name in NOT_IN_PARQUET and (table.num_rows or "infinite" not in name):
            with pytest.raises(QueryError, match=r"parquet cannot hold .*CAST\(\.\.\. AS VARCHAR\), or choose csv"):
                write_result(table, format, buffer)
            assert buffer.getvalue() == b"", "half a file is worse than none"
            continue
        write_result(table, format, buffer)
        if format == "json":
            assert len(json.loads(buffer.getvalue())) == table.num_rows
        if format == "parquet":
            assert pq.read_table(buffer).num_rows == table.num_rows


TIMES = """
SELECT * FROM (VALUES
    (1, TIMESTAMPTZ '2026-06-01 12:00:00+00', [DATE 'infinity']),
    (2, 'infinity', [DATE '2026-06-01']),
    (3, '290000-01-01 00:00:00+00', NULL)) AS t(n, moment, days) ORDER BY n
"""


def test_times_that_python_cannot_hold_are_as_duckdb_writes_them() -> None:
    table = ask(TIMES)
    rows = json.loads(text(table, "json"))
    assert [row["moment"] for row in rows] == ["2026-06-01T12:00:00+00:00", "infinity", "290000-01-01 00:00:00+00"]
    assert [row["days"] for row in rows] == ["[infinity]", ["2026-06-01"], None]
    moments = [line.split(",")[1] for line in text(table, "csv").splitlines()]
    assert moments == ['"moment"', '"2026-06-01 12:00:00+00"', '"infinity"', '"290000-01-01 00:00:00+00"']
    assert "│ infinity " in text(table, "table")


def test_no_rows_keep_their_columns() -> None:
    table = ask("SELECT 'a' AS key, 0.5 AS score, DATE 'infinity' AS day WHERE false")
    assert text(table, "json") == "[]\n"
    assert text(table, "csv") == '"key","score","day"\n'
    assert "key" in text(table, "table") and text(table, "table").endswith("\n0 rows\n")


def test_no_columns_are_no_error() -> None:
    assert [text(pa.table({}), format) for format in ("json", "csv")] == ["[]\n", ""]
    assert text(pa.table({}), "table").endswith("0 rows\n")
    write_result(pa.table({}), "parquet", io.BytesIO())


NASTY = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\u202egpj\u2028"


def test_control_characters_are_spelled_out_in_tables_and_exact_elsewhere() -> None:
    table = pa.table({NASTY: [NASTY], "nested": [[NASTY, "two\nlines"]]})
    shown = text(table, "table")
    assert not any(character in shown for character in NASTY if not character.isprintable())
    assert shown.count(r"\x1b]0;owned\x07\x1b[31mred\x9b2J\x0d\u202egpj\u2028") == 2
    assert json.loads(text(table, "json"))[0][NASTY] == NASTY
    assert NASTY in text(table, "csv")
    buffer = io.BytesIO()
    write_result(table, "parquet", buffer)
    assert pq.read_table(buffer)[NASTY].to_pylist() == [NASTY]
