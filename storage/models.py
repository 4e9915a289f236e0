"""Models in the store: which ones scored something, and which one the views show."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.commands import store_command
from schemas.errors import ModelError, one_of
from schemas.manifest import ModelRecord, Promotion
from storage.files import Folder
from storage.records import find_json, read_json, write_json
from storage.retraining import find_gates

CURRENT = "models/current.json"
WEIGHTS = "model.safetensors"  # of a checkpoint, beside its record
CALIBRATION_FILE = "calibration.parquet"


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
        raise ModelError(
            one_of("model", model_id, models) + f" (see `{store_command('models', 'list', store=folder.url)}`)"
        )
    return models[model_id]


def read_promotion(folder: Folder) -> Promotion | None:
    """Return which model is promoted, or None in a store that has none yet."""
    return find_json(folder, CURRENT, Promotion)


def promote(folder: Folder, model_id: str, reason: str, *, force: bool = False) -> Promotion:
    """Make the views show this model's scores, and remember which ones they showed before.

    Args:
        folder: the store.
        model_id: the model; it must be whole, so that no model is ever shown that is half written.
        reason: why; kept with the promotion.
        force: also where a comparison with the model that was promoted then kept it back; what is overridden is kept.

    Raises:
        ModelError: the store has no such model, it is not whole, or its gates were not passed.
    """
    record = read_model(folder, model_id)
    _check_whole(folder, record)
    gates = find_gates(folder, model_id)
    before = read_promotion(folder)
    if before is not None and before.model_id == model_id:
        return before
    if gates is not None and not gates.passed and not force:
        numbers = store_command("models", "show", model_id, store=folder.url)
        raise ModelError(
            f"model {model_id} did not pass {', '.join(gates.holding)} when it was compared with "
            f"{gates.current_model_id} (`{numbers}` has the numbers); --force promotes it all the same"
        )
    promotion = Promotion(
        model_id=model_id,
        since=datetime.now(UTC),
        reason=reason,
        previous=before.model_id if before else None,
        history=(*_history(before), before.model_id) if before else (),
        forced=gates.holding if gates is not None else (),
    )
    write_json(folder, CURRENT, promotion)
    return promotion


def rollback(folder: Folder, reason: str) -> Promotion:
    """Promote the model that was promoted before the current one. Asked twice, it goes two models back.

    Raises:
        ModelError: there is no earlier model, or it is not whole.
    """
    current = read_promotion(folder)
    if current is None:
        raise ModelError("no earlier model to go back to: no model is promoted in this store")
    history = _history(current)
    if not history:
        raise ModelError(f"no earlier model to go back to: no model was promoted before {current.model_id}")
    _check_whole(folder, read_model(folder, history[-1]))
    promotion = Promotion(
        model_id=history[-1],
        since=datetime.now(UTC),
        reason=reason,
        previous=current.model_id,
        history=history[:-1],
    )
    write_json(folder, CURRENT, promotion)
    return promotion


def _history(promotion: Promotion | None) -> tuple[str, ...]:
    """Return the models that were promoted before, the oldest first."""
    if promotion is None:
        return ()
    if "history" not in promotion.model_fields_set and promotion.previous is not None:
        return (promotion.previous,)  # written before there was a history
    return promotion.history


def _check_whole(folder: Folder, record: ModelRecord) -> None:
    """Refuse a checkpoint of which a file is not there: its record is written last, so it was whole once.

    Raises:
        ModelError: naming what is missing.
    """
    if record.checkpoint is None:
        return
    there = folder.list(f"models/{record.model_id}")
    missing = [name for name in (WEIGHTS, CALIBRATION_FILE) if f"models/{record.model_id}/{name}" not in there]
    if missing:
        raise ModelError(
            f"model {record.model_id} is not whole: {', '.join(missing)} of it not in the store {folder.url!r}; "
            "put it back, or train again"
        )
