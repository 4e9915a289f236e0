"""The rows of a CSV, as spreadsheets write it: with a mark, in UTF-16, with semicolons or tabs, after `sep=;`."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from schemas.errors import RequestError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # the first begins as UTF-16 does
_SAVE = "save it as UTF-8 (in Excel: CSV UTF-8)"
_SEPARATORS = ",;\t"  # what spreadsheets put between cells; the first counts where a header fits several
# Excel takes the separator from such a first line, and some programs write one for it.
_DECLARED = re.compile(r'"?sep=(?P<separator>[^"\r\n])"?(?:\r\n|\r|\n|$)', re.IGNORECASE)


def iter_csv_rows(
    data: bytes, name: str, known: Collection[str], on_bad: Callable[[int, str], None]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, the header among them, each with the number of its first line.

    Args:
        data: the file.
        name: of the file, for messages.
        known: names of columns, in lower case, by which the header tells what separates cells.
        on_bad: told of a line below the header that cannot be parsed: its number, and what is wrong and to be done. The
            rest is read if it returns.

    Raises:
        RequestError: the file is neither UTF-8 nor UTF-16, or its header cannot be parsed.
    """
    text = _decode(data, name)
    declared = _DECLARED.match(text)
    body = text[declared.end() :] if declared else text
    header = _first_line(body)
    _check_no_nul(header, name)
    separator = declared["separator"] if declared else _separator(header, known)
    skipped, has_header = 1 if declared else 0, False
    lines = csv.reader(io.StringIO(body, newline=""), strict=True, delimiter=separator)
    while True:
        number = lines.line_num + 1 + skipped
        try:
            cells = next(lines)
            _check_cells(cells)
        except StopIteration:
            return
        except csv.Error as error:
            if not has_header:  # the row below it would be taken for it
                raise RequestError(f"{name!r}: line {number} should be the header: {_advice(error)}") from None
            on_bad(number, _advice(error))
            continue
        if any(cell.strip() for cell in cells):  # Excel leaves rows of separators alone at the end
            has_header = True
            yield number, cells


def plain_name(column: str) -> str:
    """Return the name of a column as it is compared."""
    return column.strip().lower()


def check_columns(columns: Iterable[str], known: Collection[str], name: str) -> None:
    """Refuse a table in which a column that is known stands twice: one of the two would be lost.

    Raises:
        RequestError: it does.
    """
    counts = Counter(map(plain_name, columns))
    twice = [column for column, count in counts.items() if count > 1 and column in known]
    if twice:
        raise RequestError(f"{name!r} has several columns of one name: {', '.join(twice)}; leave one of each")


def _check_cells(cells: Sequence[str]) -> None:
    """Refuse a row with NUL characters: nothing that a store has is called so.

    Raises:
        csv.Error: it has some.
    """
    if any("\0" in cell for cell in cells):
        raise csv.Error("it has a NUL character; remove it")


def _advice(error: csv.Error) -> str:
    """Return what is wrong with a line, and what to do."""
    said = str(error)
    if "field limit" in said:
        return (
            f"a cell has more than {csv.field_size_limit():,} characters, as where a quote is never closed; close the "
            "quote, or shorten the cell"
        )
    return said if "NUL" in said else f"{said}; put cells with quotes, separators or line ends in quotes"


def _decode(data: bytes, name: str) -> str:
    if data.startswith(_UTF32):
        raise RequestError(f"{name!r} is UTF-32; {_SAVE}")
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore").split("\n")
        raise RequestError(
            f"{name!r} is not {encoding.removesuffix('-sig').upper()}: line {len(before)}, character "
            f"{len(before[-1]) + 1}: {error.reason}; {_SAVE}"
        ) from None


def _first_line(text: str) -> str:
    """Return the header, or its first line: the first that has more than separators."""
    return next((line for line in io.StringIO(text, newline="") if line.strip(f"{_SEPARATORS} \r\n")), "")


def _check_no_nul(header: str, name: str) -> None:
    """Refuse a header between whose letters stand NUL characters.

    Raises:
        RequestError: it has some.
    """
    if "\0" in header:
        encoding = "UTF-32" if "\0\0\0" in header else "UTF-16"
        raise RequestError(f"{name!r} has NUL characters in its header, as {encoding} without its mark has; {_SAVE}")


def _separator(header: str, known: Collection[str]) -> str:
    """Return what separates the cells: that with which the header has the most columns that are known."""
    names = header.replace('"', "")
    return max(_SEPARATORS, key=lambda each: len(set(known).intersection(map(plain_name, names.split(each)))))
