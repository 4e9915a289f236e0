"""A folder at any fsspec URL, with writes that are whole or absent.

On a disk a file is written under a temporary name, closed, checked and moved into place, so whatever has its final name
is whole. On an object store an object appears when its upload is whole, and not before; there it is put in one go.
`fs.transaction` is not used: a file that one thread closed stays hidden until another's transaction ends.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import quote

from fsspec.implementations.local import LocalFileSystem

from schemas.errors import RequestError, StoreError
from schemas.manifest import Fingerprint
from storage import disk
from storage.urls import open_file_system

TEMPORARY_PREFIX = ".tmp-"
_SPECIAL_PARTS = {"": "%2F", ".": "%2E", "..": "%2E%2E"}  # and what they are called, which no other part is
# Stores without folders: an object is there when its upload ends, and making a "folder" would make a bucket.
_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss"))
# The store's own word for "these bytes": object stores give a tag, disks a time of change.
_TAG_FIELDS = (
    *("ETag", "etag", "md5Hash", "content_md5", "crc32c", "mtime"),
    *("LastModified", "last_modified", "Last-Modified", "updated"),
)


class Folder:
    """A folder named by URL. Names are relative to it, with `/` between their parts."""

    def __init__(self, url: str, **storage_options: Any) -> None:
        self.url = url.rstrip("/") or "/"
        try:
            self.fs, root = open_file_system(self.url, **storage_options)
        except (ValueError, ImportError) as error:
            raise StoreError(f"cannot open {url!r}: {error}") from None
        self.root = root.rstrip("/") or "/"
        # A disk is asked without a detour: for small files fsspec's costs as much as the disk.
        self._plain = type(self.fs) is LocalFileSystem

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's disk."""
        return bool(self.fs.protocol == "file" or "file" in self.fs.protocol)

    def path(self, name: str) -> str:
        """Return the file system's own path of `name` (no protocol)."""
        return posixpath.join(self.root, name)

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there. Asks the store anew every time."""
        with self._store_errors("look for", name):
            self._forget()
            return bool(self.fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        """Return a file's size in bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._store_errors("look for", name):
            self._forget()
            return int(self.fs.size(self.path(name)))

    def sizes(self, prefix: str, suffix: str = "") -> dict[str, int]:
        """Return all files below `prefix`, at any depth, with their sizes in bytes, sorted; from listings alone.

        Temporary files are left out.
        """
        found: dict[str, int] = {}
        # A folder, or a bucket, that is not there has no files.
        with suppress(FileNotFoundError), self._store_errors("list", prefix):
            found = self._sizes_below(self.path(prefix))
        sizes = {path[len(self.root) :].lstrip("/"): size for path, size in found.items()}
        return {name: sizes[name] for name in sorted(sizes) if name.endswith(suffix) and not _temporary(name)}

    def _sizes_below(self, path: str) -> dict[str, int]:
        if self._plain:
            return dict(disk.sizes(path))
        self._forget()
        return {path: int(info["size"] or 0) for path, info in self.fs.find(path, detail=True).items()}

    def folders(self, prefix: str) -> list[str]:
        """Return the last part of the name of each folder right below `prefix`, sorted; none of what is in them."""
        with self._store_errors("list", prefix):
            self._forget()
            path = self.path(prefix)
            entries = self.fs.ls(path, detail=True) if self.fs.isdir(path) else []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")

    def list(self, prefix: str, suffix: str = "") -> list[str]:
        """Return the names of all files below `prefix`, as `sizes` does."""
        return list(self.sizes(prefix, suffix))

    def read_bytes(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be read for another reason.
        """
        with self._store_errors("read", name):
            if self._plain:
                return disk.read(self.path(name))
            return bytes(self.fs.cat_file(self.path(name)))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to be read in pieces.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be read for another reason.
        """
        with self._store_errors("read", name), self.fs.open(self.path(name), "rb") as file:
            yield file

    @contextmanager
    def _store_errors(self, verb: str, name: str) -> Iterator[None]:
        """Turn what disks and networks raise into a StoreError that says what was tried; absence stays what it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except transport_errors() as error:
            raise self._error(verb, name, error) from error

    def _error(self, verb: str, name: str, error: Exception) -> StoreError:
        return StoreError(f"cannot {verb} {name!r} in the store {self.url!r}: {error or type(error).__name__}")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file so that its final name never shows a part of it. Replaces a file of that name.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            if self._is_object_store:
                self._put(self.path(name), data)
            else:
                with self._moved_into_place(name) as temporary:
                    self._put(temporary, data)
        except transport_errors() as error:
            raise self._error("write", name, error) from error

    def _put(self, path: str, data: bytes) -> None:
        if self._plain:
            written = disk.write(path, data)
        else:
            self.fs.pipe_file(path, data)
            self._forget()
            written = self.fs.size(path)
        if written != len(data):
            raise StoreError(f"wrote {len(data)} bytes of {path!r} and found {written}: is the disk full?")

    @contextmanager
    def _moved_into_place(self, name: str) -> Iterator[str]:
        """Yield a temporary path beside `name`; it becomes `name` if the block ends well, else it is removed."""
        target = self.path(name)
        parent, base = posixpath.split(target)
        temporary = posixpath.join(parent, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{base}")
        if not self._plain and not self._is_object_store:
            self.fs.makedirs(parent, exist_ok=True)
        with self._removed_on_error(temporary):
            yield temporary
        if self._plain:
            os.replace(temporary, target)
        else:
            self.fs.mv(temporary, target)

    @property
    def _is_object_store(self) -> bool:
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        return not _OBJECT_STORES.isdisjoint(protocols)

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to be written piece by piece: it gets its name when the block ends well, else it is removed.

        Raises:
            StoreError: the store cannot be written; so does any error of a disk or a network inside the block.
        """
        try:
            if self._plain:
                os.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
            with self._moved_into_place(name) as temporary, self.fs.open(temporary, "wb") as file:
                yield file
        except transport_errors() as error:
            raise self._error("write", name, error) from error

    @contextmanager
    def _removed_on_error(self, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(*transport_errors()):
                self.fs.rm_file(path)
            raise

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if it is not there."""
        with suppress(FileNotFoundError), self._store_errors("remove", name):
            if self._plain:
                os.remove(self.path(name))
            else:
                self.fs.rm_file(self.path(name))

    def _forget(self) -> None:
        """Drop cached listings: another process may have written since."""
        self.fs.invalidate_cache()


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what disks and networks raise: OSError, and the roots that object store clients have beside it.

    Call it in the `except` clause itself: a client is looked up only once it is loaded, so none is imported for this.
    """
    clients = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
    loaded = ((sys.modules.get(module), name) for module, name in clients)
    # A module that is just being loaded is there already, and lacks its names.
    return (OSError, *(getattr(module, name) for module, name in loaded if hasattr(module, name)))


def fingerprint_of(info: dict[str, Any]) -> Fingerprint:
    """Return the fingerprint in one of fsspec's `info` records."""
    tag = next((str(info[name]) for name in _TAG_FIELDS if info.get(name) is not None), "")
    return Fingerprint(size=int(info["size"] or 0), tag=tag)


def part_name(shard: str) -> str:
    """Return an id as a safe relative path: what globs, URLs or folders read as special is percent-encoded.

    Different ids have different paths. A path takes `a//b` for `a/b` and `/a` for `a`, so no part stays empty.
    """
    return "/".join(_SPECIAL_PARTS.get(part) or quote(part) for part in shard.split("/"))


def checksum(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _temporary(name: str) -> bool:
    return posixpath.basename(name).startswith(TEMPORARY_PREFIX)


def iter_leftovers(folder: Folder, prefix: str) -> Iterator[str]:
    """Yield the temporary files that killed processes left below `prefix`."""
    for path in folder.fs.find(folder.path(prefix)):
        if _temporary(path):
            yield path[len(folder.root) :].lstrip("/")


def read_file(url: str) -> bytes:
    """Return the content of a file at any fsspec URL.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        fs, path = open_file_system(url)
        with fs.open(path, "rb") as file:
            return bytes(file.read())
    except (ValueError, ImportError) as error:  # a kind of URL that is unknown, or not installed
        raise RequestError(f"{url}: cannot be read: {error}") from error
    except transport_errors() as error:
        raise RequestError(f"{url}: cannot be read: {error or type(error).__name__}") from error


def read_text(url: str) -> str:
    """Return a text file at any fsspec URL, as UTF-8.

    Raises:
        RequestError: it cannot be read, or is not text.
    """
    try:
        return read_file(url).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{url}: cannot be read: {error}") from error
