"""Tables at a terminal: drawn at once where that is all it takes, and then as Rich draws them."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage import terminal
from storage.terminal import draw_table

CELLS = st.one_of(
    st.text("ab 9.", max_size=6),
    st.sampled_from(["", "é", "日本", "a\nb", "\t", "\x1b[2J", "[bold]", "a  b", ":smile:", "-12.5", "x" * 30]),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    columns = draw(st.lists(st.tuples(CELLS, st.booleans()), max_size=4))
    row = st.lists(CELLS, min_size=len(columns), max_size=len(columns))
    return columns, draw(st.lists(row, max_size=4))


@settings(deadline=None)  # the first loads Rich
@given(table=tables(), width=st.one_of(st.none(), st.integers(4, 40)))
@example(table=([("a", False), ("n", True)], [["x", "1"], ["", "12"]]), width=None)
@example(table=([("a", False), ("n", True)], [["x", "1"], ["", "12"]]), width=10)
def test_a_table_is_the_same_however_it_is_drawn(
    table: tuple[list[tuple[str, bool]], list[list[str]]], width: int | None
) -> None:
    columns, rows = table
    names = [terminal.visible(name) for name, _ in columns]
    shown = [[terminal.visible(cell) for cell in row] for row in rows]
    assert draw_table(columns, rows, width) == terminal._drawn_by_rich(columns, names, shown, width)


def test_plain_cells_are_drawn_at_once() -> None:
    drawn = terminal._drawn_at_once([("a", False), ("n", True)], ["a", "n"], [["x", "1"], ["", "12"]], 12)
    assert drawn == "┏━━━┳━━━━┓\n┃ a ┃  n ┃\n┡━━━╇━━━━┩\n│ x │  1 │\n│   │ 12 │\n└───┴────┘\n"
    assert terminal._drawn_at_once([("a", False), ("n", True)], ["a", "n"], [["x", "1"], ["", "12"]], 9) is None
