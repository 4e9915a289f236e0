"""Places that shard patterns name, on a disk or in any other store, and what is there now."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any, NamedTuple

from storage.urls import open_file_system

_MAGIC = re.compile(r"[*?\[{]")
_INFO_THREADS = 16
_NAMES_IN_ERRORS = 5

Info = dict[str, Any]  # one of fsspec's `info` records


class Place(NamedTuple):
    """A URL in three: how to get there, the path, and what a chained URL has after it."""

    before: str
    path: str
    after: str

    @property
    def url(self) -> str:
        """The whole of it."""
        return "".join(self)

    @property
    def is_pattern(self) -> bool:
        """Whether it may stand for several files."""
        return _MAGIC.search(self.path) is not None

    @property
    def folder(self) -> tuple[str, ...]:
        """The parts of the folder that holds everything from the first magic character on."""
        return tuple(_MAGIC.split(self.path, maxsplit=1)[0].split("/")[:-1])

    def at(self, path: str) -> Place:
        """Return the place of another path there."""
        return self._replace(path=path)


def common_start(sequences: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return what all sequences (parts of paths, or characters) begin with."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in same)


def info_of(place: Place, *, refused_is_absent: bool = False) -> Info | None:
    """Return the store's record of a file or folder, or None if there is none; asks anew, past cached listings.

    `refused_is_absent`: stores that forbid listing refuse to say whether an object is there.
    """
    fs, path = open_file_system(place.url)
    fs.invalidate_cache()
    try:
        info: Info = fs.info(path)
    except FileNotFoundError:
        return None
    except PermissionError:
        if refused_is_absent:
            return None
        raise
    return info


def infos_of(places: Sequence[Place]) -> Iterator[tuple[Place, Info | None]]:
    """Yield each place with its record, from one listing per folder where the store can list."""
    folders: dict[str, list[Place]] = {}
    for place in places:
        folders.setdefault(place.path.rpartition("/")[0], []).append(place)
    for group in folders.values():
        listed = _listed(group) if len(group) > 1 else None
        if listed is not None:
            yield from ((place, listed.get(place.path)) for place in group)
            continue
        with ThreadPoolExecutor(_INFO_THREADS) as threads:
            yield from zip(group, threads.map(info_of, group), strict=True)


def _listed(places: Sequence[Place]) -> dict[str, Info | None] | None:
    """Return the records of everything that begins like all these places, by path; None if no listing can serve."""
    fs, _ = open_file_system(places[0].url)
    if not places[0].before or "http" in fs.protocol:  # a disk answers at once; a web server lists without sizes
        return None
    start = "".join(common_start([place.path for place in places]))
    try:
        return {place.path: info for place, info in glob_places(places[0].at(glob.escape(start) + "*"))}
    except (PermissionError, NotImplementedError):
        return None


def glob_places(place: Place) -> Iterator[tuple[Place, Info | None]]:
    """Yield what a glob matches, folders included; a link to nothing has no record."""
    if not place.before:
        # fsspec's own glob does not look into linked folders, and would leave their shards out without a word.
        for path in glob.iglob(place.path, recursive=True, include_hidden=True):
            where = place.at(path)
            yield where, info_of(where)
        return
    fs, path = open_file_system(place.url)
    fs.invalidate_cache()
    folder = place.at("/".join(place.folder))
    _, folder_path = open_file_system(folder.url)
    for name, info in fs.glob(path, detail=True).items():
        below = name[len(folder_path) :].lstrip("/")
        yield place.at("/".join((*place.folder, below))), info


def contents_of(folder: Place) -> str:
    """Return a few names of what is in a folder, as a part of a sentence."""
    fs, path = open_file_system(folder.url)
    names = sorted(entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
    shown = ", ".join(names[:_NAMES_IN_ERRORS]) or "nothing"
    more = f" and {len(names) - _NAMES_IN_ERRORS} more" if len(names) > _NAMES_IN_ERRORS else ""
    return f" (the nearest folder that is there, {folder.url!r}, has {shown}{more})"
