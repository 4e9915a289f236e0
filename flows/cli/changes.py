"""The changes of a taxonomy as a table that a person can still read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.cli.output import print_lines, print_table

_MOST_ROWS = 50


def print_changes(rows: Sequence[Mapping[str, str | None]]) -> None:
    """Print a row for each change, the first of many, on stdout."""
    from flows.taxonomies.summary import CHANGE_COLUMNS

    if rows:
        print_table(rows[:_MOST_ROWS], CHANGE_COLUMNS)
    if len(rows) > _MOST_ROWS:
        print_lines([f"and {len(rows) - _MOST_ROWS:,} more changes (--json has all)"])
