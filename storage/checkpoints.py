"""Checkpoints in the store: `models/<model_id>/` with weights, calibration, metrics, card, and the record last.

A folder without its record is no model: a training that is killed while it writes leaves none behind.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from schemas.checkpoint import CalibrationRow
from schemas.digests import digest_of
from schemas.errors import ModelError
from schemas.manifest import ModelRecord
from schemas.tables import CALIBRATION
from storage.files import Folder, checksum
from storage.models import CALIBRATION_FILE, WEIGHTS, write_model
from storage.parquet import read_parquet
from storage.records import write_json

METRICS = "metrics.json"
CARD = "README.md"


def write_checkpoint(
    folder: Folder,
    record: ModelRecord,
    *,
    weights: bytes,
    calibration: Sequence[CalibrationRow],
    metrics: BaseModel,
    card: str,
) -> None:
    """Write a checkpoint whole: its record, which makes it a model, comes last.

    Raises:
        StoreError: the store cannot be written; there is no such model then.
    """
    place = f"models/{record.model_id}"
    folder.write_bytes(f"{place}/{WEIGHTS}", weights)
    folder.write_bytes(f"{place}/{CALIBRATION_FILE}", calibration_bytes(calibration))
    write_json(folder, f"{place}/{METRICS}", metrics)
    folder.write_bytes(f"{place}/{CARD}", card.encode())
    write_model(folder, record)


def with_id(record: ModelRecord, calibration: Sequence[CalibrationRow]) -> ModelRecord:
    """Return a checkpoint's record under its id: a digest of everything that decides a score."""
    checkpoint = record.checkpoint
    assert checkpoint is not None
    identity = {
        "encoder": record.encoder_id,
        "text_encoder": record.text_encoder_id,
        "kind": record.kind,
        "weights": checkpoint.weights_sha256,
        "calibration": checksum(calibration_bytes(calibration)),
        "branches": checkpoint.branches,
        "fusion": checkpoint.fusion,
        "seen_labels": record.seen_labels,
    } | ({"own_fusion": checkpoint.own_fusion} if checkpoint.own_fusion else {})
    return record.model_copy(update={"model_id": digest_of(identity)})


def check_id(record: ModelRecord, calibration: Sequence[CalibrationRow]) -> None:
    """Refuse a checkpoint whose record or calibration was edited: its id is a digest of all that decides a score.

    Raises:
        ModelError: saying what to do.
    """
    if with_id(record, calibration).model_id != record.model_id:
        raise ModelError(
            f"config.json or calibration.parquet of model {record.model_id} is not what it was: put the old one back, "
            "train again, or make a new model with `clipdecoder calibrate`"
        )


def read_weights(folder: Folder, record: ModelRecord) -> bytes:
    """Return a checkpoint's weights, which must be the ones that its record was written with.

    Raises:
        ModelError: they are not there, or others.
    """
    path = f"models/{record.model_id}/{WEIGHTS}"
    try:
        weights = folder.read_bytes(path)
    except FileNotFoundError:
        raise ModelError(f"{path!r} is not in the store {folder.url!r}; put it back, or train again") from None
    if record.checkpoint is None or checksum(weights) != record.checkpoint.weights_sha256:
        raise ModelError(f"{path!r} is not what the model's record says: it was changed or damaged; put it back")
    return weights


def read_calibration(folder: Folder, model_id: str) -> tuple[CalibrationRow, ...]:
    """Return how a checkpoint makes scores, by scorer and label.

    Raises:
        ModelError: the file is not there, or cannot be read.
    """
    path = f"models/{model_id}/{CALIBRATION_FILE}"
    try:
        table = read_parquet(folder.read_bytes(path))
        records = table.select(CALIBRATION.names).to_pylist()
    except FileNotFoundError:
        raise ModelError(f"{path!r} is not in the store {folder.url!r}; put it back, or train again") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())  # Arrow's may run over several lines
        raise ModelError(f"{path!r} cannot be read: {reason}; put it back, or train again") from None
    return tuple(CalibrationRow(**record) for record in records)


def read_card(folder: Folder, model_id: str) -> str:
    """Return a checkpoint's model card.

    Raises:
        ModelError: the file is not there.
    """
    path = f"models/{model_id}/{CARD}"
    try:
        return folder.read_bytes(path).decode()
    except FileNotFoundError:
        raise ModelError(
            f"{path!r} is not in the store {folder.url!r}; `models show --json` shows the record"
        ) from None


def write_card(folder: Folder, model_id: str, card: str) -> None:
    """Put another card in the place of a checkpoint's: nothing rests on it.

    Raises:
        StoreError: the store cannot be written; the old card is still there.
    """
    folder.write_bytes(f"models/{model_id}/{CARD}", card.encode())


def calibration_bytes(rows: Sequence[CalibrationRow]) -> bytes:
    """Return the rows as Parquet. Equal rows give equal bytes."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=CALIBRATION)
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
