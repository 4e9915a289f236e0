"""COCO JSON: boxes, masks or key points become the labels of the pictures that they are on."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from storage.annotation_formats.content import Entry, FileContent, Picture, parse_text, yes

_PARTS = ("images", "annotations", "categories")


def is_coco(value: Any) -> bool:
    """Whether a JSON value is COCO's object of lists."""
    return isinstance(value, Mapping) and all(isinstance(value.get(part), list) for part in _PARTS)


def read_coco(value: Mapping[str, Any]) -> FileContent:
    """Return the categories that have an annotation on each picture, crowds included; pictures without any as well."""
    content = FileContent(format="coco")
    pictures = _by_id(value["images"], "file_name", "image", content.bad)
    categories = _by_id(value["categories"], "name", "category", content.bad)
    found: dict[Any, list[str]] = defaultdict(list)
    for place, annotation in enumerate(value["annotations"], start=1):
        try:
            image = _known(annotation, "image_id", pictures)
            found[image].append(categories[_known(annotation, "category_id", categories)])
        except ValueError as error:
            content.bad.append(f"{_where('annotation', annotation, place)}: {error}")
    for image, path in pictures.items():
        picture = Picture(posixpath.normpath(path.replace("\\", "/")), is_key=False)
        content.entries.append(Entry(picture=picture, said=yes(found[image])))
    content.words = list(categories.values())
    return content


def _by_id(records: list[Any], name: str, what: str, bad: list[str]) -> dict[int | str, str]:
    """Return a text field of each record, by the record's id."""
    found: dict[int | str, str] = {}
    for place, record in enumerate(records, start=1):
        try:
            identity = _id(record, "id")
            found[identity] = parse_text(record.get(name), name).strip()
        except ValueError as error:
            bad.append(f"{_where(what, record, place)}: {error}")
    return found


def _where(what: str, record: Any, place: int) -> str:
    """Return which record it is: by its id, or where it has none by its place in the list."""
    try:
        return f"{what} with id {_id(record, 'id')!r}"
    except ValueError:
        return f"{what} number {place} of the list"


def _known(record: Any, name: str, known: Mapping[int | str, str]) -> int | str:
    value = _id(record, name)
    if value not in known:
        raise ValueError(f"{name} {value!r} is not in the file's list")
    return value


def _id(record: Any, name: str) -> int | str:
    value = record.get(name) if isinstance(record, Mapping) else None
    if not isinstance(value, int | str):
        raise ValueError(f"{name} is {value!r}, and must be a number or a text")
    return value
