"""Label Studio's JSON export: choices, and the labels of boxes and masks, become the labels of their pictures.

The newest annotation of a task counts. A task of `clipdecoder review export` asks for one label, and its choice says
whether that is there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from storage.annotation_formats.content import (
    PICTURE_NAMES,
    Entry,
    FileContent,
    Picture,
    parse_text,
    parse_time,
    parse_value,
    yes,
)

SOURCE = "label-studio"

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the names of uploaded files
_NEVER = datetime.min.replace(tzinfo=UTC)


def is_label_studio(value: Any) -> bool:
    """Whether a JSON value is a list of tasks with their annotations."""
    return isinstance(value, list) and all(
        isinstance(task, Mapping)
        and isinstance(task.get("data"), Mapping)
        and isinstance(task.get("annotations"), list)
        for task in value
    )


def read_label_studio(tasks: Sequence[Mapping[str, Any]]) -> FileContent:
    """Return the newest answer to each task; annotations that were skipped (cancelled) are none."""
    content = FileContent(format="labelstudio")
    for place, task in enumerate(tasks, start=1):
        try:
            entry = _entry(task)
        except ValueError as error:
            content.bad.append(f"task {task.get('id', place)}: {error}")
            continue
        if entry is None:
            content.unanswered += 1
        else:
            content.entries.append(entry)
    return content


def _entry(task: Mapping[str, Any]) -> Entry | None:
    """Return what one task says, or None if nobody answered it.

    Raises:
        ValueError: it does not say it.
    """
    given = [each for each in task["annotations"] if isinstance(each, Mapping) and not each.get("was_cancelled")]
    if not given:
        return None
    newest = max(given, key=lambda annotation: _time(annotation) or _NEVER)
    data, words = task["data"], list(_words(newest))
    said = yes(words)
    if "label_id" in data:
        if not words:
            return None
        said = ((parse_text(data["label_id"], "label_id"), parse_value(words[-1])),)
    return Entry(picture=_picture(data), said=said, at=_time(newest), source=_source(newest))


def _time(annotation: Mapping[str, Any]) -> datetime | None:
    return parse_time(annotation.get("updated_at") or annotation.get("created_at"))


def _words(annotation: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was chosen: of a result of type `choices` the choices, of `rectanglelabels` its labels, ..."""
    for result in _list(annotation, "result"):
        kind, value = (result.get("type"), result.get("value")) if isinstance(result, Mapping) else (None, None)
        if isinstance(kind, str) and (kind == "choices" or kind.endswith("labels")) and isinstance(value, Mapping):
            for word in _list(value, kind):
                yield parse_text(word, kind).strip()


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list that may be left out.

    Raises:
        ValueError: it is something else.
    """
    value = record.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}, and must be a list")
    return value


def _source(annotation: Mapping[str, Any]) -> str:
    person = annotation.get("completed_by")
    if isinstance(person, Mapping):
        person = person.get("email") or person.get("id")
    return f"{SOURCE}:{person}" if person else SOURCE


def _picture(data: Mapping[str, Any]) -> Picture:
    if "key" in data:
        dataset, shard = (parse_text(data[name], name) if data.get(name) else None for name in ("dataset", "shard"))
        return Picture(parse_text(data["key"], "key"), True, dataset, shard)
    found = [data[name] for name in (*PICTURE_NAMES, "img", "url") if name in data]
    if not found:
        raise ValueError(f"its data has {', '.join(map(str, data)) or 'nothing'}, and no key, image or url")
    return Picture(_path(parse_text(found[0], "image")), is_key=False)


def _path(url: str) -> str:
    """Return the path of a picture as Label Studio serves it: uploaded, from local files, or from anywhere.

    Raises:
        ValueError: the picture itself stands there.
    """
    parts = urlsplit(url)
    if parts.scheme == "data":
        raise ValueError("its image is the picture itself, which does not say which one it is; give its data a key")
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].replace("\\", "/")
    folder, name = posixpath.split(posixpath.normpath(path.lstrip("/")))
    if folder == "data/upload" or folder.startswith("data/upload/"):
        return _UPLOADED.sub("", name)
    return posixpath.join(folder, name)
