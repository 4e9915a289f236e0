"""Markdown tables of other people's text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from flows.markdown_tables import table


def test_a_bar_ends_no_cell_and_a_line_no_row() -> None:
    lines = list(table(("label", "images"), [("a|b", 3), ("two\nlines", "<|>")]))
    assert lines == ["| label | images |", "|---|---|", "| a\\|b | 3 |", "| two lines | <\\|> |"]


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3)))
def test_every_row_is_a_line_of_as_many_cells_as_there_are_columns(rows: list[list[str]]) -> None:
    lines = list(table("abc", rows))
    assert len(lines) == len(rows) + 2
    assert all(len(line.splitlines()) == 1 and len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)
