"""A DuckDB connection that can read the named files of one store, and nothing else at all.

DuckDB's own `allowed_directories` permits writing as well as reading, so the store is never allowed as such. All
reading goes through a file system of our own that knows a list of files and cannot write; whatever else SQL names
(a path, a URL, a file beside the store) is refused by DuckDB before it is opened.
"""

from __future__ import annotations

import re
import tempfile
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from schemas.commands import store_command
from schemas.errors import QueryError, StoreError
from storage.files import Folder

PROTOCOL = "store"
# Frames are indented; the first line that is not says what was raised. DuckDB may add where in the SQL it happened.
_TRACEBACK = re.compile(
    r"Traceback [^\n]*\n(?:[ \t][^\n]*\n)*(?P<kind>[\w.]+): (?P<reason>.*?)(?:\n\nLINE \d.*)?\Z", re.S
)
_UNREADABLE = "a file of the store cannot be read"
# Files that are computed of others, and what computes them again.
_COMPUTED = re.compile(rf"(?:^|{PROTOCOL}://)(quality|duplicates)/")
_MENDS = {"quality": "measures its shard again", "duplicates": "computes it again"}  # by the command, and its folder


class StoreFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The listed files of a store as `store://<name>`, read-only. What is not on the list does not exist."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, folder: Folder, num_bytes: Mapping[str, int]) -> None:
        super().__init__()
        self._folder = folder
        self._num_bytes = dict(num_bytes)
        self._opened_at = datetime.now(UTC)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a file's name and size; the size is asked of a disk, and known beforehand of a remote store."""
        name = self._name(path)
        size = self._folder.fs.size(self._folder.path(name)) if self._folder.local else self._num_bytes[name]
        return {"name": path, "size": size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """Return when a file last changed, by which DuckDB trusts its cache.

        A remote store is not asked: that would cost a round trip for each file in each query.
        """
        name = self._name(path)
        if not self._folder.local:
            return self._opened_at
        changed: datetime = self._folder.fs.modified(self._folder.path(name))
        return changed

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the file is on the list."""
        return self._strip_protocol(path) in self._num_bytes

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself, which must be on the list: views name every file, so patterns are not needed.

        Raises:
            QueryError: the path is not on the list.
        """
        self._name(path)
        return [path]

    def open(self, path: str, mode: str = "rb", **_: Any) -> SharedReader:
        """Open a listed file for reading.

        Raises:
            QueryError: any other mode, or the file is not on the list.
        """
        if mode != "rb":
            raise QueryError(f"the catalog is read-only: {path!r} cannot be written; save answers with -o FILE")
        return SharedReader(self._folder, self._name(path), int(self.info(path)["size"]))

    def _name(self, path: str) -> str:
        name: str = self._strip_protocol(path)
        if name not in self._num_bytes:
            raise QueryError(f"{path!r} is not a file that the views read; ask the views (`SHOW TABLES` lists them)")
        return name


class SharedReader:
    """A file that many threads read at once, each with a position of its own.

    DuckDB hands one file object to all its threads and reads in two calls, seek and read. With one common position
    another thread's seek can come between them (seen on DuckDB 2.0: short reads).
    """

    def __init__(self, folder: Folder, name: str, num_bytes: int) -> None:
        self._fs, self._path, self._num_bytes = folder.fs, folder.path(name), num_bytes
        # Not threading.local: DuckDB's threads lose their Python state between two calls.
        self._positions: dict[int, int] = {}

    def seek(self, position: int, whence: int = 0) -> int:
        """Move this thread's position; returns it, in bytes from the start."""
        base = (0, self.tell(), self._num_bytes)[whence]
        self._positions[threading.get_ident()] = base + position
        return base + position

    def tell(self) -> int:
        """Return this thread's position."""
        return self._positions.get(threading.get_ident(), 0)

    def read(self, num_bytes: int = -1) -> bytes:
        """Return the next bytes: all that were asked for, unless the file ends before."""
        start = self.tell()
        end = self._num_bytes if num_bytes < 0 else min(start + num_bytes, self._num_bytes)
        if end <= start:
            return b""
        data = bytes(self._fs.cat_file(self._path, start=start, end=end))
        self.seek(start + len(data))
        return data

    def close(self) -> None:
        """Nothing is held open between reads."""


def connect() -> duckdb.DuckDBPyConnection:
    """Return a new in-memory connection that installs and loads nothing, and sees no Python variables."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_extension_repositories": "forbidden",
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
            # Large sorts may spill; the name is new, so that no two processes meet, and DuckDB makes it when needed.
            "temp_directory": str(Path(tempfile.gettempdir()) / f"clipdecoder-{uuid.uuid4().hex}"),
        },
    )
    # GLOBAL: cursors start with the settings of the database, not with those of the connection.
    connection.execute("SET GLOBAL parquet_metadata_cache = true")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # times read alike on every machine
    return connection


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Close the connection off: from here on it reads `store://` alone, and no setting can be changed."""
    connection.execute(f"SET allowed_directories = ['{PROTOCOL}://']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def file_error(error: duckdb.Error) -> QueryError | StoreError | None:
    """Return the error of a file that cannot be read, if DuckDB's error is one.

    What our file system raised comes as the text of a traceback; of damaged Parquet, DuckDB names the file, or says
    what it stumbled over by an error of no particular kind. A view that could not be made says itself why.
    """
    message = str(error)
    found = _TRACEBACK.match(message)
    if found is not None:
        return QueryError(found["reason"]) if found["kind"].endswith("QueryError") else unreadable(found["reason"])
    if _UNREADABLE in message:
        return StoreError(message[message.index(_UNREADABLE) :].partition("\n")[0])
    reason = message.partition("\n")[0]
    named = isinstance(error, duckdb.InvalidInputException | duckdb.IOException) and f"{PROTOCOL}://" in reason
    return unreadable(reason) if named or type(error) is duckdb.Error else None


def unreadable(reason: str) -> StoreError:
    """Return the error for a file that the views need and that cannot be read."""
    return StoreError(f"{_UNREADABLE}: {reason}; {mend_of(reason)}")


def mend_of(message: str) -> str:
    """Return what to do about a file that cannot be read, by its name in a message."""
    found = _COMPUTED.search(message)
    command, what = (found[1], _MENDS[found[1]]) if found else ("audit", "says what is lost")
    return f"`{store_command(command)}` {what}"
