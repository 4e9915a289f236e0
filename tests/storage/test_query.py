"""Running one query, and what is said when it is wrong."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import duckdb
import pytest

from schemas.errors import QueryError
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from tests.stores import Shard, make_model, make_run, make_taxonomy


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    make_model(folder)
    make_run(folder, "r1", make_taxonomy("ant", "bee"), {"0": Shard(scores={"ant": [0.9, 0.2, 0.6]})})
    with open_catalog(folder) as connection:
        yield connection


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM tags",
        "select key from tags order by score desc limit 1;",
        "/* a ; b */ WITH a AS (FROM tags) SELECT * FROM a -- ; DROP VIEW tags",
        "FROM tags",
        "TABLE tags",
        "VALUES (1), (2)",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "DESCRIBE tags",
        "SHOW TABLES",
        "SUMMARIZE tags",
        "EXPLAIN SELECT * FROM tags",
        "explain analyze select 'COPY x TO y' from tags",
        "EXPLAIN (FORMAT json) SELECT 1",
        "EXPLAIN ANALYZE (SELECT 1)",
        "PIVOT tags ON label_id IN ('ant', 'bee') USING count(*)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t",
        "SELECT 'COPY_QUERY_NODE' AS type",
        "SELECT '; DROP VIEW tags' AS harmless",
    ],
)
def test_what_only_reads_is_carried_out(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert run_query(connection, sql).num_rows > 0


@pytest.mark.parametrize("sql", ["FROM range(10)", "FROM range(10) ORDER BY 1 DESC", "DESCRIBE tags", "SHOW TABLES"])
def test_the_first_rows_alone(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert run_query(connection, sql, max_rows=2).to_pylist() == run_query(connection, sql).to_pylist()[:2]
    assert run_query(connection, sql, max_rows=1000).num_rows == run_query(connection, sql).num_rows


def test_a_query_that_takes_too_long_is_stopped(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(QueryError, match=r"longer than 0\.1 seconds"):
        run_query(connection, "SELECT count(*) FROM range(1000000) a, range(1000000) b", max_seconds=0.1)
    assert run_query(connection, "SELECT 1", max_seconds=60).num_rows == 1


def test_values_are_bound_and_stay_data(connection: duckdb.DuckDBPyConnection) -> None:
    nasty = "x'; DROP VIEW tags; --"
    assert run_query(connection, "SELECT ? AS a, ? AS b", [nasty, 1]).to_pylist() == [{"a": nasty, "b": 1}]
    by_name = run_query(connection, "SELECT count(*) AS n FROM tags WHERE label_id = $label", {"label": "ant"})
    assert by_name.to_pylist() == [{"n": 2}]


def test_columns_of_one_name_are_told_apart(connection: duckdb.DuckDBPyConnection) -> None:
    table = run_query(connection, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")
    assert table.column_names == ["a", "a_1", "a_1_1", "a_2"]


def test_no_rows_keep_their_columns(connection: duckdb.DuckDBPyConnection) -> None:
    table = run_query(connection, "SELECT key, score FROM tags WHERE false")
    assert (table.num_rows, table.column_names) == (0, ["key", "score"])


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT * FROM tag",
            "(?s)Table with name tag does not exist.*the views are: all_scores, annotations, .* thresholds",
        ),
        ("SELECT lable FROM tags", 'Candidate bindings: .*"label"'),
        ("SELEC 1", "syntax error"),
        ("SELECT 1/", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement, got 2"),
        ("-- nothing", "one statement, got 0"),
        ("DROP VIEW tags", "DROP refused: the catalog is read-only.*-o FILE"),
        ("COPY tags TO 'x.csv'", "COPY refused.*-o FILE"),
        ("WITH a AS (COPY tags TO 'x.csv') FROM a", "COPY inside WITH refused"),
        ("EXPLAIN ANALYZE COPY tags TO 'x.csv'", "COPY refused"),
        ("PIVOT tags ON label_id USING count(*)", "ON label_id IN"),
        ("FROM read_csv('/etc/passwd')", "(?s)disabled by configuration.*views of the store, and no files"),
        ("SELECT '\udcff'", "not UTF-8 at character 9"),
        ("SELECT ?", "parameter|prepared"),
        ("SELECT 'x'::INT", "Could not convert"),
    ],
)
def test_errors_say_what_and_what_instead(connection: duckdb.DuckDBPyConnection, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        run_query(connection, sql)


def test_what_is_nested_too_deeply_to_be_checked_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    for deep in ("1" + " + 1" * 900, "key" + " || 'x'" * 900):
        with pytest.raises(QueryError, match="nested too deeply"):
            run_query(connection, f"select {deep} from tags")
    assert run_query(connection, "select key, score" + " + 1" * 100 + " from tags order by score limit 1").num_rows == 1


def test_a_failed_query_leaves_the_connection_usable(connection: duckdb.DuckDBPyConnection) -> None:
    for _ in range(3):
        with pytest.raises(QueryError):
            run_query(connection, "SELECT error('stop') FROM tags")
    assert run_query(connection, "SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'10101'::BIT", "10101"),
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("TIMETZ '12:00:00+02'", "12:00:00+02"),
        (f"{'123456789' * 6}::BIGNUM", "123456789" * 6),
        ("{'a': 1}::VARIANT", "{'a': 1}"),
        ("'POINT(1 2)'::GEOMETRY", "POINT (1 2)"),
        ("['101'::BIT]", "[101]"),
        ("['101'::BIT]::BIT[1]", "[101]"),
        ("{'a': [1::UHUGEINT]}", "{'a': [1]}"),
        ("MAP {'a': TIMETZ '12:00:00+02'}", "{a='12:00:00+02'}"),
        ("union_value(b := '101'::BIT)", "101"),
    ],
)
def test_what_arrow_cannot_hold_comes_as_text(connection: duckdb.DuckDBPyConnection, value: str, text: str) -> None:
    table = run_query(connection, f"SELECT 1 AS a, {value} AS a, 2 AS a")
    assert table.to_pylist() == [{"a": 1, "a_1": text, "a_2": 2}]


def test_ctrl_c_stops_a_query_and_leaves_the_connection_usable(connection: duckdb.DuckDBPyConnection) -> None:
    endless = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_query(connection, endless)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert run_query(connection, "SELECT 1 AS one").to_pylist() == [{"one": 1}]
