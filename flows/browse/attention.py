"""The picture of where a label looked: what the model saw, dark where it drew little from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flows.browse.catalogs import Catalog
from flows.browse.jobs import Tell
from flows.thumbnails import encode_small
from schemas.config import MAX_PIXELS
from schemas.errors import ConfigError, ModelError
from storage.files import Folder
from storage.labels import current_taxonomies
from storage.models import read_model
from storage.runs import read_runs

if TYPE_CHECKING:
    from schemas.taxonomy import VocabularyLabel

SIDE, _QUALITY = 560, 80
_DARK = 0.18  # what is left of the light where nothing is drawn from
_GLOW = np.array([255, 176, 0])  # over where most is


def draw_look(folder: Folder, catalog: Catalog, dataset: str, label_id: str, data: bytes, tell: Tell) -> bytes:
    """Return where the shown model's decoder looks on a picture for a label, as WebP. Loads the model.

    Raises:
        ModelError: the model has no decoder, or is not there any more.
        SampleError: the picture cannot be decoded.
    """
    record = read_model(folder, catalog.shown["model_id"])
    if record.checkpoint is None or "decoder" not in record.checkpoint.branches:
        raise ModelError(f"model {record.model_id} ({record.name}) has no decoder, so no label looks anywhere")
    tell(f"loading the model {record.model_id}")
    from clipdecoder.scoring.looks import look_for
    from clipdecoder.scoring.trained_model import TrainedModel
    from flows.models import load_recorded

    model = load_recorded(folder, record, "auto")
    assert isinstance(model, TrainedModel), "its record has a checkpoint"
    tell("looking")
    look = look_for(model, data, _vocabulary_label(folder, dataset, label_id), max_pixels=MAX_PIXELS)
    return encode_small(_blend(look.pixels_HWC, look.attention_PR), SIDE, _QUALITY)


def has_decoder(folder: Folder, model_id: str) -> bool:
    """Whether a model of the store can say where it looked."""
    checkpoint = read_model(folder, model_id).checkpoint if model_id else None
    return checkpoint is not None and "decoder" in checkpoint.branches


def _vocabulary_label(folder: Folder, dataset: str, label_id: str) -> VocabularyLabel:
    for taxonomy in current_taxonomies(folder, read_runs(folder)).get(dataset, ()):
        if label_id in {label.id for label in taxonomy.active_labels()}:
            return taxonomy.vocabulary([label_id])[0]
    raise ConfigError(f"unknown label {label_id!r} of dataset {dataset!r}")


def _blend(pixels_HWC: NDArray[np.uint8], attention_PR: NDArray[np.float32]) -> Image.Image:
    """Return the picture, enlarged, in the light of the map; the patch that counts most is the brightest."""
    height, width = pixels_HWC.shape[:2]
    scale = SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    heat = Image.fromarray(attention_PR / attention_PR.max()).resize(size, Image.Resampling.BICUBIC)
    heat_HW1 = np.asarray(heat).clip(0, 1)[..., None]
    picture_HWC = np.asarray(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BICUBIC), np.float32)
    lit_HWC = picture_HWC * (_DARK + (1 - _DARK) * heat_HW1) + _GLOW * 0.25 * heat_HW1**2
    return Image.fromarray(lit_HWC.clip(0, 255).astype(np.uint8))
