"""Both towers of an open_clip model as encoders, and the ids of what they compute.

Shapes: K labels, D embedding width, M texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn import functional as F

from clipdecoder.encoders.backbone import open_clip_backbone
from clipdecoder.encoders.encoder import EncoderFacts, ImageEncoder, weights_digest
from clipdecoder.encoders.open_clip_models import OpenClipModel
from clipdecoder.encoders.short_texts import encode_texts
from clipdecoder.encoders.text import average_texts, text_problems, tokenizer_digest
from clipdecoder.encoders.transforms import ImageTransform
from clipdecoder.onednn import use_onednn
from schemas.decoding import Decode, decoding_name
from schemas.digests import digest_of
from schemas.errors import TaxonomyError
from schemas.precision import Precision, precision_name
from schemas.taxonomy import Taxonomy, VocabularyLabel


class OpenClipText:
    """The text tower of an open_clip model on one device. Its methods may be called from several threads."""

    def __init__(self, loaded: OpenClipModel, text_encoder_id: str, device: torch.device) -> None:
        self.name = loaded.name
        self.text_encoder_id = text_encoder_id
        self.width: int = loaded.config["embed_dim"]
        self.context_length: int = loaded.tokenizer.context_length
        self.device = device
        self._tokenizer = loaded.tokenizer
        self._network: Any = loaded.network.to(device)
        if device.type == "cpu":
            use_onednn(self._network)

    def encode_vocabulary(self, vocabulary: Sequence[VocabularyLabel]) -> NDArray[np.float32]:
        """Return queries_KD, float32, L2-normalised: each label's texts embedded, normalised, averaged, normalised.

        Texts beyond the context length would be cut: `check_texts` refuses them beforehand.
        """
        if not vocabulary:
            return np.empty((0, self.width), np.float32)
        return average_texts(vocabulary, self._embed_texts)

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse a taxonomy whose texts the text encoder cannot take whole.

        Raises:
            TaxonomyError: with one problem per text of too many tokens, naming line, label, count and limit, and one
                per label that has no text at all.
        """
        problems = list(text_problems(taxonomy, self._tokenizer, self.context_length))
        if problems:
            raise TaxonomyError(problems)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            embeddings_MD = encode_texts(self._network, self._tokenizer(list(texts)).to(self.device))
            return F.normalize(embeddings_MD.float(), dim=-1)


def open_clip_encoders(
    loaded: OpenClipModel, device: torch.device, decode: Decode = "exact", precision: Precision = "float32"
) -> tuple[ImageEncoder, OpenClipText]:
    """Return the two towers on the device: they share the space that the model was trained for."""
    transform = ImageTransform(loaded.preprocess, device, decode)
    visual_identity, text_encoder_id = _identities(loaded, transform)
    facts = EncoderFacts(
        name=precision_name(decoding_name(loaded.name, decode), precision),
        architecture=loaded.architecture,
        embedding_width=loaded.config["embed_dim"],
        joint_text_id=text_encoder_id,
        identity=visual_identity,
    )
    network: Any = loaded.network
    image = ImageEncoder(open_clip_backbone(network.visual), transform, facts, device, precision)
    return image, OpenClipText(loaded, text_encoder_id, device)


def _identities(loaded: OpenClipModel, transform: ImageTransform) -> tuple[dict[str, Any], str]:
    """Return what identifies the visual tower apart from its weights, and `text_encoder_id`.

    Weights are hashed as loaded, in float32, wherever they came from.
    """
    # CLIP keeps its text tower at the top, CustomTextCLIP in `text`: the same weights have the same id in both.
    text = {
        name.removeprefix("text."): value
        for name, value in loaded.network.state_dict().items()
        if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")
    }
    shared = {key: loaded.config.get(key) for key in ("embed_dim", "multimodal_cfg")}
    shared["quick_gelu"] = bool(loaded.config.get("quick_gelu", False))
    vision_cfg, text_cfg = _tower_configs(loaded.config)
    visual_identity = {"config": vision_cfg, "preprocess": transform.describe(), "decode": transform.decode_policy}
    text_identity = {
        "weights": weights_digest(text),
        "config": text_cfg,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
    }
    return shared | visual_identity, digest_of(shared | text_identity)


def _tower_configs(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both towers' configurations with every default filled in, so that leaving one out changes no id."""
    vision_cfg = asdict(CLIPVisionCfg(**config["vision_cfg"]))
    text_cfg = asdict(CLIPTextCfg(**config["text_cfg"]))
    # Where towers or tokenizer came from at first is no part of what they are.
    del vision_cfg["timm_model_pretrained"], text_cfg["hf_model_pretrained"], text_cfg["hf_tokenizer_name"]
    return vision_cfg, text_cfg
