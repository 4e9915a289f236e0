"""The SHARDS argument: URLs, globs and brace ranges become a sorted list of shards, each with an id that stays.

A shard's id is its path below the root, and the root is the common folder of what the patterns say literally, before
their first `*`, `?`, `[` or `{`. It does not depend on what is there today, so a shard keeps its id when others
appear. (A glob that the shell expands before we see it has lost this: quote it.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import braceexpand

from schemas.errors import ShardPatternError
from schemas.manifest import Fingerprint
from storage.files import TEMPORARY_PREFIX, fingerprint_of, transport_errors
from storage.places import Info, Place, common_start, contents_of, glob_places, info_of, infos_of
from storage.urls import local_path

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GLOB = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
# `cache::s3://` + `bucket/a.tar` + `::next-url`; everything but the path is optional.
_URL = re.compile(r"((?:[\w+.-]+::)*(?:[\w+.-]+://)?)(.*?)((?:::.*)?)", re.DOTALL)
MAX_NAMES = 1_000_000  # of one brace range: more is a slip of the finger, and would fill the memory


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


class _Match(NamedTuple):
    place: Place
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
    root = common_start([match.folder for match in matches])
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


def _shard_id(path: str) -> str:
    for suffix in SHARD_SUFFIXES:
        if path.endswith(suffix) and path[: -len(suffix)].rpartition("/")[2]:
            return path[: -len(suffix)]
    return path


def _matches(pattern: str) -> list[_Match]:
    """Return what one pattern names, at least one match."""
    with _request_errors(pattern):
        place = _place(pattern)
        magic = place.is_pattern
        info = info_of(place, refused_is_absent=magic)
        if info is not None or not magic:
            return [_Match(place, tuple(place.path.split("/")[:-1]), _checked(place, info))]
        texts = _expand(place.path)
        names = [place.at(text) for text in texts if not _GLOB.search(text)]
        found = list(infos_of(names))
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


def _place(pattern: str) -> Place:
    path = local_path(pattern)
    if path is not None:
        return Place("", os.path.abspath(os.path.expanduser(path)), "")
    split = _URL.fullmatch(pattern)
    assert split is not None, "every text is a path"
    return Place(*split.groups())


def _globbed(place: Place, pattern: str) -> list[tuple[Place, Info | None]]:
    found = [
        (where, info)
        for where, info in glob_places(place)
        if (info or {}).get("type") != "directory" and not where.path.rpartition("/")[2].startswith(TEMPORARY_PREFIX)
    ]
    if not found:
        raise ShardPatternError(_nothing(pattern, place))
    if any(info is not None and info.get("size") is None for _, info in found):  # a web server's page of links
        return list(infos_of([where for where, _ in found]))
    return found


def _checked(place: Place, info: Info | None) -> Info | None:
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


def _nothing(pattern: str, place: Place | None = None) -> str:
    """Return why a pattern matched nothing: the nearest folder that is there, what is in it, the next step."""
    place = place or _place(pattern)
    parts = place.folder
    hint = ""
    # Only a hint: without it the error stands all the same.
    with suppress(ValueError, NotImplementedError, *transport_errors()):
        while parts and (info_of(place.at("/".join(parts) or "/")) or {}).get("type") != "directory":
            parts = parts[:-1]
        hint = contents_of(place.at("/".join(parts) or "/")) if parts else ""
    return f"{pattern!r} matches no shard{hint}; check the path, and quote globs so that the shell leaves them alone"


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
