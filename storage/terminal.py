"""What a person reads at a terminal: text without control characters, and tables of it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

# Keys and labels come from other people's files. In a terminal an escape sequence moves the cursor, hides text or
# changes the clipboard, and a mark of direction shows text in another order; line ends and tabs only lay text out.
# Halves of surrogate pairs stand for bytes of file names that are not UTF-8, and cannot be printed at all.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNLIMITED = 1_000_000
_PLAIN = re.compile(r"[!-~](?:[ -~]*[!-~])?|")  # ASCII, without space around it


def visible(text: str) -> str:
    r"""Return `text` with its control characters spelled out, as `\x1b`."""
    return _CONTROL.sub(lambda found: _spelled(ord(found[0])), text)


def draw_table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], width: int | None) -> str:
    """Return a table for reading.

    Args:
        columns: the name of each, and whether it holds numbers, which stand to the right.
        rows: cells of text, as many as there are columns.
        width: characters at which cells fold; None, where nobody looks at it: lines stay whole.
    """
    lines = [[visible(cell) for cell in row] for row in rows]
    names = [visible(name) for name, _ in columns]
    return _drawn_at_once(columns, names, lines, width) or _drawn_by_rich(columns, names, lines, width)


def _drawn_at_once(
    columns: Sequence[tuple[str, bool]], names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> str | None:
    """Return what Rich would draw, of ASCII in one line that needs no folding; else None. Loading Rich takes longer."""
    cells = [*names, *(cell for row in rows for cell in row)]
    if not rows or not columns or not all(_PLAIN.fullmatch(cell) for cell in cells):
        return None
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    if width is not None and sum(widths) + 3 * len(widths) + 1 > width:
        return None

    def border(left: str, fill: str, between: str, right: str) -> str:
        return left + between.join(fill * (n + 2) for n in widths) + right

    def line(row: Sequence[str], bar: str) -> str:
        parts = zip(row, columns, widths, strict=True)
        return bar + bar.join(f" {cell:{'>' if number else '<'}{n}} " for cell, (_, number), n in parts) + bar

    head = [border("┏", "━", "┳", "┓"), line(names, "┃"), border("┡", "━", "╇", "┩")]
    return "\n".join([*head, *(line(row, "│") for row in rows), border("└", "─", "┴", "┘")]) + "\n"


def _drawn_by_rich(
    columns: Sequence[tuple[str, bool]], names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name, (_, number) in zip(names, columns, strict=True):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    buffer = io.StringIO()
    Console(file=buffer, width=width or _UNLIMITED, color_system=None, legacy_windows=False).print(table)
    return buffer.getvalue()


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
