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
from clipdecoder.encoders.encoded import DeviceEncoded, Encoded, encoded_of, joined
from clipdecoder.encoders.transforms import ImageTransform
from clipdecoder.onednn import use_onednn
from schemas.digests import digest_of
from schemas.errors import ModelError, RunError
from schemas.precision import Precision
from schemas.taxonomy import Taxonomy, VocabularyLabel

DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


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

    `encoder_id` is a content hash of the weights as loaded, wherever they came from, of what `facts` identify, and of
    the precision, where that is a reduced one.
    """

    def __init__(
        self,
        backbone: Backbone,
        transform: ImageTransform,
        facts: EncoderFacts,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        """Move the backbone, which is in evaluation mode, to the device that the transform was made for.

        A reduced precision holds on a GPU. A processor computes in float32 whatever is asked for: it is slower with
        less, and more exact than the id promises.
        """
        weights = weights_digest(backbone.tower.state_dict(prefix="visual."))
        reduced = {} if precision == "float32" else {"precision": precision}
        self.encoder_id = digest_of({**facts.identity, "weights": weights} | reduced)
        self.backbone = backbone.to(device)
        if backbone.convolutional:
            # 0.65 to 0.8 of the time on a processor, and what a GPU's convolutions take.
            self.backbone.to(memory_format=torch.channels_last)
        if device.type == "cpu":
            use_onednn(self.backbone)
        self.transform = transform
        self.facts = facts
        self.device = device
        self.precision = precision
        self._dtype = DTYPES[precision] if device.type == "cuda" else torch.float32
        if device.type == "cuda" and precision == "float32":
            # By default convolutions, a ViT's first one too, round their factors to 10 bits: half-way to bfloat16.
            torch.backends.cudnn.allow_tf32 = False
        self._rows: int | None = None  # at once, after the device's memory was too small for more

    @cached_property
    def _network(self) -> Backbone:
        """The backbone as it runs: `backbone` itself keeps its float32 weights, for ids and for training."""
        return self.backbone if self._dtype == torch.float32 else copy.deepcopy(self.backbone).to(self._dtype)

    @property
    def name(self) -> str:
        """The spec that finds it again; of an encoder with replaced weights, that of its base."""
        return self.facts.name

    @property
    def device_name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

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
            pixels_BHWC: pictures as `transform.read` makes them.
            tokens: whether tokens are wanted; the embeddings are the same either way.

        Raises:
            RunError: the device has no memory for a single picture.
            ModelError: tokens are wanted and the tower has none.
        """
        # A copy where the array is read-only, which PyTorch cannot wrap.
        pixels = torch.from_numpy(np.require(pixels_BHWC, np.uint8, ["C", "W"]))
        encoded = self.device_encode(pixels.to(self.device), tokens=tokens)
        tokens_BTC = None if encoded.tokens_BTC is None else encoded.tokens_BTC.cpu().numpy()
        return Encoded(encoded.embeddings_BD.cpu().numpy(), tokens_BTC)

    def device_encode(self, pixels_BHWC: Tensor, *, tokens: bool) -> DeviceEncoded:
        """Do as `encode` with pixels on the device, and leave the result there; waits for nothing.

        Where the device's memory is too small for so many at once, this batch and those that follow are taken in parts.

        Raises:
            RunError: the device has no memory for a single picture.
            ModelError: tokens are wanted and the tower has none.
        """
        with torch.inference_mode():
            while (encoded := self._encode_if_it_fits(pixels_BHWC, tokens, self._rows)) is None:
                # Not while the error is handled: it keeps all alive that was made until then.
                self._take_fewer(len(pixels_BHWC))
            return encoded

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
        return ImageEncoder(backbone, self.transform, self.facts, self.device, self.precision)

    def takes(self, pixels_BHWC: Tensor) -> bool:
        """Whether the device's memory is large enough for so many pictures at once."""
        with torch.inference_mode():
            return self._encode_if_it_fits(pixels_BHWC, tokens=False, rows=None) is not None

    def _encode_if_it_fits(self, pixels_BHWC: Tensor, tokens: bool, rows: int | None) -> DeviceEncoded | None:
        """Return the features, made of so many pictures at a time or of all; nothing where the memory is too small."""
        parts = torch.split(pixels_BHWC, rows or max(1, len(pixels_BHWC)))
        try:
            return joined([self._encode_part(part, tokens) for part in parts])
        except torch.OutOfMemoryError:
            return None

    def _encode_part(self, pixels_BHWC: Tensor, tokens: bool) -> DeviceEncoded:
        x_BCHW = self.transform.to_device_input(pixels_BHWC).to(self._dtype)
        return encoded_of(self._network(x_BCHW, tokens=tokens))

    def _take_fewer(self, num_images: int) -> None:
        rows = min(self._rows or num_images, num_images)
        if rows == 1:
            raise RunError(
                f"{self.device} has no memory for a single picture of {self.transform.size}; free some, or use "
                "--device cpu"
            )
        self._rows = rows // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


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
