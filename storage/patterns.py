"""The SHARDS argument: URLs, globs and brace ranges become a sorted list of shards, each with an id that stays.

A shard's id is its path below the root, and the root is the common folder of what the patterns say literally, before
their first `*`, `?`, `[` or `{`. It does not depend on what is there today, so a shard keeps its id when others
appear. (A glob that the shell expands before we see it has lost this: quote it.)
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, NamedTuple

import braceexpand
import fsspec

from schemas.errors import ShardPatternError
from schemas.manifest import Fingerprint
from storage.files import TEMPORARY_PREFIX, fingerprint_of, transport_errors

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GLOB = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
_MAGIC = re.compile(r"[*?\[{]")
# `cache::s3://` + `bucket/a.tar` + `::next-url`; everything but the path is optional.
_URL = re.compile(r"((?:[\w+.-]+::)*(?:[\w+.-]+://)?)(.*?)((?:::.*)?)", re.DOTALL)
_INFO_THREADS = 16
_NAMES_IN_ERRORS = 5
MAX_NAMES = 1_000_000  # of one brace range: more is a slip of the finger, and would fill the memory

Info = dict[str, Any]  # one of fsspec's `info` records


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRef:
    """One shard, as the request names it."""

    shard: str  # id: the path below the root, without .tar, .tar.gz or .tgz
    url: str  # what fsspec opens
    fingerprint: Fingerprint | None  # None: named one by one, and not there


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardList:
    """All shards of a request, sorted by id."""

    root: str  # the patterns' common folder
    patterns: tuple[str, ...]  # as one would ask for the same shards from anywhere: absolute, each once, sorted
    shards: tuple[ShardRef, ...]


class _Place(NamedTuple):
    """A URL in three: how to get there, the path, and what a chained URL has after it."""

    before: str
    path: str
    after: str

    @property
    def url(self) -> str:
        return "".join(self)

    @property
    def folder(self) -> tuple[str, ...]:
        """The parts of the folder that holds everything from the first magic character on."""
        return tuple(_MAGIC.split(self.path, maxsplit=1)[0].split("/")[:-1])

    def at(self, path: str) -> _Place:
        return self._replace(path=path)


class _Match(NamedTuple):
    place: _Place
    folder: tuple[str, ...]  # literal folder of the pattern, in parts
    info: Info | None


def list_shards(patterns: Sequence[str]) -> ShardList:
    """Return the shards that fsspec URLs, globs and brace ranges name.

    A path that exists is taken literally, whatever characters it has. Globs skip half-written temporaries. What is
    named one by one (a path, a brace range) and is not there is listed without a fingerprint, so that a run can
    report it, unless nothing at all is there.

    Raises:
        ShardPatternError: a glob matches nothing, nothing named exists, a pattern is a folder or cannot be listed,
            two shards would have one id, or the patterns are in different stores.
    """
    if not patterns:
        raise ShardPatternError("no shards given; name at least one tar, glob or brace range, such as 'data/*.tar'")
    matches = [match for pattern in patterns for match in _matches(pattern)]
    if all(match.info is None for match in matches):
        raise ShardPatternError("; ".join(_nothing(pattern) for pattern in dict.fromkeys(patterns)))
    stores = {(match.place.before, match.place.after) for match in matches}
    if len(stores) > 1:
        names = " and ".join(sorted(before or "this disk" for before, _ in stores))
        raise ShardPatternError(f"the shards of one request must be in one store, not in {names}; make one run of each")
    root = _common([match.folder for match in matches])
    shards = _by_id(matches, len(root))
    before, after = stores.pop()
    return ShardList(
        root=before + ("/".join(root) or ("" if before else "/")) + after,
        patterns=tuple(sorted({_place(pattern).url for pattern in patterns})),
        shards=shards,
    )


def _by_id(matches: Iterable[_Match], depth: int) -> tuple[ShardRef, ...]:
    """Return one shard per id, sorted; `depth` is the number of parts in the root."""
    shards: dict[str, ShardRef] = {}
    for match in matches:
        shard = _shard_id("/".join(match.place.path.split("/")[depth:]))
        fingerprint = None if match.info is None else fingerprint_of(match.info)
        ref = ShardRef(shard=shard, url=match.place.url, fingerprint=fingerprint)
        known = shards.setdefault(shard, ref)
        if known.url != ref.url:
            raise ShardPatternError(
                f"{known.url!r} and {ref.url!r} would both be shard {shard!r}; name only one of them, or rename one"
            )
    return tuple(shards[shard] for shard in sorted(shards))


def _common(sequences: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return what all sequences (parts of paths, or characters) begin with."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return tuple(column[0] for column in same)


def _shard_id(path: str) -> str:
    for suffix in SHARD_SUFFIXES:
        if path.endswith(suffix) and path[: -len(suffix)].rpartition("/")[2]:
            return path[: -len(suffix)]
    return path


def _matches(pattern: str) -> list[_Match]:
    """Return what one pattern names, at least one match."""
    with _request_errors(pattern):
        place = _place(pattern)
        magic = bool(_MAGIC.search(place.path))
        info = _info(place, refused_is_absent=magic)
        if info is not None or not magic:
            return [_Match(place, tuple(place.path.split("/")[:-1]), _checked(place, info))]
        texts = _expand(place.path)
        names = [place.at(text) for text in texts if not _GLOB.search(text)]
        found = list(_infos(names))
        for text in texts:
            if _GLOB.search(text):
                found.extend(_globbed(place.at(text), pattern))
        return [_Match(where, place.folder, _checked(where, info)) for where, info in found]


def _expand(path: str) -> list[str]:
    """Return what the braces of a path name, each once.

    Raises:
        ValueError: they name too much to be meant. (A single range is a list in memory, so it is measured beforehand.)
    """
    widest = max((abs(int(end) - int(start)) for start, end in _RANGE.findall(path)), default=0)
    texts = islice(braceexpand.braceexpand(path, escape=False), MAX_NAMES + 1) if widest < MAX_NAMES else ()
    names = list(dict.fromkeys(texts))
    if not 0 < len(names) <= MAX_NAMES:
        raise ValueError(f"it names more than {MAX_NAMES:,} shards")
    return names


def _place(pattern: str) -> _Place:
    split = _URL.fullmatch(pattern)
    assert split is not None, "every text is a path"
    place = _Place(*split.groups())
    if place.before in ("", "file://", "local://") and not place.after:
        return _Place("", os.path.abspath(os.path.expanduser(place.path)), "")
    return place


def _open(place: _Place) -> tuple[Any, str]:
    """Return the file system and its own path of the place."""
    fs, path = fsspec.core.url_to_fs(place.url)
    return fs, path


def _info(place: _Place, *, refused_is_absent: bool = False) -> Info | None:
    """Return the store's record of a file or folder, or None if there is none; asks anew, past cached listings.

    `refused_is_absent`: stores that forbid listing refuse to say whether an object is there.
    """
    fs, path = _open(place)
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


def _infos(places: Sequence[_Place]) -> Iterator[tuple[_Place, Info | None]]:
    """Yield each place with its record, from one listing per folder where the store can list."""
    folders: dict[str, list[_Place]] = {}
    for place in places:
        folders.setdefault(place.path.rpartition("/")[0], []).append(place)
    for group in folders.values():
        listed = _listed(group) if len(group) > 1 else None
        if listed is not None:
            yield from ((place, listed.get(place.path)) for place in group)
            continue
        with ThreadPoolExecutor(_INFO_THREADS) as threads:
            yield from zip(group, threads.map(_info, group), strict=True)


def _listed(places: Sequence[_Place]) -> dict[str, Info | None] | None:
    """Return the records of everything that begins like all these places, by path; None if no listing can serve."""
    fs, _ = _open(places[0])
    if not places[0].before or "http" in fs.protocol:  # a disk answers at once; a web server lists without sizes
        return None
    start = "".join(_common([place.path for place in places]))
    try:
        return {place.path: info for place, info in _glob(places[0].at(glob.escape(start) + "*"))}
    except (PermissionError, NotImplementedError):
        return None


def _globbed(place: _Place, pattern: str) -> list[tuple[_Place, Info | None]]:
    found = [
        (where, info)
        for where, info in _glob(place)
        if (info or {}).get("type") != "directory" and not where.path.rpartition("/")[2].startswith(TEMPORARY_PREFIX)
    ]
    if not found:
        raise ShardPatternError(_nothing(pattern, place))
    if any(info is not None and info.get("size") is None for _, info in found):  # a web server's page of links
        return list(_infos([where for where, _ in found]))
    return found


def _glob(place: _Place) -> Iterator[tuple[_Place, Info | None]]:
    """Yield what a glob matches, folders included; a link to nothing has no record."""
    if not place.before:
        # fsspec's own glob does not look into linked folders, and would leave their shards out without a word.
        for path in glob.iglob(place.path, recursive=True, include_hidden=True):
            where = place.at(path)
            yield where, _info(where)
        return
    fs, path = _open(place)
    fs.invalidate_cache()
    folder = place.at("/".join(place.folder))
    _, folder_path = _open(folder)
    for name, info in fs.glob(path, detail=True).items():
        below = name[len(folder_path) :].lstrip("/")
        yield place.at("/".join((*place.folder, below))), info


def _checked(place: _Place, info: Info | None) -> Info | None:
    """Return the record of a file.

    Raises:
        ShardPatternError: it is a folder.
    """
    if info is not None and info["type"] == "directory":
        url = place.url.rstrip("/")
        raise ShardPatternError(
            f"{place.url!r} is a folder, not a tar; name the tars in it, such as '{url}/*.tar' (or '{url}/**/*.tar')"
        )
    return info


def _nothing(pattern: str, place: _Place | None = None) -> str:
    """Return why a pattern matched nothing: the nearest folder that is there, what is in it, the next step."""
    place = place or _place(pattern)
    parts = place.folder
    hint = ""
    # Only a hint: without it the error stands all the same.
    with suppress(ValueError, NotImplementedError, *transport_errors()):
        while parts and (_info(place.at("/".join(parts) or "/")) or {}).get("type") != "directory":
            parts = parts[:-1]
        hint = _contents(place.at("/".join(parts) or "/")) if parts else ""
    return f"{pattern!r} matches no shard{hint}; check the path, and quote globs so that the shell leaves them alone"


def _contents(folder: _Place) -> str:
    fs, path = _open(folder)
    names = sorted(entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))
    shown = ", ".join(names[:_NAMES_IN_ERRORS]) or "nothing"
    more = f" and {len(names) - _NAMES_IN_ERRORS} more" if len(names) > _NAMES_IN_ERRORS else ""
    return f" (the nearest folder that is there, {folder.url!r}, has {shown}{more})"


@contextmanager
def _request_errors(pattern: str) -> Iterator[None]:
    """Turn what a store or a malformed pattern raises into an error that names the pattern."""
    try:
        yield
    except ShardPatternError:
        raise
    except transport_errors() as error:
        raise _unlistable(pattern, error) from error
    except (ValueError, ImportError, NotImplementedError) as error:  # unknown protocols, wrong globs, open braces
        raise _unlistable(pattern, error) from error


def _unlistable(pattern: str, error: Exception) -> ShardPatternError:
    return ShardPatternError(
        f"cannot list {pattern!r}: {error or type(error).__name__}; check the address, the credentials and the pattern"
    )
