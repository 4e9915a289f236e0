"""Models in the store: which ones scored something, and which one the views show."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.errors import ModelError, one_of
from schemas.manifest import ModelRecord, Promotion
from storage.files import Folder
from storage.records import find_json, read_json, write_json

CURRENT = "models/current.json"


def model_path(model_id: str) -> str:
    """Return where a model's record stands."""
    return f"models/{model_id}/config.json"


def write_model(folder: Folder, record: ModelRecord) -> None:
    """Keep a model's record. Of a model that is known, only the name can be new: where its weights are now."""
    path = model_path(record.model_id)
    if find_json(folder, path, ModelRecord) != record:
        write_json(folder, path, record)


def read_models(folder: Folder) -> dict[str, ModelRecord]:
    """Return the records of all models in the store, by model id."""
    paths = [path for path in folder.list("models", "/config.json") if path.count("/") == 2]
    records = [read_json(folder, path, ModelRecord) for path in paths]
    return {record.model_id: record for record in records}


def read_model(folder: Folder, model_id: str) -> ModelRecord:
    """Return one model's record.

    Raises:
        ModelError: the store has no such model; the known ones are named.
    """
    models = read_models(folder)
    if model_id not in models:
        raise ModelError(one_of("model", model_id, models) + " (see `clipdecoder models list`)")
    return models[model_id]


def read_promotion(folder: Folder) -> Promotion | None:
    """Return which model is promoted, or None in a store that has none yet."""
    return find_json(folder, CURRENT, Promotion)


def promote(folder: Folder, model_id: str, reason: str) -> Promotion:
    """Make the views show this model's scores, and remember which one they showed before.

    Raises:
        ModelError: the store has no such model.
    """
    read_model(folder, model_id)
    before = read_promotion(folder)
    if before is not None and before.model_id == model_id:
        return before
    promotion = Promotion(
        model_id=model_id,
        since=datetime.now(UTC),
        reason=reason,
        previous=before.model_id if before else None,
    )
    write_json(folder, CURRENT, promotion)
    return promotion


def rollback(folder: Folder, reason: str) -> Promotion:
    """Promote the model that was promoted before the current one.

    Raises:
        ModelError: there is no earlier model.
    """
    current = read_promotion(folder)
    if current is None or current.previous is None:
        raise ModelError("no earlier model to go back to: no model was promoted in place of another in this store")
    return promote(folder, current.previous, reason)
