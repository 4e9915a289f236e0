"""What a query or a search found: kept by the server for a while, so that pages of it have an address."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.browse.catalogs import Catalog
from flows.browse.filters import Place

MAX_ROWS = 5000  # of a query's answer
MAX_SECONDS = 30.0
_HELD = 30
_SHOWN_COLUMNS = 4  # of a query's other columns, under each picture
_CELL = 300  # characters of a cell

_RESOLVED = """
WITH asked AS (SELECT * FROM (SELECT {columns}, unnest($ranks) AS rank))
SELECT min(a.rank) AS rank, s.dataset, s.shard, s.sample
FROM asked a JOIN samples s ON {conditions} {first}
GROUP BY s.dataset, s.shard, s.sample ORDER BY ALL LIMIT {limit}
"""
_TYPES = {"key": "VARCHAR", "shard": "VARCHAR", "dataset": "VARCHAR", "sample": "INTEGER"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """An answer: pictures, or a table."""

    title: str
    sql: str = ""  # that was asked; empty: it was a search
    source: str = ""
    places: Sequence[Place] = ()
    notes: Sequence[str] = ()  # one for each picture
    remarks: Sequence[str] = ()  # about the whole
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numeric: Sequence[bool] = ()
    name: str = field(default_factory=lambda: secrets.token_urlsafe(9))


class Results:
    """The answers of one server, the newest ones."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, found: Found) -> Found:
        """Keep an answer, and return it."""
        with self._lock:
            self._found[found.name] = found
            while len(self._found) > _HELD:
                self._found.popitem(last=False)
        return found

    def find(self, name: str) -> Found | None:
        """Return an answer by its name."""
        with self._lock:
            return self._found.get(name)


def ask(catalog: Catalog, sql: str) -> Found:
    """Return the answer to a person's query: pictures where it has keys of samples, else a table.

    Raises:
        QueryError: it is refused, wrong, or too slow.
    """
    table = catalog.table(sql, max_rows=MAX_ROWS + 1, max_seconds=MAX_SECONDS)
    remarks = [f"the first {MAX_ROWS:,} rows; the query yields more"] if table.num_rows > MAX_ROWS else []
    rows = table.slice(0, MAX_ROWS).to_pylist()
    names = list(table.column_names)
    named = {name.lower(): name for name in reversed(names)}
    common: dict[str, Any] = {"title": "query", "sql": sql, "source": catalog.source}
    if "key" in named and rows:
        by = {column: [row[named[column]] for row in rows] for column in _TYPES if column in named}
        resolved = _places(catalog, by, len(rows))
        if resolved:
            others = [name for name in names if name.lower() not in _TYPES][:_SHOWN_COLUMNS]
            notes = [", ".join(f"{name} {_cell(rows[rank][name])}" for name in others) for rank, *_ in resolved]
            places = [(dataset, shard, sample) for _, dataset, shard, sample in resolved]
            return Found(places=places, notes=notes, remarks=remarks, **common)
        remarks.append("no sample of the store has these keys, so here is the answer as a table")
    return Found(
        columns=names,
        rows=[[_cell(row[name]) for name in names] for row in rows],
        numeric=[all(isinstance(row[name], int | float | None) for row in rows) for name in names],
        remarks=remarks,
        **common,
    )


def _places(catalog: Catalog, by: dict[str, list[Any]], count: int) -> list[tuple[int, str, str, int]]:
    """Return the row that names each sample first, and where the sample stands, in the order of the rows."""
    columns = ", ".join(f"unnest(${name})::{kind} AS {name}" for name, kind in _TYPES.items() if name in by)
    conditions = " AND ".join(f"s.{name} = a.{name}" for name in by)
    first = "" if "sample" in by else "AND s.status <> 'duplicate_key'"
    sql = _RESOLVED.format(columns=columns, conditions=conditions, first=first, limit=MAX_ROWS)
    values = {name: [None if each is None else str(each) for each in column] for name, column in by.items()}
    found = catalog.ask(sql, {"ranks": list(range(count)), **values})
    return [(row["rank"], row["dataset"], row["shard"], row["sample"]) for row in found]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"
