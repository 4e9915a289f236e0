"""CSV and Parquet: a row for each answer (`key`, `label`, `value`, ...), or as `pack` has them (`path`, `labels`)."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from schemas.errors import RequestError
from storage.annotation_formats.content import (
    PICTURE_NAMES,
    Entry,
    FileContent,
    Picture,
    parse_text,
    parse_time,
    parse_value,
    yes,
)
from storage.csv_rows import check_columns, iter_csv_rows, plain_name
from storage.pictures import LABEL_COLUMNS, split_labels

_LABEL_NAMES = ("label_id", "label")
_OTHERS = ("key", "value", "dataset", "shard", "at", "source")
_KNOWN = frozenset((*_OTHERS, *LABEL_COLUMNS, *PICTURE_NAMES, *_LABEL_NAMES))


def read_csv(data: bytes, name: str) -> FileContent:
    """Return what a CSV says, in any of the ways in which spreadsheets write one. A bad line does not end it.

    Raises:
        RequestError: it is neither UTF-8 nor UTF-16, its header cannot be parsed, or its columns say nothing of
            pictures and labels.
    """
    content = FileContent(format="csv")

    def on_bad(number: int, problem: str) -> None:
        content.bad.append(f"line {number}: {problem}")

    rows = iter_csv_rows(data, name, _KNOWN, on_bad)
    _, header = next(rows, (0, []))
    columns = _columns(header, name)
    for number, cells in rows:
        if len(cells) != len(header):
            content.bad.append(f"line {number}: {len(cells)} cells, and the header has {len(header)}")
        else:
            _add(content, {role: cells[place] for role, place in columns.items()}, f"line {number}")
    return content


def read_parquet(data: bytes, name: str) -> FileContent:
    """Return what a Parquet file says; `labels` may be lists of texts, times and numbers may be such.

    Raises:
        RequestError: it is no Parquet, or its columns say nothing of pictures and labels.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        columns = _columns(names, name)
        table = file.read(columns=[names[place] for place in columns.values()])
        cells = [_plain(table[names[place]]).to_pylist() for place in columns.values()]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RequestError(f"{name!r} is no Parquet file that can be read: {error}") from None
    content = FileContent(format="parquet")
    for number, row in enumerate(zip(*cells, strict=True), start=1):
        _add(content, dict(zip(columns, row, strict=True)), f"row {number}")
    return content


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in which times are such as Python has: no nanoseconds."""
    return column.cast(pa.timestamp("us", "UTC"), safe=False) if pa.types.is_timestamp(column.type) else column


def _columns(names: Sequence[str], name: str) -> dict[str, int]:
    """Return where the columns are that are known, by what they are for.

    Raises:
        RequestError: none says which picture a row is about, none says what is on it, or two do, or one stands twice.
    """
    check_columns(names, _KNOWN, name)
    known = {plain_name(column): place for place, column in enumerate(names)}
    found = {role: known[role] for role in (*_OTHERS, *LABEL_COLUMNS) if role in known}
    for role, spellings in (("path", PICTURE_NAMES), ("label", _LABEL_NAMES)):
        places = [known[spelling] for spelling in spellings if spelling in known]
        if places:
            found[role] = places[0]
    has = f"{name!r} has the columns {', '.join(names) or '(none)'}, and none that says"
    if not {"key", "path"} & found.keys():
        raise RequestError(f"{has} which picture a row is about; call one of them key (as in the shards) or path")
    if not {"label", *LABEL_COLUMNS} & found.keys():
        raise RequestError(
            f"{has} what is on it; a row for each answer has a column label (and perhaps value), "
            "a row for each picture has labels (and perhaps absent)"
        )
    both = [role for role in LABEL_COLUMNS if role in found and "label" in found]
    if both:
        raise RequestError(
            f"{name!r} has the columns {', '.join(names)}: label says that a row is one answer, "
            f"{' and '.join(both)} that it is all of a picture; leave one of them out"
        )
    return found


def _add(content: FileContent, cells: Mapping[str, Any], where: str) -> None:
    try:
        content.entries.append(_entry(cells))
    except ValueError as error:
        content.bad.append(f"{where}: {error}")


def _entry(cells: Mapping[str, Any]) -> Entry:
    """Return what one row says.

    Raises:
        ValueError: it does not say it.
    """
    if "label" in cells:
        word = parse_text(cells["label"], "label").strip()
        said: tuple[tuple[str, int | None], ...] = ((word, parse_value(cells.get("value", 1))),)
    else:
        there, absent = (_words(cells.get(name), name) for name in LABEL_COLUMNS)
        said = (*yes(there), *((word, 0) for word in dict.fromkeys(absent)))
    picture = _picture(cells)
    return Entry(
        picture=picture,
        said=said,
        at=parse_time(cells.get("at")),
        source=_optional(cells, "source"),
        beside=_beside(cells, picture),
    )


def _picture(cells: Mapping[str, Any]) -> Picture:
    if _optional(cells, "key") is not None or "path" not in cells:
        return Picture(parse_text(cells["key"], "key"), True, *_scope(cells))  # keys may begin or end with a space
    path = parse_text(cells["path"], "path").strip()
    return Picture(posixpath.normpath(path), False, *_scope(cells))


def _beside(cells: Mapping[str, Any], picture: Picture) -> Picture | None:
    """Return the picture that the path of a row is, where the row has a key as well."""
    path = _optional(cells, "path")
    if not picture.is_key or path is None or not path.strip():
        return None
    return replace(picture, name=posixpath.normpath(path.strip()), is_key=False)


def _scope(cells: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the dataset and the shard that a row names; spreadsheets leave spaces about them."""
    dataset, shard = ((_optional(cells, role) or "").strip() or None for role in ("dataset", "shard"))
    return dataset, shard


def _optional(cells: Mapping[str, Any], role: str) -> str | None:
    """Return a cell that may be empty, or may not be there."""
    value = cells.get(role)
    return None if value in (None, "") else parse_text(value, role)


def _words(value: Any, name: str) -> Iterable[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return split_labels(value)
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}; write words with ; between them, or a list of texts")
    return [parse_text(word, name).strip() for word in value]
