"""Labels of chosen samples without their pictures: CSV, Parquet, COCO."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from schemas.export import ExportLabel, Format
from schemas.tables import EXPORTED_LABELS
from storage.exports.selection import Selection


def table_file(selection: Selection, format: Format) -> bytes:
    """Return the file of a format that is one file.

    `parquet`: a row for each sample, `tags` a list of label_id and score. `csv`: the same, with `labels` and `scores`
    joined by `;`, the surest first. `coco`: pictures, categories, and for each tag an annotation with its score whose
    box is the whole picture; `file_name` is the copied picture, else the key, with its shard where keys repeat. Tables
    have a column `file` where pictures were copied.
    """
    return _coco(selection) if format == "coco" else _table(_labels(selection.rows), format)


def _labels(rows: pa.Table) -> pa.Table:
    """Return the rows with the keys of their shards, as tables have them."""
    table = rows.select(EXPORTED_LABELS.names).cast(EXPORTED_LABELS)
    table = table.rename_columns(["key" if name == "source_key" else name for name in table.column_names])
    return table.append_column("file", rows["file"]) if "file" in rows.column_names else table


def _table(table: pa.Table, format: Format) -> bytes:
    buffer = io.BytesIO()
    if format == "parquet":
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()
    tags = table["tags"].to_pylist()
    labels = [";".join(tag["label_id"] for tag in each) for each in tags]
    scores = [";".join(str(np.float32(tag["score"])) for tag in each) for each in tags]
    flat = table.drop_columns(["tags"]).append_column("labels", pa.array(labels, pa.string()))
    pyarrow.csv.write_csv(flat.append_column("scores", pa.array(scores, pa.string())), buffer)
    return buffer.getvalue()


def _coco(selection: Selection) -> bytes:
    labels = {label.label_id: label for label in selection.labels}
    places = {label_id: place for place, label_id in enumerate(sorted(labels), start=1)}
    rows = selection.rows.to_pylist()
    value = {
        "info": {"description": "tags by clipdecoder", "model_id": selection.model_id},
        "images": [_image(place, row) for place, row in enumerate(rows, start=1)],
        "categories": [_category(places[label_id], labels[label_id]) for label_id in places],
        "annotations": list(_annotations(rows, places)),
    }
    return json.dumps(value, ensure_ascii=False).encode()


def _image(place: int, row: dict[str, Any]) -> dict[str, Any]:
    names = ("width", "height", "dataset", "shard", "sample", "sha256")
    file_name = row.get("file") or row["key"]
    return {"id": place, "file_name": file_name, "key": row["source_key"]} | {name: row[name] for name in names}


def _category(place: int, label: ExportLabel) -> dict[str, Any]:
    # Names may be shared, ids are not: who reads the file tells categories apart by `name`.
    return {"id": place, "name": label.label_id, "supercategory": label.parent or "", "display_name": label.name}


def _annotations(rows: Sequence[dict[str, Any]], places: dict[str, int]) -> Iterator[dict[str, Any]]:
    tags = ((image, row, tag) for image, row in enumerate(rows, start=1) for tag in row["tags"])
    for place, (image, row, tag) in enumerate(tags, start=1):
        yield {
            "id": place,
            "image_id": image,
            "category_id": places[tag["label_id"]],
            "bbox": [0, 0, row["width"], row["height"]],
            "area": row["width"] * row["height"],
            "iscrowd": 0,
            "score": tag["score"],
        }
