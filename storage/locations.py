"""How SQL finds the files of a store: by our own file system, or where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.errors import StoreError
from storage.files import Folder
from storage.sandbox import PROTOCOL

_SPECIAL = re.compile(r"[*?\[]")  # what DuckDB reads as a pattern, in each name of a list of files too


@dataclass(frozen=True)
class Location:
    """What stands before the names of a store's files in SQL."""

    prefix: str
    patterns: bool  # whether what looks like a pattern is one

    def name(self, path: str) -> str:
        """Return what DuckDB calls a file that it has read (`filename`)."""
        return f"{self.prefix}{path}"

    def pattern(self, path: str) -> str:
        """Return what DuckDB is to read: a pattern that no other name fits."""
        return _SPECIAL.sub(r"[\g<0>]", self.name(path)) if self.patterns else self.name(path)

    def all(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns of many files."""
        return tuple(map(self.pattern, paths))


SANDBOX = Location(f"{PROTOCOL}://", patterns=False)


def where_it_lies(folder: Folder) -> Location:
    """Return the location of a store for a DuckDB that knows nothing of us.

    Raises:
        StoreError: its URL has what such a DuckDB takes for a pattern.
    """
    if folder.local:
        return Location(folder.path(""), patterns=True)
    found = _SPECIAL.search(folder.url)
    if found:
        raise StoreError(
            f"the URL of the store {folder.url!r} has {found[0]!r}, which DuckDB takes for a pattern or for options; "
            "`clipdecoder sql` reads it, a catalog file needs a store without it"
        )
    return Location(f"{folder.url}/", patterns=False)
