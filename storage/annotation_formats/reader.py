"""Any file of annotations: which format it has, and what it says."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from schemas.commands import store_command
from schemas.errors import RequestError, one_of
from storage.annotation_formats.coco import is_coco, read_coco
from storage.annotation_formats.content import FileContent
from storage.annotation_formats.label_studio import is_label_studio, read_label_studio
from storage.annotation_formats.tables import read_csv, read_parquet
from storage.files import read_file

Format = Literal["csv", "parquet", "coco", "labelstudio"]
FORMATS: tuple[Format, ...] = get_args(Format)

_BY_SUFFIX: dict[str, Literal["csv", "parquet", "json"]] = {".csv": "csv", ".parquet": "parquet", ".json": "json"}


def read_annotation_file(url: str, format: Format | None = None) -> FileContent:
    """Return what a file of annotations says.

    Args:
        url: path or URL of the file.
        format: one of FORMATS; None: by its suffix, and by its content.

    Raises:
        RequestError: it cannot be read, or has another format.
    """
    data = read_file(url)
    match format or _guess(url, data):
        case "csv":
            return read_csv(data, url)
        case "parquet":
            return read_parquet(data, url)
        case "coco" | "labelstudio" | "json" as kind:
            return _read_json(data, url, kind)
        case _:
            raise RequestError(one_of("format", format, FORMATS))


def _guess(url: str, data: bytes) -> Literal["csv", "parquet", "json"]:
    by_suffix = _BY_SUFFIX.get(PurePosixPath(url).suffix.lower())
    if by_suffix is not None:
        return by_suffix
    if data.startswith(b"PAR1"):
        return "parquet"
    return "json" if data.lstrip()[:1] in (b"{", b"[") else "csv"


def _read_json(data: bytes, url: str, kind: Literal["coco", "labelstudio", "json"]) -> FileContent:
    try:
        value = json.loads(data, object_hook=_without_outlines)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{url!r} is no JSON: {error}; known formats: {', '.join(FORMATS)}") from None
    if is_coco(value) and kind != "labelstudio":
        return read_coco(value)
    if is_label_studio(value) and kind != "coco":
        return read_label_studio(value)
    if isinstance(value, dict) and value.get("format") == "clipdecoder-answers":
        command = store_command("review", "import", url)
        raise RequestError(f"{url!r} is what the review page saves; `{command}` brings it in")
    raise RequestError(
        f"{url!r} is JSON of another kind{f' than {kind}' if kind != 'json' else ''}: COCO is an object with images, "
        "annotations and categories; Label Studio's JSON export (not JSON-MIN) is a list of tasks with data and "
        "annotations"
    )


def _without_outlines(record: dict[str, Any]) -> dict[str, Any]:
    """Drop what is nine tenths of a large COCO file while it is read."""
    record.pop("segmentation", None)
    return record
