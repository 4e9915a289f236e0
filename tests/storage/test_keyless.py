"""Which queries are asked of views without keys, and that nobody can tell."""

from __future__ import annotations

import json

import duckdb
import pytest

from schemas.errors import QueryError
from storage.keyless import without_keys
from storage.query import run_query

MAIN = "create table {} as select i as sample, i % 3 as label, i / 10 as score, 'k' || i as key from range(20) r(i)"


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    """Return views with keys, and twins of them that can be told apart: they lack the last row."""
    connection = duckdb.connect()
    connection.execute(
        "create schema keyless; create table samples as select i as sample, 'k' || i as key from range(20) r(i)"
    )
    for name in ("tags", "scores", "all_scores"):
        connection.execute(MAIN.format(name))
        connection.execute(
            f"create view keyless.{name} as select sample, label, score from main.{name} where sample < 19"
        )
    return connection


def rewritten(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    row = connection.execute("select json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    return without_keys(sql, json.loads(row[0]))


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from tags",
        "select label, count(*) from TAGS group by all order by 2 desc limit 3",
        "select t.label, max(s.score) from tags t join scores s using (sample, label) group by all",
        "select count(*) from (select sample from tags where label = 1 intersect select sample from scores)",
        "select label from scores semi join tags using (sample) where score > (select avg(score) from all_scores)",
        "with a as (select label, score from tags) select label, sum(score) as total from a group by all",
        "select 'ünïcödé key', label from tags",
        "select tags.label from tags qualify row_number() over (partition by label order by score) = 1",
        "select case when score > 1 then 'a' else 'b' end as k, count(*) filter (label = 1) from tags group by 1",
    ],
)
def test_no_key_no_join(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    asked = rewritten(connection, sql)
    assert asked != sql and asked.replace("keyless.", "") == sql
    assert connection.sql(asked).columns == connection.sql(sql).columns


@pytest.mark.parametrize(
    "sql",
    [
        "select key from tags",
        'select t."KEY" from tags t',
        "select a.key from tags a where exists (select 1 from tags b where b.key = a.key)",
        "select key from tags a join scores b using (sample)",
        "select * from tags",
        "from tags",
        "select t.* from tags t",
        "select columns('k.*') from tags",
        "select tags from tags",
        "select t from tags t",
        "describe tags",
        "summarize tags",
        "pivot tags on label in (1, 2) using count(*)",
        "select count(*) from tags natural join samples",
        "select count(*) from tags join samples using (key)",
        "with tags as (select 1 as label) select label from tags",
        "select a from tags as t(a, b, c, d)",
        "select #2 from tags",
        "select label from tags order by #1",
        "select samples.sample from samples join tags using (sample, key)",
        "select count(*) / (select count(*) from scores) from tags",
        "select x.m from (select (select max(score) from tags)) x(m)",
        "select current_query() from tags",
        "select label from main.tags",
        "select count(*) from query('select key from tags')",
        "select count(*) from samples",
        "select 1",
    ],
)
def test_where_a_key_may_be_needed_the_query_stays(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert rewritten(connection, sql) == sql


def test_tables_whose_key_is_named_keep_it(connection: duckdb.DuckDBPyConnection) -> None:
    sql = "select a.key, b.label from tags a join tags b using (sample) where A.score > 0"
    assert rewritten(connection, sql) == sql.replace("join tags", "join keyless.tags")
    sql = "select tags.key from tags where sample in (select s.sample from scores s)"
    assert rewritten(connection, sql) == sql.replace("scores", "keyless.scores")
    assert run_query(connection, sql).num_rows == 19


def test_the_twins_are_asked(connection: duckdb.DuckDBPyConnection) -> None:
    assert run_query(connection, "select count(*) as n from tags").to_pylist() == [{"n": 19}]
    assert run_query(connection, "select count(key) as n from tags").to_pylist() == [{"n": 20}]
    assert run_query(connection, "select count(*) as n from tags where label = ?", [0]).to_pylist() == [{"n": 7}]


def test_what_is_wrong_is_said_of_the_query_as_it_was_written(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(QueryError, match="nothing") as raised:
        run_query(connection, "select nothing from tags")
    assert "keyless" not in str(raised.value)


def test_what_fails_on_the_way_is_said_without_the_text_that_was_asked(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(QueryError, match="Could not convert string 'x0' to INT32") as raised:
        run_query(connection, "select ('x' || label)::int from tags")
    assert "keyless" not in str(raised.value)


def test_explained_is_what_is_carried_out(connection: duckdb.DuckDBPyConnection) -> None:
    (row,) = run_query(connection, "explain analyze select count(*) from tags").to_pylist()
    assert "19 rows" in row["explain_value"]
