"""The rows of a CSV, as spreadsheets write it: with a mark, in UTF-16, with semicolons or tabs, after `sep=;`."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from schemas.errors import RequestError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ",;\t"  # what spreadsheets put between cells; the first counts where a header fits several
# Excel takes the separator from such a first line, and some programs write one for it.
_DECLARED = re.compile(r'"?sep=(?P<separator>[^"\r\n])"?(?:\r\n|\r|\n|$)', re.IGNORECASE)


def iter_csv_rows(
    data: bytes, name: str, known: Collection[str], on_bad: Callable[[int, csv.Error], None]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, the header among them, each with the number of its first line.

    Args:
        data: the file.
        name: of the file, for messages.
        known: names of columns, in lower case, by which the header tells what separates cells.
        on_bad: called for a line that cannot be parsed, with its number; the rest is read if it returns.

    Raises:
        RequestError: the file is neither UTF-8 nor UTF-16.
    """
    text = _decode(data, name)
    declared = _DECLARED.match(text)
    body = text[declared.end() :] if declared else text
    separator = declared["separator"] if declared else _separator(body, known)
    skipped = 1 if declared else 0
    lines = csv.reader(io.StringIO(body, newline=""), strict=True, delimiter=separator)
    while True:
        number = lines.line_num + 1 + skipped
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            on_bad(number, error)
            continue
        if cells:
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


def _decode(data: bytes, name: str) -> str:
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore").split("\n")
        raise RequestError(
            f"{name!r} is not {encoding.removesuffix('-sig').upper()}: line {len(before)}, character "
            f"{len(before[-1]) + 1}: {error.reason}; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    if "\0" in text:
        raise RequestError(f"{name!r} has NUL characters, as UTF-16 without its mark has; save it as UTF-8")
    return text


def _separator(text: str, known: Collection[str]) -> str:
    """Return what separates the cells: that with which the header has the most columns that are known."""
    header = next((line for line in io.StringIO(text, newline="") if line.strip("\r\n")), "").replace('"', "")
    return max(_SEPARATORS, key=lambda each: len(set(known).intersection(map(plain_name, header.split(each)))))
