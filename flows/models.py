"""From the name of a model to the model: a zero-shot one by its spec, a trained one from its folder in the store."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.commands import shell
from schemas.config import DEFAULT_MODEL
from schemas.decoding import Decode, decoding_name, split_name
from schemas.errors import ConfigError, ModelError, one_of
from schemas.manifest import ModelRecord
from schemas.precision import PrecisionOption, precision_name, split_precision
from storage.checkpoints import check_id, read_calibration, read_weights
from storage.files import Folder
from storage.models import read_model, read_promotion
from storage.text_tables import read_text_table

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import EncoderPair
    from clipdecoder.encoders.model import ClipModel
    from clipdecoder.scoring.trained_model import TrainedModel
    from clipdecoder.scoring.zero_shot import ZeroShotModel
    from schemas.checkpoint import Scorer

    Model = ZeroShotModel | TrainedModel

TABLE = "table:"

_trained: dict[tuple[str, str, str], TrainedModel] = {}
_trained_lock = threading.Lock()


def load_model(
    folder: Folder,
    model: str | None,
    device: str,
    decode: Decode | None = None,
    precision: PrecisionOption = "auto",
) -> Model:
    """Return a model, loaded once per process.

    Args:
        folder: the store.
        model: `bundled:NAME`, `open_clip:NAME/TAG_OR_FILE`, a model id of the store, `current`, or None for the
            promoted model, and the bundled one in a store that has none.
        device: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        decode: how files are to be decoded; None: as the model's name says.
        precision: of the backbone; `auto`: of the promoted model, if it is of that name, else what is fast on the
            device. A stored model has its own.

    Raises:
        ModelError: it is unknown or unreadable, a stored model's weights are no longer what they were, or it decodes
            or computes otherwise than asked for.
    """
    record = stored_model(folder, model, decode, precision)
    if record is None:
        spec, _ = resolve_model(folder, model)
        name = decoding_name(spec, decode)
        known = _promoted_name(folder) if precision == "auto" else None
        again = known is not None and split_precision(known)[0] == name
        return _load_zero_shot(known if known and again else precise_name(name, precision, device), device)
    return load_recorded(folder, record, device)


def load_recorded(folder: Folder, record: ModelRecord, device: str) -> Model:
    """Return the model that a record in the store describes.

    Raises:
        ModelError: its weights are not there, or are no longer what they were.
    """
    if record.checkpoint is not None:
        return _load_trained(folder, record, device)
    model = _load_zero_shot(record.name, device)
    if model.record.model_id != record.model_id:
        raise ModelError(
            f"{record.name} is now model {model.record.model_id}, and {record.model_id} was asked for: its weights "
            f"have changed. Put the old weights back, or tag with {shell('--model', record.name)}"
        )
    return model


def resolve_model(folder: Folder, model: str | None) -> tuple[str, ModelRecord | None]:
    """Return a model's loadable name and, where it is a stored one, its record.

    Raises:
        ModelError: the store has no such model, or none is promoted.
    """
    if model is not None and ":" in model:
        return model, None
    promotion = read_promotion(folder)
    if promotion is None and model in (None, "current"):
        if model is None:
            return DEFAULT_MODEL, None
        raise ModelError("no model is promoted in this store yet; name one, e.g. open_clip:ViT-B-32/laion2b_s34b_b79k")
    model_id = promotion.model_id if promotion is not None and model in (None, "current") else str(model)
    record = read_model(folder, model_id)
    return record.name, record


def stored_model(
    folder: Folder, model: str | None, decode: Decode | None, precision: PrecisionOption
) -> ModelRecord | None:
    """Return the stored model that is meant, without loading it; None if only loading can tell. See `load_model`.

    A file may have other weights than it had, so what `open_clip:...` stands for is seen when it is loaded.

    Raises:
        ModelError: it is unknown, or it decodes or computes otherwise than asked for.
    """
    _, record = resolve_model(folder, model)
    if record is not None:
        _check_decoding(record, decode)
        _check_precision(record, precision)
    return record


def _another(record: ModelRecord, bare: str) -> str:
    """Return how a model like this one is asked for, or trained, with other options."""
    return shell("--model", bare) if record.checkpoint is None else shell("clipdecoder", "train", "--base", bare)


def _check_decoding(record: ModelRecord, decode: Decode | None) -> None:
    bare, own = split_name(record.name)
    if decode not in (None, own):
        another = _another(record, bare)
        raise ModelError(
            f"model {record.model_id} decodes {own}, and {decode} was asked for; use --decode {own}, or make "
            f"another model: {another} --decode {decode}"
        )


def precise_name(name: str, precision: PrecisionOption, device: str) -> str:
    """Return a model's name with the suffix of a precision; `auto`: its own, else that which is fast on the device.

    Raises:
        ModelError: it has the suffix of another one, or the device cannot be had.
    """
    from clipdecoder.encoders.model import best_precision, find_device

    if precision != "auto":
        return precision_name(name, precision)
    if split_precision(name)[1] != "float32":
        return name
    return precision_name(name, best_precision(find_device(device)))


def _promoted_name(folder: Folder) -> str | None:
    promotion = read_promotion(folder)
    return read_model(folder, promotion.model_id).name if promotion is not None else None


def _check_precision(record: ModelRecord, precision: PrecisionOption) -> None:
    bare, own = split_precision(record.name)
    if precision not in ("auto", own):
        another = _another(record, bare)
        raise ModelError(
            f"model {record.model_id} computes in {own}, and {precision} was asked for; use --precision {own}, or make "
            f"another model: {another} --precision {precision}"
        )


def choose_scorer(record: ModelRecord, scorer: str | None, *, local: bool) -> Scorer:
    """Return the scorer asked for, or the model's first.

    Raises:
        ModelError: the model has no such scorer.
        ConfigError: patches are asked for with a scorer that has no say in them.
    """
    if local and scorer not in (None, "clip"):
        raise ConfigError(
            f"--local is about the scorer clip; --scorer {scorer} uses patches in its own way, leave it out"
        )
    wanted = "clip+local" if local else scorer or record.scorers[0]
    for known in record.scorers:
        if known == wanted:
            return known
    raise ModelError(f"model {record.model_id} ({record.name}): {one_of('scorer', wanted, record.scorers)}")


def load_encoders(base: str, text: str | None, device: str) -> EncoderPair:
    """Return an image encoder and the text encoder to ask it with.

    Args:
        base: `bundled:NAME`, `open_clip:...` or `timm:...`.
        text: `open_clip:...`, `table:URL` of a Parquet file, or None for the base's own.
        device: as in `load_model`.

    Raises:
        ModelError: one of them cannot be had, or the base has no text tower and no other is named.
    """
    from clipdecoder.encoders.model import load_encoders as load
    from clipdecoder.encoders.text_tables import TableText

    if text is None or not text.startswith(TABLE):
        return load(base, text, device=device)
    url = text.removeprefix(TABLE)
    table = read_text_table(url)
    # As a checkpoint remembers it: good from any working directory.
    name = text if "://" in url else f"{TABLE}{Path(url).expanduser().resolve()}"
    return load(base, TableText(table.texts, table.vectors, name), device=device)


def _load_zero_shot(spec: str, device: str) -> ZeroShotModel:
    from clipdecoder.encoders.model import load_model as load  # seconds: not before the name is known to be good

    return _zero_shot(load(spec, device=device))


@lru_cache(maxsize=8)
def _zero_shot(clip: ClipModel) -> ZeroShotModel:
    from clipdecoder.scoring.zero_shot import ZeroShotModel

    return ZeroShotModel(clip)


def _load_trained(folder: Folder, record: ModelRecord, device: str) -> TrainedModel:
    from clipdecoder.encoders.model import find_device

    key = folder.url, record.model_id, str(find_device(device))
    with _trained_lock:
        if key not in _trained:
            _trained[key] = _read_trained(folder, record, device)
        return _trained[key]


def _read_trained(folder: Folder, record: ModelRecord, device: str) -> TrainedModel:
    from clipdecoder.encoders.encoder import EncoderPair
    from clipdecoder.scoring.parts import Parts
    from clipdecoder.scoring.trained_model import TrainedModel

    assert record.checkpoint is not None
    parts = Parts.from_bytes(read_weights(folder, record), record.checkpoint)
    encoders = load_encoders(record.checkpoint.base, record.checkpoint.text, device)
    if parts.backbone:
        encoders = EncoderPair(image=encoders.image.with_weights(parts.backbone), text=encoders.text)
    check_encoders(record, encoders)
    calibration = read_calibration(folder, record.model_id)
    check_id(record, calibration)
    return TrainedModel(record, encoders, parts, calibration)


def check_encoders(record: ModelRecord, encoders: EncoderPair) -> None:
    """Refuse encoders that a model was not trained with.

    Raises:
        ModelError: naming both ids.
    """
    assert record.checkpoint is not None
    text = record.checkpoint.text or record.checkpoint.base
    for what, spec, ours, theirs in (
        ("backbone", record.checkpoint.base, record.encoder_id, encoders.image.encoder_id),
        ("text encoder", text, record.text_encoder_id, encoders.text.text_encoder_id),
    ):
        if ours != theirs:
            raise ModelError(
                f"model {record.model_id} was trained with {what} {ours}, and {spec} is now {theirs}: its weights or "
                "its preprocessing have changed; put the old ones back, or train again"
            )
