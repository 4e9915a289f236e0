"""What the side files of shards say, kept in the store: `side_labels/<dataset>/<shard>.parquet`.

Words stay words: which label one means is for the taxonomy to say, and that changes. A file is of the bytes that its
shard had; it is written while a shard is read for its features, so that nobody reads the shard again for its labels. A
shard with no annotated sample has a file without rows, for the same reason.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import Fingerprint
from schemas.tables import SIDE_LABELS
from storage.files import Folder, part_name
from storage.ground_truth import SampleLabels, ShardLabels, read_labels
from storage.parquet import read_parquet
from storage.patterns import ShardRef

_FINGERPRINT, _CHANGED_AT, _DAMAGED = b"fingerprint", b"changed_at", b"damaged"


def side_labels_path(dataset: str, shard: str) -> str:
    """Return where the side labels of a shard stand."""
    return f"side_labels/{dataset}/{part_name(shard)}.parquet"


def side_labels(folder: Folder, dataset: str, ref: ShardRef) -> ShardLabels:
    """Return what the side files of a shard say: from the store, else read from the shard once and kept.

    Raises:
        ShardError: the store has them not, and the shard is missing, no tar, or cannot be read.
        StoreError: the store cannot be written.
    """
    stored = None if ref.fingerprint is None else read_side_labels(folder, dataset, ref.shard, ref.fingerprint)
    if stored is not None:
        return stored
    found = read_labels(ref.url)
    if ref.fingerprint is not None:
        _write(folder, side_labels_path(dataset, ref.shard), found, ref.fingerprint)
    return found


def keep_side_labels(folder: Folder, dataset: str, ref: ShardRef, found: ShardLabels) -> None:
    """Keep what was found while a shard was read. What is there of the same bytes stays, with its time.

    Raises:
        StoreError: the store cannot be written.
    """
    assert ref.fingerprint is not None, "a shard that was read is there"
    if read_side_labels(folder, dataset, ref.shard, ref.fingerprint) is None:
        _write(folder, side_labels_path(dataset, ref.shard), found, ref.fingerprint)


def read_side_labels(folder: Folder, dataset: str, shard: str, fingerprint: Fingerprint) -> ShardLabels | None:
    """Return what the store has of a shard's side files if it is of these bytes; None if there is none such.

    Side labels can be read again, so a damaged file counts as none and is replaced.
    """
    try:
        data = folder.read_bytes(side_labels_path(dataset, shard))
        return _parse(read_parquet(data), fingerprint)
    except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _parse(table: pa.Table, fingerprint: Fingerprint) -> ShardLabels | None:
    metadata = table.schema.metadata or {}
    if Fingerprint.model_validate_json(metadata[_FINGERPRINT]) != fingerprint:
        return None
    found = ShardLabels(
        changed_at=datetime.fromisoformat(metadata[_CHANGED_AT].decode()), damaged=json.loads(metadata[_DAMAGED])
    )
    words: dict[int, dict[int, list[str]]] = {}
    for row in table.select(SIDE_LABELS.names).to_pylist():
        found.keys[row["sample"]] = row["key"]
        of_sample = words.setdefault(row["sample"], {1: [], 0: []})
        if row["word"] is not None:
            of_sample[row["value"]].append(row["word"])
    found.samples = {
        sample: SampleLabels(labels=tuple(said[1]), absent=tuple(said[0])) for sample, said in words.items()
    }
    return found


def _write(folder: Folder, path: str, found: ShardLabels, fingerprint: Fingerprint) -> None:
    """Write a shard's side labels atomically. Equal ones give equal bytes."""
    metadata = {
        _FINGERPRINT: fingerprint.model_dump_json().encode(),
        _CHANGED_AT: found.changed_at.isoformat().encode(),
        _DAMAGED: json.dumps(found.damaged).encode(),
    }
    table = pa.Table.from_pylist(list(_rows(found)), schema=SIDE_LABELS.with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    folder.write_bytes(path, buffer.getvalue())


def _rows(found: ShardLabels) -> Iterator[dict[str, Any]]:
    for sample, said in sorted(found.samples.items()):
        words: list[tuple[str | None, int | None]] = [(word, 1) for word in said.labels]
        words += [(word, 0) for word in said.absent]
        for word, value in words or [(None, None)]:
            yield {"sample": sample, "key": found.keys[sample], "word": word, "value": value}
