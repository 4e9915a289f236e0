"""A loaded scorer: images and texts to L2-normalised embeddings, and the ids of what computes them.

Shapes: B batch, H W pixels, C channels, D embedding width, K labels, M texts.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn import functional as F

from clipdecoder.images import DECODE_POLICY
from clipdecoder.open_clip_models import OpenClipModel, load_open_clip
from clipdecoder.text import average_texts, text_problems, tokenizer_digest
from clipdecoder.transforms import ImageTransform
from schemas.digests import digest_of
from schemas.errors import ModelError, RunError, TaxonomyError
from schemas.manifest import ModelRecord
from schemas.taxonomy import Taxonomy, VocabularyLabel

# The zero-shot prior. A cosine has no natural probability; public CLIP models put matching pairs above about 0.25 and
# others below, so that is where the prior says one half. It ranks as the cosine does, and is no probability.
PRIOR_CENTRE = 0.25
MAX_SLOPE = 100.0  # CLIP's own bound on exp(logit_scale)

_models: dict[tuple[str, torch.device], ClipModel] = {}
_models_lock = threading.Lock()


def load_model(spec: str, *, device: str = "auto") -> ClipModel:
    """Return the model that `spec` names, loaded once per process and device, however many threads ask at once.

    Args:
        spec: `bundled:NAME`, `open_clip:NAME/TAG`, `open_clip:NAME/FILE.safetensors` or `open_clip:FOLDER`.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.

    Raises:
        ModelError: the model or the device cannot be had.
    """
    key = spec, find_device(device)
    with _models_lock:
        if key not in _models:
            model = ClipModel(load_open_clip(spec), key[1])
            # Known by the name it was asked with, and by the one that its record gives it.
            _models[key] = _models[model.record.name, key[1]] = model
        return _models[key]


def find_device(device: str) -> torch.device:
    """Return the device that a word names.

    Raises:
        ModelError: it is no device, or not on this machine.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
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
    return torch.device("cuda", int(index or 0))


class ClipModel:
    """One open_clip model on one device. Its methods may be called from several threads.

    `record` says what it is; `transform` makes its pixels from pictures.
    """

    def __init__(self, loaded: OpenClipModel, device: torch.device) -> None:
        self.record = _record_of(loaded)
        self.device = device
        self.transform = ImageTransform(loaded.preprocess, device)
        self._tokenizer = loaded.tokenizer
        self._network: Any = loaded.network.to(device)

    def encode_pixels(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return embeddings_BD, float16: L2-normalised in float32, then rounded.

        A row whose embedding is not finite, or has no direction, comes back as NaN throughout.

        Args:
            pixels_BHWC: pictures as `transform.to_pixels` makes them.

        Raises:
            RunError: the device has no memory for so large a batch.
        """
        # A copy where the array is read-only, which PyTorch cannot wrap.
        pixels = torch.from_numpy(np.require(pixels_BHWC, np.uint8, ["C", "W"]))
        with torch.inference_mode():
            x_BCHW = self.transform.to_device_input(pixels.to(self.device))
            raw_BD = self._encode(x_BCHW).float()
            norm_B1 = raw_BD.norm(dim=-1, keepdim=True)
            sound_B1 = norm_B1.isfinite() & (norm_B1 > 0)
            embeddings_BD = torch.where(sound_B1, raw_BD / norm_B1, torch.nan)
            return np.asarray(embeddings_BD.half().cpu().numpy())

    def encode_vocabulary(self, vocabulary: Sequence[VocabularyLabel]) -> NDArray[np.float32]:
        """Return queries_KD, float32, L2-normalised: each label's texts embedded, normalised, averaged, normalised.

        Texts beyond the context length would be cut: `check_texts` refuses them beforehand.
        """
        if not vocabulary:
            return np.empty((0, self.record.embedding_width), np.float32)
        return average_texts(vocabulary, self._embed_texts)

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy whose texts the text encoder cannot take whole.

        Raises:
            TaxonomyError: with one problem per text of too many tokens, naming line, label, count and limit, and one
                per label that has no text at all.
        """
        problems = list(text_problems(taxonomy, self._tokenizer, self.record.context_length))
        if problems:
            raise TaxonomyError(problems)

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        try:
            raw_BD: Tensor = self._network.encode_image(x_BCHW)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.device} has no memory for a batch of {len(x_BCHW)}; run again with a smaller --batch-size"
            ) from error
        return raw_BD

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            embeddings_MD: Tensor = self._network.encode_text(self._tokenizer(list(texts)).to(self.device))
            return F.normalize(embeddings_MD.float(), dim=-1)


def _record_of(loaded: OpenClipModel) -> ModelRecord:
    slope, intercept = _prior_of(loaded.network)
    transform = ImageTransform(loaded.preprocess, torch.device("cpu"))
    encoder_id, text_encoder_id = _encoder_ids(loaded, transform)
    identity = {"encoder": encoder_id, "text_encoder": text_encoder_id, "kind": "clip"}
    return ModelRecord(
        model_id=digest_of(identity | {"slope": slope, "intercept": intercept}),
        encoder_id=encoder_id,
        text_encoder_id=text_encoder_id,
        name=loaded.name,
        architecture=loaded.architecture,
        image_size=transform.size,
        embedding_width=loaded.config["embed_dim"],
        context_length=loaded.tokenizer.context_length,
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


def _encoder_ids(loaded: OpenClipModel, transform: ImageTransform) -> tuple[str, str]:
    """Return `encoder_id` and `text_encoder_id`: hashes of the float32 state as loaded, wherever it came from."""
    state = loaded.network.state_dict()
    visual = {name: value for name, value in state.items() if name.startswith("visual.")}
    # CLIP keeps its text tower at the top, CustomTextCLIP in `text`: the same weights have the same id in both.
    text = {
        name.removeprefix("text."): value
        for name, value in state.items()
        if name not in visual and name not in ("logit_scale", "logit_bias")
    }
    shared = {key: loaded.config.get(key) for key in ("embed_dim", "multimodal_cfg")}
    shared["quick_gelu"] = bool(loaded.config.get("quick_gelu", False))
    vision_cfg, text_cfg = _tower_configs(loaded.config)
    visual_identity = {"weights": _weights_digest(visual), "config": vision_cfg, "preprocess": transform.describe()}
    text_identity = {
        "weights": _weights_digest(text),
        "config": text_cfg,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
    }
    return digest_of(shared | visual_identity | {"decode": DECODE_POLICY}), digest_of(shared | text_identity)


def _tower_configs(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both towers' configurations with every default filled in, so that leaving one out changes no id."""
    vision_cfg = asdict(CLIPVisionCfg(**config["vision_cfg"]))
    text_cfg = asdict(CLIPTextCfg(**config["text_cfg"]))
    # Where towers or tokenizer came from at first is no part of what they are.
    del vision_cfg["timm_model_pretrained"], text_cfg["hf_model_pretrained"], text_cfg["hf_tokenizer_name"]
    return vision_cfg, text_cfg


def _weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
