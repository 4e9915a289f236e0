"""Pictures of chosen samples as files in a folder, bytes unchanged, for tools that read no shards."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count

import pyarrow as pa

from schemas.errors import RunError, StoreError
from schemas.export import MissingSamples, SourceShard
from storage.exports.selection import Selection
from storage.exports.shards import Watch
from storage.exports.sources import Originals
from storage.files import Folder, part_name

PICTURES = "data"


@dataclass(frozen=True, kw_only=True)
class CopiedPictures:
    """What was copied: the selection with a column `file`, and what it had to leave out."""

    selection: Selection
    missing: tuple[MissingSamples, ...]


def copy_pictures(
    folder: Folder, selection: Selection, sources: tuple[SourceShard, ...], watch: Watch = lambda done, total: None
) -> CopiedPictures:
    """Write each chosen picture to `data/<key>.<extension>` in a folder; files of these names are replaced.

    Keys come from tars that anybody may have made: what a path would understand in them is percent-encoded. Where keys
    are one for a disk that tells no case apart, later ones get a number.

    Args:
        folder: where `data/` goes.
        selection: what was chosen.
        sources: the shards that it is read from, each once.
        watch: told after each picture.

    Raises:
        RunError: the folder could not be written any more.
    """
    kept, files = [], []
    names = file_names(selection.rows["key"].to_pylist())
    try:
        with closing(Originals(sources)) as originals:
            for row, sample in originals.of(selection.rows):
                extension = posixpath.splitext(sample.member)[1].lower()
                files.append(f"{PICTURES}/{names[row['key']]}{extension}")
                folder.write_bytes(files[-1], sample.data)
                kept.append(row)
                watch(len(kept), selection.rows.num_rows)
    except StoreError as error:
        raise RunError(f"{error}; the same command writes all of it again") from error
    rows = pa.Table.from_pylist(kept, schema=selection.rows.schema).append_column("file", pa.array(files, pa.string()))
    return CopiedPictures(selection=replace(selection, rows=rows), missing=originals.missing)


def file_names(keys: Sequence[str]) -> dict[str, str]:
    """Return for each key a relative path without extension, all different on disks that tell no case apart too."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = own = part_name(key)
        numbers = count(2)
        while name.casefold() in taken:
            name = f"{own}-{next(numbers)}"
        taken.add(name.casefold())
        names[key] = name
    return names
