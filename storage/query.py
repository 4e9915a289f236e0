"""One SQL query over a catalog: nothing but reading is carried out, and what is wrong is said in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from schemas.errors import QueryError, StoreError
from storage.files import transport_errors
from storage.keyless import nodes, without_keys
from storage.late_keys import with_late_keys
from storage.sandbox import file_error, unreadable

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

_READ_ONLY = (
    "the catalog is read-only: ask with SELECT, FROM, WITH, DESCRIBE, SHOW or SUMMARIZE, save answers with -o FILE"
)
_BLANK = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)"
# What stands before the explained statement. Where this misreads the text, the rest is no SELECT and is refused.
_EXPLAIN = re.compile(
    rf"{_BLANK}*EXPLAIN\b{_BLANK}*(?:ANALYZE\b{_BLANK}*)?(?:\(\s*(?:ANALYZE|FORMAT)\b[^()]*\){_BLANK}*)?", re.I | re.S
)
# Where in the query it happened. Messages of a query's own making have no such line behind an empty one.
_QUOTATION = re.compile(r"\n\nLINE \d+: .*\Z", re.S)
_UNKNOWN_TABLE = re.compile(r"Table with name .* does not exist")
# Arrow has no such types: DuckDB hands over other values (2**128 - 1 as -1) or bytes that only it can read.
_NOT_IN_ARROW = frozenset(("bignum", "bit", "geometry", "time with time zone", "uhugeint", "variant"))
_NESTED = frozenset(("array", "list", "map", "struct", "union"))


def run_query(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object] = (),
    *,
    max_rows: int | None = None,
    max_seconds: float | None = None,
) -> pa.Table:
    """Return the result of one SELECT-like statement; columns of equal name are told apart by a number.

    The query runs in a read-only transaction of its own, so nothing of it stays in the connection. Columns of a type
    that Arrow does not have (bits, unsigned 128 bits, times with a zone) come as text. Ctrl-C stops it.

    Args:
        connection: an open catalog.
        sql: one statement.
        parameters: values of `?` and `$1`, in order, or of `$name`, by name. Put text of users here, never into `sql`.
        max_rows: return the first rows of the answer only.
        max_seconds: stop a query that takes longer.

    Raises:
        QueryError: not one statement, or one that could change something, or one that DuckDB refuses, or too slow.
        StoreError: a file of the store cannot be read.
    """
    _check_text(sql)
    asked = _checked(connection, sql)
    cursor = connection.cursor()
    try:
        return _interruptible(cursor, lambda: _answer(cursor, asked, sql, parameters, max_rows), max_seconds)
    except duckdb.Error as error:
        raise _translated(connection, error, as_asked=asked == sql) from None
    except transport_errors() as error:
        raise unreadable(str(error)) from error
    finally:
        cursor.close()


def _answer(
    cursor: duckdb.DuckDBPyConnection,
    asked: str,
    sql: str,
    parameters: Sequence[object] | Mapping[str, object],
    max_rows: int | None,
) -> pa.Table:
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    try:
        relation = cursor.sql(asked, params=parameters or None)
    except (duckdb.BinderException, duckdb.CatalogException):
        if asked == sql:
            raise
        cursor.rollback()
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        relation = cursor.sql(sql, params=parameters or None)  # what is wrong is said of the query as it was written
    if max_rows is not None:
        relation = relation.limit(max_rows)
    names = _distinct(relation.columns)
    return _for_arrow(relation).to_arrow_table().rename_columns(names)


def _interruptible(
    cursor: duckdb.DuckDBPyConnection, work: Callable[[], pa.Table], max_seconds: float | None
) -> pa.Table:
    """Let another thread do the work and wait here for it, or for Ctrl-C, which DuckDB does not see while it works."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        answer = pool.submit(work)
        try:
            if not wait([answer], timeout=max_seconds).done:
                _interrupt(cursor, answer)
                raise QueryError(f"the query took longer than {max_seconds:g} seconds; ask for less of it")
            return answer.result()
        except KeyboardInterrupt:
            _interrupt(cursor, answer)
            raise


def _interrupt(cursor: duckdb.DuckDBPyConnection, answer: Future[pa.Table]) -> None:
    # Again and again: what comes between two statements of the work is forgotten.
    while not answer.done():
        cursor.interrupt()
        wait([answer], timeout=0.1)


def _for_arrow(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Return the relation with the columns as text that would not be themselves in Arrow."""
    lost = [_is_lost(kind) for kind in relation.types]
    if not any(lost):
        return relation
    columns = enumerate(lost, start=1)
    return relation.project(", ".join(f"CAST(#{n} AS VARCHAR)" if as_text else f"#{n}" for n, as_text in columns))


def _is_lost(kind: DuckDBPyType) -> bool:
    if kind.id in _NOT_IN_ARROW:
        return True
    children = (child for _, child in kind.children) if kind.id in _NESTED else ()
    # Among an array's children is its size.
    return any(not isinstance(child, int | list) and _is_lost(child) for child in children)


def _check_text(sql: str) -> None:
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"the query is not UTF-8 at character {error.start + 1}; save or type it as UTF-8") from None


def _checked(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return the query as it is to be asked; refuse everything that is not one statement that only reads.

    Raises:
        QueryError: saying what was found instead.
    """
    statement = _single(sql)
    explain = ""
    if statement.type is duckdb.StatementType.EXPLAIN:
        # The text behind EXPLAIN is looked at by itself: EXPLAIN ANALYZE carries out what it explains.
        explained = _EXPLAIN.sub("", statement.query, count=1)
        explain = statement.query.removesuffix(explained) + " "
        statement = _single(explained)
    if statement.type is duckdb.StatementType.MULTI:
        raise QueryError(f"{_READ_ONLY}; a PIVOT needs its values: PIVOT tags ON label_id IN ('cat', 'dog') USING ...")
    if statement.type is not duckdb.StatementType.SELECT:
        raise QueryError(f"{statement.type.name.replace('_', ' ')} refused: {_READ_ONLY}")
    try:
        return explain + _sooner(connection, statement.query)
    except RecursionError:
        raise QueryError(
            "the query is nested too deeply to be checked; ask for long sums and chains in parts"
        ) from None


def _sooner(connection: duckdb.DuckDBPyConnection, select: str) -> str:
    """Return a query with the same answer that asks for keys where they are wanted, and as late as may be.

    Raises:
        QueryError: it does more than select.
    """
    tree = _parsed(connection, select)
    written = _writing_nodes(tree)
    if written:
        raise QueryError(f"{written} inside WITH refused: {_READ_ONLY}")
    late = with_late_keys(tree, partial(_parsed, connection))
    if late is None:
        return without_keys(select, tree)
    with connection.cursor() as cursor:
        row = cursor.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(late)]).fetchone()
    return str(row[0]) if row else select


def _single(sql: str) -> duckdb.Statement:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    if len(statements) != 1:
        raise QueryError(f"expected one statement, got {len(statements)}: ask one question at a time")
    return statements[0]


def _parsed(connection: duckdb.DuckDBPyConnection, select: str) -> Any:
    with connection.cursor() as cursor:
        row = cursor.execute("SELECT json_serialize_sql(?)", [select]).fetchone()
    return json.loads(row[0]) if row else {"error": True}


def _writing_nodes(tree: Any) -> str:
    """Return the kind of statement that a WITH clause carries out, if it does more than select.

    DuckDB 2 calls `WITH a AS (COPY ... TO ...) FROM a` a SELECT, so the parsed tree has to be looked at.
    """
    if tree["error"]:
        return "a statement that cannot be checked"
    kinds = {str(node.get("type")) for node in nodes(tree["statements"])}
    return ", ".join(sorted(kind.removesuffix("_QUERY_NODE") for kind in kinds if kind.endswith("_QUERY_NODE")))


def _translated(
    connection: duckdb.DuckDBPyConnection, error: duckdb.Error, *, as_asked: bool
) -> QueryError | StoreError:
    """Return our error for DuckDB's: its message, and what there is where a name is unknown or a file was asked for.

    Args:
        connection: an open catalog.
        error: what DuckDB raised.
        as_asked: whether the user wrote what DuckDB was asked; if not, its quotation of it is left out.
    """
    raised = file_error(error)
    if raised is not None:
        return raised
    message = str(error).strip()
    if not as_asked and isinstance(error, duckdb.DataError):
        message = _QUOTATION.sub("", message)
    if isinstance(error, duckdb.PermissionException):
        return QueryError(f"{message}\nqueries read the views of the store, and no files")
    if _UNKNOWN_TABLE.search(message):
        with connection.cursor() as cursor:
            names = cursor.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal")
            return QueryError(f"{message}\nthe views are: {', '.join(sorted(row[0] for row in names.fetchall()))}")
    return QueryError(message)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that came before."""
    distinct: list[str] = []
    for name in names:
        number = 0
        candidate = name
        while candidate in distinct:
            number += 1
            candidate = f"{name}_{number}"
        distinct.append(candidate)
    return distinct
