"""Which samples of a store a file of annotations is about."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import duckdb

from storage.annotation_formats.content import Picture
from storage.query import run_query

_SAMPLES = """
SELECT DISTINCT dataset, shard, key FROM samples
    SEMI JOIN (SELECT unnest($names) AS name) n ON split_part(samples.key, '/', -1) = n.name
"""


@dataclass(kw_only=True)
class MatchedPictures:
    """Pictures of a file with the keys that they have, or would have, in the shards."""

    example: str | None  # a key of the store
    keys: dict[Picture, str] = field(default_factory=dict)
    unknown: list[Picture] = field(default_factory=list)  # no sample has the key; it is in `keys` all the same
    ambiguous: dict[Picture, list[str]] = field(default_factory=dict)  # paths that several keys would fit
    # Unknown ones that the store has in other places than the file says: dataset and shard of each.
    elsewhere: dict[Picture, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def num_known(self) -> int:
        """Pictures that a sample of the store is."""
        return len(self.keys) - len(self.unknown)


def match_pictures(connection: duckdb.DuckDBPyConnection, pictures: Iterable[Picture]) -> MatchedPictures:
    """Return the key of each picture.

    A key is a key; where no sample has it, the one that it is without the spaces about it. A path is that of the
    sample whose key it is with or without its extension; else of the one whose key, folder by folder from the end,
    has the same path as far as both go: `train/17.jpg` is `images/train/17`, and also `17`. If several keys fit so,
    it is ambiguous. A path that no sample has becomes the key that `pack` would give it.

    Args:
        connection: an open catalog.
        pictures: each of them names its dataset and shard, or holds for any.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    wanted = list(dict.fromkeys(pictures))
    names = {posixpath.basename(spelling) for picture in wanted for spelling in _spellings(picture)}
    table = run_query(connection, _SAMPLES, {"names": sorted(names)}).to_pydict()
    samples: dict[str, list[tuple[str, str, str]]] = defaultdict(list)  # dataset, shard and key, by the key's last part
    for sample in zip(table["dataset"], table["shard"], table["key"], strict=True):
        samples[posixpath.basename(sample[2])].append(sample)
    (example,) = run_query(connection, "SELECT min(key) AS key FROM samples").to_pylist()
    matched = MatchedPictures(example=example["key"])
    for picture in wanted:
        _match(picture, samples, matched)
    return matched


def match_two(
    connection: duckdb.DuckDBPyConnection, pairs: Sequence[tuple[Picture, Picture | None]], matched: MatchedPictures
) -> list[str | None]:
    """Return for each pair the key of its second picture, a path, where both are samples and not the same; else None.

    Args:
        connection: an open catalog.
        pairs: pictures, each with the path that stands beside its key, if any.
        matched: the first of each pair.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    paths = [path for _, path in pairs if path is not None]
    if not paths:
        return [None] * len(pairs)
    beside = match_pictures(connection, paths)
    unknown = {*matched.unknown, *beside.unknown}

    def other(picture: Picture, path: Picture | None) -> str | None:
        if path is None or picture in unknown or path in unknown or path not in beside.keys:
            return None
        return None if _fits(matched.keys[picture], _spellings(path)) else beside.keys[path]

    return [other(*pair) for pair in pairs]


def _match(picture: Picture, samples: dict[str, list[tuple[str, str, str]]], matched: MatchedPictures) -> None:
    spellings = _spellings(picture)
    near = {
        key
        for spelling in spellings
        for dataset, shard, key in samples.get(posixpath.basename(spelling), ())
        if picture.dataset in (None, dataset) and picture.shard in (None, shard)
    }
    exact = [spelling for spelling in spellings if spelling in near]
    fitting = exact[:1] or ([] if picture.is_key else sorted(key for key in near if _fits(key, spellings)))
    if len(fitting) > 1:
        matched.ambiguous[picture] = fitting
        return
    matched.keys[picture] = fitting[0] if fitting else picture.name if picture.is_key else spellings[-1]
    if not fitting:
        matched.unknown.append(picture)
        places = {
            (dataset, shard)
            for spelling in spellings
            for dataset, shard, key in samples.get(posixpath.basename(spelling), ())
            if key == spelling or (not picture.is_key and _fits(key, spellings))
        }
        if places:
            matched.elsewhere[picture] = sorted(places)


def _spellings(picture: Picture) -> list[str]:
    """Return what the key could be, the likeliest first, and last what `pack` would make it."""
    if picture.is_key:
        return list(dict.fromkeys((picture.name, picture.name.strip())))
    path = posixpath.normpath(picture.name).lstrip("/")
    while path.startswith("../"):
        path = path[3:]
    return [path, posixpath.splitext(path)[0]]


def _fits(key: str, spellings: Iterable[str]) -> bool:
    """Whether a key and a path are the same from the end, as far as both go."""
    return any(f"/{longer}".endswith(f"/{shorter}") for s in spellings for longer, shorter in ((key, s), (s, key)))
