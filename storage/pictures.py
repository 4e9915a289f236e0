"""The images of a folder or a CSV, each with the key and the members it gets in a shard. Reads no image."""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.counts import counted
from schemas.errors import RequestError, StoreError
from storage.csv_rows import check_columns, iter_csv_rows, plain_name
from storage.files import Folder, transport_errors
from storage.shards import IMAGE_EXTENSIONS, SIDE_EXTENSIONS

LABEL_COLUMNS = ("labels", "absent")  # what is there, and what somebody looked for and did not find
PATH_COLUMNS = ("path", "file", "filename", "image")
_LABEL_SEPARATOR = re.compile(r"[;|]")
_NAMES_IN_ERRORS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One sample to be."""

    path: str  # of the image, in the source's folder
    key: str
    members: tuple[tuple[str, str | bytes], ...]  # name in the shard; path in the folder, or the content itself


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureList:
    """The images of a source, in the order in which they are packed."""

    folder: Folder
    pictures: tuple[Picture, ...]
    renamed: dict[str, str]  # path -> key, of images whose key another one already had
    ignored: tuple[str, ...]  # paths in the folder that are neither an image nor a side file of one


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """What the source says of one image."""

    path: str
    where: str  # for messages
    key: str | None = None  # as the CSV states it
    columns: dict[str, Any] | None = None  # for the sample's .json

    @property
    def extension(self) -> str:
        return posixpath.splitext(self.path)[1]

    @property
    def natural_key(self) -> str:
        """The path without its extension; what leads out of the folder is left out of the key."""
        return re.sub(r"^(\.\./)*/*", "", posixpath.splitext(self.path)[0])


def list_pictures(source: str) -> PictureList:
    """Return the images of a folder (recursively, sorted), or of a CSV in its order.

    Raises:
        RequestError: there is no such source, it has no images, or a line of the CSV is wrong.
    """
    return _list_csv(source) if source.lower().endswith(".csv") else _list_folder(source)


def some_of(names: Collection[str]) -> str:
    """Return the first few names for a message."""
    shown = ", ".join(sorted(names)[:_NAMES_IN_ERRORS])
    return shown if len(names) <= _NAMES_IN_ERRORS else f"{shown} and {len(names) - _NAMES_IN_ERRORS} more"


def read_errors() -> tuple[type[Exception], ...]:
    """Return what reading or listing a folder raises. A StoreError there is about no store: say its cause."""
    return (StoreError, *transport_errors())


def _list_folder(source: str) -> PictureList:
    folder = Folder(source)
    try:
        names = folder.list("")
    except read_errors() as error:
        reason = error.__cause__ or error
        raise RequestError(f"cannot list {source!r}: {reason}; check the address and the credentials") from error
    files = [name for name in names if _kind(folder, folder.path(name)) != "special"]
    rows = [_Row(path=name, where=name) for name in files if _is_image(name)]
    if not rows:
        what = f"has {len(names)} files and no image among them" if names else "is not there, or is empty"
        raise RequestError(
            f"{source!r} {what}; name a folder with images ({', '.join(sorted(IMAGE_EXTENSIONS))}) or a CSV of them"
        )
    pictures, renamed = _pictures(folder, rows, set(files))
    used = {content for picture in pictures for _, content in picture.members if isinstance(content, str)}
    absent = [name for name in used if _kind(folder, folder.path(name)) == "absent"]
    if absent:
        raise RequestError(
            f"{source!r} has {counted(len(absent), 'link')} to what is not there, or cannot be reached "
            f"({some_of(absent)}); remove or mend them"
        )
    return PictureList(
        folder=folder, pictures=pictures, renamed=renamed, ignored=tuple(n for n in names if n not in used)
    )


def _kind(folder: Folder, path: str) -> Literal["file", "absent", "special"]:
    """Say what a listed path is: a file, a link that leads nowhere, or a pipe, device or folder, not to be opened."""
    if not folder.local:
        return "file"  # object stores hold nothing else
    try:
        return "file" if stat.S_ISREG(os.stat(path).st_mode) else "special"
    except OSError:
        return "absent"


def _list_csv(source: str) -> PictureList:
    parent, slash, name = source.rpartition("/")
    folder = Folder(parent or slash or ".")
    rows = list(_csv_rows(folder, name, source))
    if not rows:
        raise RequestError(f"{source!r} lists no image; give it a line for each, below the header")
    lines: dict[str, _Row] = {}
    for row in rows:
        if not _is_image(row.path):
            raise RequestError(
                f"{row.where}: {row.path!r} has no image extension; known: {', '.join(sorted(IMAGE_EXTENSIONS))}"
            )
        if row.path in lines:
            first = lines[row.path].where
            raise RequestError(
                f"{row.where}: {row.path!r} stands at {first} already; join its labels with ; in one line"
            )
        lines[row.path] = row
    present = _Present(folder)
    missing = [path for path in lines if path not in present]
    if missing:
        raise RequestError(
            f"{source!r} lists what is not there: {counted(len(missing), 'file')} ({some_of(missing)}); "
            f"paths are relative to {folder.url!r}: correct them, or remove the lines"
        )
    pictures, renamed = _pictures(folder, rows, present)
    return PictureList(folder=folder, pictures=pictures, renamed=renamed, ignored=())


class _Present(Container[str]):
    """Which paths are files, from one listing per folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._files: dict[str, set[str]] = {}

    def __contains__(self, path: object) -> bool:
        parent, name = posixpath.split(posixpath.normpath(self._folder.path(str(path))))
        if parent not in self._files:
            self._files[parent] = self._list(parent)
        return name in self._files[parent]

    def _list(self, parent: str) -> set[str]:
        try:
            entries = self._folder.fs.ls(parent, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except transport_errors() as error:
            raise RequestError(f"cannot list {parent!r}: {error}; check the address and the credentials") from error
        paths = (entry["name"] for entry in entries if entry["type"] != "directory")
        return {posixpath.basename(path) for path in paths if _kind(self._folder, path) == "file"}


def _csv_rows(folder: Folder, name: str, source: str) -> Iterator[_Row]:
    try:
        data = folder.read_bytes(name)
    except read_errors() as error:
        reason = error.__cause__ or error
        raise RequestError(f"cannot read {source!r}: {reason}; name a CSV or a folder that is there") from error

    def refuse(number: int, problem: str) -> None:
        raise RequestError(f"{source}:{number}: not a CSV: {problem}")

    rows = iter_csv_rows(data, source, (*PATH_COLUMNS, *LABEL_COLUMNS, "key"), refuse)
    _, header = next(rows, (0, []))
    check_columns(header, {plain_name(column) for column in header}, source)
    column = _path_column(header, source)
    for number, cells in rows:
        where = f"{source}:{number}"
        if len(cells) != len(header):
            raise RequestError(
                f"{where}: {counted(len(cells), 'cell')}, not as many as the header, which has {len(header)}; put "
                "cells with separators in quotes"
            )
        yield _row(dict(zip(header, cells, strict=True)), column, where)


def _path_column(columns: Sequence[str], source: str) -> str:
    found = [column for name in PATH_COLUMNS for column in columns if plain_name(column) == name]
    if not found:
        raise RequestError(
            f"{source!r} has the columns {', '.join(columns) or '(none)'}, "
            f"and none that says where the images are; call one of them {' or '.join(PATH_COLUMNS)}"
        )
    return found[0]


def _row(cells: dict[str, str], path_column: str, where: str) -> _Row:
    path, key = cells[path_column].strip(), None
    if not path:
        raise RequestError(f"{where}: {path_column} is empty; name the image, or remove the line")
    columns: dict[str, Any] = {}
    for name, cell in cells.items():
        if plain_name(name) in LABEL_COLUMNS:
            columns[plain_name(name)] = split_labels(cell)
        elif plain_name(name) == "key":
            key = cell or None
        elif name != path_column:
            columns[name] = cell
    return _Row(path=posixpath.normpath(path), where=where, key=key, columns=columns or None)


def split_labels(cell: str) -> list[str]:
    """Return the labels that one cell of a CSV lists."""
    return [label.strip() for label in _LABEL_SEPARATOR.split(cell) if label.strip()]


def _is_image(path: str) -> bool:
    return posixpath.splitext(path)[1][1:].lower() in IMAGE_EXTENSIONS


def _pictures(
    folder: Folder, rows: Sequence[_Row], present: Container[str]
) -> tuple[tuple[Picture, ...], dict[str, str]]:
    """Return the pictures in order, and the new keys of those whose own key was taken."""
    keys = _keys(rows)
    taken: set[str] = set()
    pictures = []
    for row, key in zip(rows, keys, strict=True):
        sides = [side for side in _side_paths(row.path) if side in present and side not in taken]
        taken.update(sides)
        pictures.append(Picture(path=row.path, key=key, members=tuple(_members(folder, row, key, sides))))
    renamed = {row.path: key for row, key in zip(rows, keys, strict=True) if key != (row.key or row.natural_key)}
    return tuple(pictures), renamed


def _keys(rows: Sequence[_Row]) -> list[str]:
    """Return one key per row, all different: stated ones as they are, then the first image of each path's key."""
    used: dict[str, str] = {}
    for row in rows:
        if row.key is None:
            continue
        if posixpath.splitext(row.key + row.extension)[0] != row.key:
            raise RequestError(f"{row.where}: key {row.key!r} has no name after its last slash; give it one")
        if row.key in used:
            raise RequestError(f"{row.where}: key {row.key!r} stands at {used[row.key]} already; keys must differ")
        used[row.key] = row.where
    wanted = {row.natural_key for row in rows}
    keys = []
    for row in rows:
        key = row.key or row.natural_key
        if row.key is None and key in used:
            while key in used or key in wanted:
                key += row.extension
        used.setdefault(key, row.where)
        keys.append(key)
    return keys


def _side_paths(path: str) -> Iterable[str]:
    """Return where side files of an image may be: named after its key, then after the whole file."""
    stem = posixpath.splitext(path)[0]
    return [f"{start}.{extension}" for start in (stem, path) for extension in sorted(SIDE_EXTENSIONS)]


def _members(folder: Folder, row: _Row, key: str, sides: Sequence[str]) -> Iterator[tuple[str, str | bytes]]:
    """Yield what one image adds to its shard: itself, its .json with the CSV's columns, its other side files."""
    yield key + row.extension, row.path
    described = next((side for side in sides if side.endswith(".json")), None) if row.columns else None
    if row.columns:
        content = {**(_read_object(folder, described, row.where) if described else {}), **row.columns}
        yield f"{key}.json", json.dumps(content, ensure_ascii=False, sort_keys=True).encode()
    stem = posixpath.splitext(row.path)[0]
    for side in sides:
        if side != described:
            yield key + side[len(stem) :], side


def _read_object(folder: Folder, path: str, where: str) -> dict[str, Any]:
    """Return the JSON object in a side file."""
    try:
        content = json.loads(folder.read_bytes(path))
    except read_errors() as error:
        raise RequestError(f"{where}: cannot read {path!r}: {error.__cause__ or error}") from error
    except ValueError as error:
        raise RequestError(f"{where}: {path!r} is not JSON: {error}; correct or remove it") from None
    if not isinstance(content, dict):
        raise RequestError(f"{where}: {path!r} is no JSON object, so labels cannot go into it; correct or remove it")
    return content
