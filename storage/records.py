"""Records as JSON files: what runs, models and taxonomies say about themselves."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import StoreError
from storage.files import Folder

RecordT = TypeVar("RecordT", bound=BaseModel)


def write_json(folder: Folder, path: str, record: BaseModel) -> None:
    """Write a record as indented JSON, atomically."""
    folder.write_bytes(path, (record.model_dump_json(indent=2) + "\n").encode())


def read_json(folder: Folder, path: str, kind: type[RecordT]) -> RecordT:
    """Return the record in a file.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: the file is damaged, or from another version.
    """
    data = folder.read_bytes(path)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(
            f"{path!r} in the store {folder.url!r} is no {kind.__name__} that this version can read "
            f"({error.errors()[0]['msg']}): was it written by a newer clipdecoder, or edited?"
        ) from None


def find_json(folder: Folder, path: str, kind: type[RecordT]) -> RecordT | None:
    """Return the record in a file, or None if there is no such file.

    Raises:
        StoreError: the file is damaged, or from another version.
    """
    try:
        return read_json(folder, path, kind)
    except FileNotFoundError:
        return None
