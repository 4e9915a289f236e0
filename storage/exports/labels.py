"""Labels of chosen samples without shards: one file, or what a labelling tool reads, with the pictures or without."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from schemas.errors import RequestError
from schemas.export import Format, MissingSamples, SourceShard
from storage.exports.pictures import PICTURES, copy_pictures
from storage.exports.selection import Selection
from storage.exports.shards import Watch
from storage.exports.tables import table_file
from storage.exports.tools import fiftyone_files, label_studio_files
from storage.files import Folder

_FOLDERS = {"labelstudio": label_studio_files, "fiftyone": fiftyone_files}


@dataclass(frozen=True, kw_only=True)
class LabelsTarget:
    """Where labels go: one file of a folder, or for labelling tools the folder itself."""

    folder: Folder
    name: str | None


@dataclass(frozen=True, kw_only=True)
class LabelsWritten:
    """What came of it."""

    selection: Selection  # less what could not be copied
    files: tuple[str, ...]
    pictures: str | None
    missing: tuple[MissingSamples, ...]


def parse_labels_target(to: str, format: Format) -> LabelsTarget:
    """Return where labels of a format go.

    Raises:
        RequestError: a format of one file, and `to` is a folder; or a folder is needed and `to` looks like a file.
    """
    if format in _FOLDERS:
        if posixpath.splitext(to)[1].lower() in (".json", ".csv", ".parquet", ".tar"):
            raise RequestError(f"--to {to!r} is a file; {format} is a folder with several: name one")
        return LabelsTarget(folder=Folder(to.rstrip("/") or "/"), name=None)
    folder, slash, name = to.rpartition("/")
    if not name:
        raise RequestError(f"--to {to!r} is a folder; name a file in it")
    return LabelsTarget(folder=Folder(folder or slash or "."), name=name)


def write_labels(
    target: LabelsTarget,
    selection: Selection,
    format: Format,
    pictures: tuple[SourceShard, ...] | None,
    watch: Watch = lambda done, total: None,
) -> LabelsWritten:
    """Write labels, and first the pictures if they are wanted. Files of the same names are replaced.

    Args:
        target: where.
        selection: what was chosen.
        format: any but webdataset.
        pictures: the shards that pictures are copied from; None: no pictures.
        watch: told after each picture.

    Raises:
        StoreError: the target cannot be written.
        RunError: it could be, and then no longer.
    """
    folder = target.folder
    missing: tuple[MissingSamples, ...] = ()
    if pictures is not None:
        copied = copy_pictures(folder, selection, pictures, watch)
        selection, missing = copied.selection, copied.missing
    files = {target.name: table_file(selection, format)} if target.name else _FOLDERS[format](selection)
    for name, data in files.items():
        folder.write_bytes(name, data)
    place = folder.url.rstrip("/")
    return LabelsWritten(
        selection=selection,
        files=tuple(f"{place}/{name}" for name in files),
        pictures=None if pictures is None else f"{place}/{PICTURES}",
        missing=missing,
    )
