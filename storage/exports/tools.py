"""Labels of chosen samples as labelling tools import them: Label Studio's tasks, FiftyOne's labels."""

from __future__ import annotations

import json
import posixpath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from storage.exports.pictures import PICTURES
from storage.exports.selection import Selection

TASKS, CONFIG = "tasks.json", "label-config.xml"
LABELS = "labels.json"  # the name that FiftyOne looks for

_PICTURE, _TAGS = "image", "tags"  # tie tasks, predictions and configuration together
_LOCAL = "/data/local-files/?d="  # how Label Studio serves files below its document root


def label_studio_files(selection: Selection) -> dict[str, bytes]:
    """Return Label Studio's files by name: tasks whose predictions are the tags, and the labelling interface.

    `image` is the copied picture as local storage serves it with the export's folder as document root; without copied
    pictures it is the key. `data` also says dataset, shard and key, by which answers are imported again.
    """
    tasks = [_task(row, selection.model_id) for row in selection.rows.to_pylist()]
    return {TASKS: json.dumps(tasks, ensure_ascii=False, indent=1).encode(), CONFIG: _config(selection).encode()}


def _task(row: dict[str, Any], model_id: str | None) -> dict[str, Any]:
    image = _LOCAL + quote(row["file"]) if "file" in row else row["key"]
    data = {_PICTURE: image, "dataset": row["dataset"], "shard": row["shard"], "key": row["source_key"]}
    return {"data": data, "predictions": [_prediction(row["tags"], model_id)] if row["tags"] else []}


def _prediction(tags: list[dict[str, Any]], model_id: str | None) -> dict[str, Any]:
    """Return the tags as one answer; its score is that of the least sure."""
    choices = {"choices": [tag["label_id"] for tag in tags]}
    result = {"id": _TAGS, "from_name": _TAGS, "to_name": _PICTURE, "type": "choices", "value": choices}
    return {"model_version": model_id, "score": min(tag["score"] for tag in tags), "result": [result]}


def _config(selection: Selection) -> str:
    choices = sorted({label.label_id for label in selection.labels})
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{_PICTURE}" value="${_PICTURE}" zoom="true"/>',
            f'  <Choices name="{_TAGS}" toName="{_PICTURE}" choice="multiple" showInline="true">',
            *(f"    <Choice value={quoteattr(label_id)}/>" for label_id in choices),
            "  </Choices>",
            "</View>",
            "",
        ]
    )


def fiftyone_files(selection: Selection) -> dict[str, bytes]:
    """Return the labels of a `FiftyOneImageClassificationDataset`, by picture, each with its confidence.

    A picture is known by its path below `data/` without extension; without copied pictures, by its key.
    """
    labels = {_name(row): [_classification(tag) for tag in row["tags"]] for row in selection.rows.to_pylist()}
    value = {"classes": sorted({label.label_id for label in selection.labels}), "labels": labels}
    return {LABELS: json.dumps(value, ensure_ascii=False).encode()}


def _name(row: dict[str, Any]) -> str:
    file = row.get("file")
    return row["key"] if file is None else posixpath.splitext(posixpath.relpath(file, PICTURES))[0]


def _classification(tag: dict[str, Any]) -> dict[str, Any]:
    return {"label": tag["label_id"], "confidence": tag["score"]}
