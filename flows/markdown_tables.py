"""Tables in Markdown. Labels, keys and places are other people's text: a bar in one ends no cell, a line no row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a table: its head, and a line for each row."""
    heads = list(columns)
    yield table_row(heads)
    yield f"|{'---|' * len(heads)}"
    yield from map(table_row, rows)


def table_row(cells: Iterable[object]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return " ".join(str(value).splitlines()).replace("|", "\\|")
