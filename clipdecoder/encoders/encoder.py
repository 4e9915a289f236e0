"""The two sides of a model, free to be combined: pictures to embeddings and patch tokens, texts to label queries.

Shapes: B batch, H W pixels, C channels of a picture or numbers in a token, D embedding width, T patch tokens, K labels.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.encoders.backbone import Backbone, Features
from clipdecoder.encoders.transforms import ImageTransform
from schemas.digests import digest_of
from schemas.errors import ModelError, RunError
from schemas.taxonomy import Taxonomy, VocabularyLabel


class Encoded(NamedTuple):
    """A batch of pictures as arrays. A row that could not be computed is NaN throughout, in both."""

    embeddings_BD: NDArray[np.float16]  # L2-normalised in float32, then rounded
    tokens_BTC: NDArray[np.float16] | None  # as the tower gives them, not normalised; None where not asked for


class TokenShape(NamedTuple):
    """How many patch tokens an image has at the model's size, and how wide each is."""

    num_tokens: int
    token_width: int


class TextEncoder(Protocol):
    """Texts to label queries."""

    @property
    def name(self) -> str:
        """What finds it again, e.g. `open_clip:ViT-B-32/openai` or `table:texts.parquet`."""

    @property
    def text_encoder_id(self) -> str:
        """Content hash of all that decides a query."""

    @property
    def width(self) -> int:
        """Numbers in a query."""

    def encode_vocabulary(self, vocabulary: Sequence[VocabularyLabel]) -> NDArray[np.float32]:
        """Return queries_KD, L2-normalised: the mean of each label's texts."""

    def check_texts(self, taxonomy: Taxonomy) -> None:
        """Refuse, with a TaxonomyError, a taxonomy that has texts which cannot be embedded whole."""


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What is known of an image encoder apart from its weights."""

    name: str  # the spec that finds it again from any working directory
    architecture: str  # the library's word for it
    embedding_width: int
    joint_text_id: str | None  # the text encoder whose queries share a space with the embeddings; None: there is none
    identity: Mapping[str, Any]  # all that decides an embedding: configuration, preprocessing, decoding


class ImageEncoder:
    """A backbone with its preprocessing on one device. Its methods may be called from several threads.

    `encoder_id` is a content hash of the weights as loaded, wherever they came from, and of what `facts` identify.
    """

    def __init__(
        self, backbone: Backbone, transform: ImageTransform, facts: EncoderFacts, device: torch.device
    ) -> None:
        """Move the backbone, which is in evaluation mode, to the device that the transform was made for."""
        weights = weights_digest(backbone.tower.state_dict(prefix="visual."))
        self.encoder_id = digest_of({**facts.identity, "weights": weights})
        self.backbone = backbone.to(device)
        self.transform = transform
        self.facts = facts
        self.device = device

    @property
    def name(self) -> str:
        """The spec that finds it again; of an encoder with replaced weights, that of its base."""
        return self.facts.name

    @property
    def embedding_width(self) -> int:
        """Numbers in an embedding."""
        return self.facts.embedding_width

    @property
    def local(self) -> bool:
        """Whether patch tokens lie in the joint space, so that their cosine with a query means something."""
        return self.backbone.local and self.facts.joint_text_id is not None

    @cached_property
    def token_shape(self) -> TokenShape:
        """Number and width of the patch tokens of one image. The first call runs one blank picture.

        Raises:
            ModelError: the tower has no patch tokens, or a single one, which leaves nothing to attend to.
        """
        tokens_BTC = blank_features(self.backbone, self.transform.size, self.device).tokens_BTC
        assert tokens_BTC is not None
        _, num_tokens, token_width = tokens_BTC.shape
        if num_tokens < 2:
            raise ModelError(
                f"{self.name}: {self.facts.architecture} gives {num_tokens} patch token at {self.transform.size}, and "
                "a decoder needs two or more; take a model of a larger size, or one that pools later"
            )
        return TokenShape(num_tokens, token_width)

    @property
    def num_tokens(self) -> int:
        """Patch tokens of one image at the model's size."""
        return self.token_shape.num_tokens

    @property
    def token_width(self) -> int:
        """Numbers in a patch token."""
        return self.token_shape.token_width

    @property
    def token_bytes(self) -> int:
        """Bytes that the patch tokens of one image take as float16."""
        return 2 * self.num_tokens * self.token_width

    def encode(self, pixels_BHWC: NDArray[np.uint8], *, tokens: bool = False) -> Encoded:
        """Return embeddings and, if asked for, patch tokens, from one forward pass.

        A row is NaN throughout whose embedding is not finite or has no direction, or whose tokens leave the range of
        float16.

        Args:
            pixels_BHWC: pictures as `transform.to_pixels` makes them.
            tokens: whether tokens are wanted; the embeddings are the same either way.

        Raises:
            RunError: the device has no memory for so large a batch.
            ModelError: tokens are wanted and the tower has none.
        """
        # A copy where the array is read-only, which PyTorch cannot wrap.
        pixels = torch.from_numpy(np.require(pixels_BHWC, np.uint8, ["C", "W"]))
        with torch.inference_mode():
            x_BCHW = self.transform.to_device_input(pixels.to(self.device))
            features = self._forward(x_BCHW, tokens)
            return _encoded(features)

    def encode_pixels(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return embeddings_BD alone: see `encode`."""
        return self.encode(pixels_BHWC).embeddings_BD

    def with_weights(self, weights: Mapping[str, Tensor]) -> ImageEncoder:
        """Return an encoder of its own, and its own id, in which `weights` replace those of the same names.

        It keeps the facts of the one that it was made from.

        Args:
            weights: names as in `backbone.tower.state_dict()`; values are converted to the types there.

        Raises:
            ModelError: a name that the tower lacks, or another shape.
        """
        backbone = copy.deepcopy(self.backbone)
        known = backbone.tower.state_dict()
        for name, value in weights.items():
            if name not in known:
                raise ModelError(f"{self.name} has no weight {name!r}: these weights belong to another backbone")
            if value.shape != known[name].shape:
                raise ModelError(
                    f"{self.name}: weight {name!r} has shape {tuple(known[name].shape)}, and {tuple(value.shape)} was "
                    "given: these weights belong to another backbone"
                )
        backbone.tower.load_state_dict(dict(weights), strict=False)
        return ImageEncoder(backbone, self.transform, self.facts, self.device)

    def _forward(self, x_BCHW: Tensor, tokens: bool) -> Features:
        try:
            features: Features = self.backbone(x_BCHW, tokens=tokens)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.device} has no memory for a batch of {len(x_BCHW)}; run again with a smaller --batch-size"
            ) from error
        return features


@dataclass(frozen=True, kw_only=True)
class EncoderPair:
    """An image encoder and the text encoder whose queries it is asked with."""

    image: ImageEncoder
    text: TextEncoder

    @property
    def joint(self) -> bool:
        """Whether embeddings and queries lie in one space, so that their cosine means something."""
        return self.image.facts.joint_text_id == self.text.text_encoder_id


def blank_features(backbone: Backbone, size: tuple[int, int], device: torch.device) -> Features:
    """Return what a backbone in evaluation mode makes of one blank picture: what it gives at all, in which shapes.

    Raises:
        ModelError: it has no patch tokens.
    """
    assert not backbone.training, "a blank picture would move the statistics of batch norms"
    with torch.inference_mode():
        features: Features = backbone(torch.zeros(1, 3, *size, device=device))
    return features


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _encoded(features: Features) -> Encoded:
    """Normalise the embeddings, round both to float16, and make NaN of each row that is not sound."""
    raw_BD = features.embeddings_BD.float()
    norm_B1 = raw_BD.norm(dim=-1, keepdim=True)
    sound_B1 = norm_B1.isfinite() & (norm_B1 > 0)
    if features.tokens_BTC is None:
        return Encoded(_array(torch.where(sound_B1, raw_BD / norm_B1, torch.nan)), None)
    tokens_BTC = features.tokens_BTC.half()
    sound_B1 &= tokens_BTC.isfinite().flatten(1).all(dim=1, keepdim=True)
    tokens_BTC[~sound_B1[:, 0]] = torch.nan
    return Encoded(_array(torch.where(sound_B1, raw_BD / norm_B1, torch.nan)), _array(tokens_BTC))


def _array(values: Tensor) -> NDArray[np.float16]:
    return np.asarray(values.half().contiguous().cpu().numpy())
