"""Loading models by name: both towers of an open_clip model with its zero-shot prior, or each side by itself.

Shapes: B batch, H W pixels, C channels, D embedding width, K labels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.devices import multiplies_bfloat16
from clipdecoder.encoders.encoded import Encoded
from clipdecoder.encoders.encoder import EncoderPair, ImageEncoder, TextEncoder
from clipdecoder.encoders.open_clip_encoders import OpenClipText, open_clip_encoders
from clipdecoder.encoders.open_clip_models import SCHEMES, OpenClipModel, load_open_clip
from clipdecoder.encoders.timm_models import load_timm, timm_encoder
from clipdecoder.encoders.timm_specs import is_timm
from schemas.decoding import Decode, split_name
from schemas.digests import digest_of
from schemas.errors import ModelError
from schemas.manifest import ModelRecord
from schemas.precision import Precision, split_precision
from schemas.taxonomy import Taxonomy, VocabularyLabel

# The zero-shot prior. A cosine has no natural probability; public CLIP models put matching pairs above about 0.25 and
# others below, so that is where the prior says one half. It ranks as the cosine does, and is no probability.
PRIOR_CENTRE = 0.25
MAX_SLOPE = 100.0  # CLIP's own bound on exp(logit_scale)

_models: dict[tuple[str, torch.device], ClipModel] = {}
_timm_encoders: dict[tuple[str, torch.device], ImageEncoder] = {}
_models_lock = threading.Lock()


def load_model(spec: str, *, device: str = "auto") -> ClipModel:
    """Return the model that `spec` names, loaded once per process and device, however many threads ask at once.

    Args:
        spec: `bundled:NAME`, `open_clip:NAME/TAG`, `open_clip:NAME/FILE.safetensors` or `open_clip:FOLDER`,
            with a suffix such as `+fast` where files are not to be decoded exactly (see `schemas.decoding`), or `+bf16`
            where a GPU is to compute in less than float32 (see `schemas.precision`).
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.

    Raises:
        ModelError: the model or the device cannot be had, or the model has no text tower.
    """
    if is_timm(spec):
        raise ModelError(
            f"{spec!r} knows pictures and no texts, so it scores nothing by itself; train a decoder on it, or name an "
            f"open_clip model: {', '.join(SCHEMES)}"
        )
    key = spec, find_device(device)
    with _models_lock:
        if key not in _models:
            bare, precision = split_precision(spec)
            bare, decode = split_name(bare)
            model = ClipModel(load_open_clip(bare), key[1], decode, precision)
            # Known by the name it was asked with, and by the one that its record gives it.
            _models[key] = _models[model.record.name, key[1]] = model
        return _models[key]


def load_image_encoder(spec: str, *, device: str = "auto") -> ImageEncoder:
    """Return the image side of what `spec` names, loaded once per process and device.

    Args:
        spec: as `load_model` takes it, or a timm model (see `timm_specs.TIMM_SCHEMES`).
        device: as in `load_model`.

    Raises:
        ModelError: the model or the device cannot be had, or a timm model gives no patch tokens.
    """
    if not is_timm(spec):
        return load_model(spec, device=device).image
    key = spec, find_device(device)
    with _models_lock:
        if key not in _timm_encoders:
            bare, precision = split_precision(spec)
            bare, decode = split_name(bare)
            encoder = timm_encoder(load_timm(bare), key[1], decode, precision)
            _timm_encoders[key] = _timm_encoders[encoder.name, key[1]] = encoder
        return _timm_encoders[key]


def load_text_encoder(spec: str, *, device: str = "auto") -> OpenClipText:
    """Return the text tower of the open_clip model that `spec` names. A table is a `TableText` instead.

    Raises:
        ModelError: the model or the device cannot be had.
    """
    return load_model(spec, device=device).text


def load_encoders(image: str, text: str | TextEncoder | None = None, *, device: str = "auto") -> EncoderPair:
    """Return an image encoder and the text encoder to ask it with.

    Args:
        image: as in `load_image_encoder`.
        text: spec of an open_clip model, a text encoder such as a `TableText`, or None for the image model's own.
        device: as in `load_model`.

    Raises:
        ModelError: one of them cannot be had, or a timm model has no text encoder beside it.
    """
    if text is None and is_timm(image):
        raise ModelError(
            f"{image!r} has no text tower: name a text encoder beside it, an open_clip model or table:FILE of "
            "precomputed embeddings"
        )
    encoder = load_text_encoder(text or image, device=device) if isinstance(text, str | None) else text
    return EncoderPair(image=load_image_encoder(image, device=device), text=encoder)


def list_devices(device: str) -> tuple[str, ...]:
    """Return the devices that work is shared out to: those of a list `cuda:0,cuda:1`; of `auto` and `cuda` all GPUs."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return tuple(device.split(","))


def find_device(device: str) -> torch.device:
    """Return the device that a word names, the first one of a list.

    Of several GPUs `auto` and `cuda` mean PyTorch's current one: the first, or in a process of `torchrun` its own.

    Raises:
        ModelError: it is no device, or not on this machine.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = device.partition(",")[0]
    if device == "auto":
        device = "cuda" if num_gpus else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or not (index or "0").isdecimal():
        raise ModelError(f"unknown device {device!r}; known: auto, cpu, cuda, cuda:INDEX")
    if int(index or 0) >= num_gpus:
        raise ModelError(
            f"device {device!r} asked for, and PyTorch finds {num_gpus} GPUs here; use --device cpu or auto"
        )
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


def best_precision(device: torch.device) -> Precision:
    """Return the precision that is fast on a device: bfloat16 where it has units for it, float16 on older GPUs."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if multiplies_bfloat16(device) else "float16"


class ClipModel:
    """One open_clip model on one device: both its towers, and the zero-shot prior. Good for several threads.

    `record` says what it is; `image` and `text` are its towers, which may also be used apart from each other.
    """

    def __init__(
        self,
        loaded: OpenClipModel,
        device: torch.device,
        decode: Decode = "exact",
        precision: Precision = "float32",
    ) -> None:
        self.image, self.text = open_clip_encoders(loaded, device, decode, precision)
        self.device = device
        self.transform = self.image.transform
        self.record = self._make_record(loaded)

    def encode(self, pixels_BHWC: NDArray[np.uint8], *, tokens: bool = False) -> Encoded:
        """Return embeddings and, if asked for, patch tokens: see `ImageEncoder.encode`."""
        return self.image.encode(pixels_BHWC, tokens=tokens)

    def encode_pixels(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return embeddings_BD, float16, L2-normalised: see `ImageEncoder.encode`."""
        return self.image.encode_pixels(pixels_BHWC)

    def encode_vocabulary(self, vocabulary: Sequence[VocabularyLabel]) -> NDArray[np.float32]:
        """Return queries_KD, float32, L2-normalised: see `OpenClipText.encode_vocabulary`."""
        return self.text.encode_vocabulary(vocabulary)

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy whose texts the text encoder cannot take whole: see `OpenClipText.check_texts`."""
        self.text.check_texts(taxonomy)

    def _make_record(self, loaded: OpenClipModel) -> ModelRecord:
        slope, intercept = _prior_of(loaded.network)
        identity = {"encoder": self.image.encoder_id, "text_encoder": self.text.text_encoder_id, "kind": "clip"}
        return ModelRecord(
            model_id=digest_of(identity | {"slope": slope, "intercept": intercept}),
            encoder_id=self.image.encoder_id,
            text_encoder_id=self.text.text_encoder_id,
            name=self.image.name,
            architecture=loaded.architecture,
            image_size=self.transform.size,
            embedding_width=loaded.config["embed_dim"],
            context_length=self.text.context_length,
            slope=slope,
            intercept=intercept,
        )


def _prior_of(network: Any) -> tuple[float, float]:
    """Return slope and intercept of the zero-shot prior, rounded so that they are the same on every machine.

    A model trained with a sigmoid loss has a bias, and both its numbers are taken as they are. Others were trained
    with a softmax, which fixes the slope only; it is bounded as in CLIP and centred on `PRIOR_CENTRE`.
    """
    slope = float(network.logit_scale.double().exp())
    if network.logit_bias is not None:
        intercept = float(network.logit_bias)
    else:
        slope = min(slope, MAX_SLOPE)
        intercept = -slope * PRIOR_CENTRE
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ModelError(
            f"the model's logit scale or bias is not finite ({slope}, {intercept}): are its weights whole?"
        )
    return round(slope, 6), round(intercept, 6)
