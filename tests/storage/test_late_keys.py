"""The first rows of a view with their keys: asked otherwise, answered alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import QueryError
from storage.late_keys import LATE_VIEWS, with_late_keys
from storage.query import run_query

VIEWS = ("tags", "scores", "all_scores")
COLUMNS = "dataset, run_id, shard, sample, key, label_id, score"


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Views of 60 rows as a catalog makes them: three labels, two shards, scores with ties, a sample without a row."""
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA keyless; CREATE SCHEMA internal")
        connection.execute(
            "CREATE TABLE internal.rows AS SELECT 'd' AS dataset, 'r' AS run_id, 's' || i % 2 AS shard, i // 6 AS "
            "sample, 'l' || i % 3 AS label_id, (i * 7 % 10) / 10 AS score FROM range(60) r(i)"
        )
        connection.execute(
            "CREATE TABLE samples AS SELECT DISTINCT dataset, run_id, shard, sample, 'k' || (97 * sample) % 10 "
            "|| shard AS key FROM internal.rows WHERE sample <> 4; CREATE VIEW internal.all_samples AS FROM samples"
        )
        for name in VIEWS:
            connection.execute(f"CREATE VIEW keyless.{name} AS FROM internal.rows")
            connection.execute(
                f"CREATE VIEW {name} AS SELECT {COLUMNS} FROM internal.rows LEFT JOIN samples "
                "USING (dataset, run_id, shard, sample)"
            )
        for name, query in LATE_VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {query}")
        yield connection


def tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    return json.loads(row[0])


def is_rewritten(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return with_late_keys(tree(connection, sql), partial(tree, connection)) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT shard, key, score FROM tags WHERE label_id = 'l1' ORDER BY score DESC, sample, shard LIMIT 5",
        'select T.KEY k, t."shard", round(score, 1) from TAGS t where score > 0.2 order by t.sample limit 3 offset 2',
        "select key, key, sample from scores order by sample, shard, label_id limit 4",
        "select key from all_scores where label_id in ('l1', 'l2') or score between 0.1 and 0.3 order by score limit 7",
        "select all_scores.key, 2 * score + 1 as twice from all_scores order by score desc nulls last limit 0",
        "select key from tags order by score limit 1 + 2",
    ],
)
def test_the_first_rows_are_taken_before_their_keys(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert is_rewritten(connection, sql)
    found, expected = run_query(connection, sql), connection.execute(sql).fetchall()
    assert len(found) == len(expected)
    assert connection.sql(sql).columns[0] == found.column_names[0]


@pytest.mark.parametrize(
    "sql",
    [
        "select key from tags order by score",
        "select key from tags limit 5",
        "select shard from tags order by score limit 5",
        "select * from tags order by score limit 5",
        "select key from tags order by key limit 5",
        "select key as score from tags order by score limit 5",
        "select key, -score as shard from tags order by shard limit 5",
        "select key from tags order by 1 limit 5",
        "select key from tags order by all limit 5",
        "select key from tags order by score + 1 limit 5",
        "select key from tags where key > 'k2' order by score limit 5",
        "select lower(key) from tags order by score limit 5",
        "select key, lower(key) from tags order by score limit 5",
        "select distinct key from tags order by score limit 5",
        "select distinct on (shard) key from tags order by score limit 5",
        "select key, count(*) from tags group by all order by key limit 5",
        "select key, row_number() over (order by score) from tags order by score limit 5",
        "select key from tags qualify row_number() over (order by score) = 1 order by score limit 5",
        "select key, unnest([1, 2]) from tags order by score limit 5",
        "select key, random() from tags order by score limit 5",
        "select key, tags from tags order by score limit 5",
        "select t from tags t order by score limit 5",
        "select key from tags a join scores b using (sample) order by a.score limit 5",
        "select key from tags where sample in (select sample from scores) order by score limit 5",
        "with tags as (select 1 as score, 'x' as key) select key from tags order by score limit 5",
        "select a from tags t(a, b, c, d, key, e, score) order by score limit 5",
        "select key from tags using sample 5 rows order by score limit 5",
        "select key from main.tags order by score limit 5",
        "select key from samples order by sample limit 5",
        """select key, "The shard" from tags order by score limit 5""",
        """select key, keys."the sample" from tags order by score limit 5""",
        "select key from tags order by score limit 10%",
        "(select key from tags order by score limit 5) union all select 'x'",
        "select 1",
    ],
)
def test_whatever_else_stays(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert not is_rewritten(connection, sql)


def test_parameters_and_errors_are_those_of_the_query(connection: duckdb.DuckDBPyConnection) -> None:
    sql = "select key, score from tags where label_id = ? and score < ? order by sample, shard limit ?"
    assert is_rewritten(connection, sql)
    found = run_query(connection, sql, ["l1", 0.5, 3])
    assert [tuple(row.values()) for row in found.to_pylist()] == connection.execute(sql, ["l1", 0.5, 3]).fetchall()
    named = "select key from tags where label_id = $label order by sample, shard limit 2"
    assert run_query(connection, named, {"label": "l1"}).num_rows == 2
    with pytest.raises(QueryError, match="nothing") as raised:
        run_query(connection, "select key, nothing from tags order by score limit 5")
    assert "keyless" not in str(raised.value) and "the shard" not in str(raised.value)


ITEMS = ["key", "t.key", "key as k", "shard", "score", "round(score, 1) as score", "-score as label_id", "key as shard"]
ITEMS += ["count(*)", "max(key)", "t", "*", "t.*", "upper(label_id)", "upper(key)", "sample as key"]
ITEMS += ["row_number() over (order by sample, shard, label_id)", "case when score > 0.5 then 'a' else 'b' end as c"]
WHERE = ["true", "score > 0.2", "key > 'k3'", "label_id = 'l1' and not sample = 2", "k > 'k3'", "t.shard like 's%'"]
ORDER = ["score", "score desc", "t.score", "shard", "label_id desc nulls first", "key", "k", "1", "abs(score)"]
UNIQUE = "t.sample, t.shard, t.label_id"  # so that there is one answer


@settings(max_examples=120, deadline=None)
@given(
    items=st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4),
    where=st.sampled_from(WHERE),
    order=st.lists(st.sampled_from(ORDER), max_size=2),
    limit=st.sampled_from(["limit 3", "limit 7 offset 2", "limit 100", "", "limit 20%"]),
    view=st.sampled_from(VIEWS),
)
def test_answers_are_those_of_the_query_as_written(
    connection: duckdb.DuckDBPyConnection,
    items: list[str],
    where: str,
    order: list[str],
    limit: str,
    view: str,
) -> None:
    ordered = ", ".join([*order, UNIQUE])
    sql = f"select {', '.join(items)} from {view} t where {where} order by {ordered} {limit}"
    try:
        expected = connection.execute(sql).fetchall()
    except duckdb.Error:
        with pytest.raises(QueryError):
            run_query(connection, sql)
        return
    found = run_query(connection, sql)
    assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == expected
