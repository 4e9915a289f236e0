"""What training reads: stored patch tokens where the backbone is frozen, pixels where it is trained too.

Shapes: N images, D embedding width, T patch tokens, C token width, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.training.model import PixelTokens, TrainingModel, unfreeze
from schemas.training import TrainConfig

IMAGES_PER_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class FrozenInputs:
    """Images as a backbone that stays as it is sees them."""

    embeddings_ND: NDArray[np.float16]  # L2-normalised
    tokens_NTC: NDArray[np.float16]  # a memory map will do

    @property
    def arrays(self) -> NDArray[Any]:
        """What a step of training reads rows of."""
        return self.tokens_NTC

    def frozen(self, weights: Mapping[str, Tensor] | None = None) -> FrozenInputs:
        """Return the images as the trained backbone sees them: as before."""
        assert not weights
        return self

    def tokens_of(self, config: TrainConfig) -> nn.Module | None:
        """Return nothing: tokens need no module."""
        return None

    def trained_weights(self, model: TrainingModel) -> dict[str, Tensor]:
        """Return no weights: none was trained."""
        return {}

    def validation_tokens(self, model: TrainingModel, rows_V: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the tokens of some images."""
        return np.asarray(self.tokens_NTC[rows_V])


@dataclass(frozen=True, kw_only=True)
class PixelInputs:
    """Images at the model's size, and the backbone that is to be trained."""

    pixels_NHWC: NDArray[np.uint8]  # a memory map will do
    encoder: ImageEncoder
    scratch: Path  # where tokens of the trained backbone are kept meanwhile

    @property
    def arrays(self) -> NDArray[Any]:
        """What a step of training reads rows of."""
        return self.pixels_NHWC

    def frozen(self, weights: Mapping[str, Tensor] | None = None) -> FrozenInputs:
        """Return the images as the backbone sees them with these weights in place of its own."""
        return self._encode(self.encoder.with_weights(weights)) if weights else self._as_it_came

    @cached_property
    def _as_it_came(self) -> FrozenInputs:
        # Asked for again and again, and a pass over all images each time.
        return self._encode(self.encoder)

    def _encode(self, encoder: ImageEncoder) -> FrozenInputs:
        num_images = len(self.pixels_NHWC)
        shape = num_images, encoder.num_tokens, encoder.token_width
        tokens_NTC = np.memmap(self.scratch / f"tokens-{encoder.encoder_id}", np.float16, "w+", shape=shape)
        embeddings_ND = np.empty((num_images, encoder.embedding_width), np.float16)
        for start in range(0, num_images, IMAGES_PER_BATCH):
            rows = slice(start, start + IMAGES_PER_BATCH)
            encoded = encoder.encode(self.pixels_NHWC[rows], tokens=True)
            embeddings_ND[rows], tokens_NTC[rows] = encoded.embeddings_BD, encoded.tokens_BTC
        return FrozenInputs(embeddings_ND=embeddings_ND, tokens_NTC=tokens_NTC)

    def tokens_of(self, config: TrainConfig) -> nn.Module | None:
        """Return a copy of the backbone with the blocks free that the recipe trains.

        Raises:
            ConfigError: it has fewer blocks.
        """
        backbone = copy.deepcopy(self.encoder.backbone)
        unfreeze(backbone, config.finetune)
        return PixelTokens(backbone, self.encoder.transform.to_device_input)

    def trained_weights(self, model: TrainingModel) -> dict[str, Tensor]:
        """Return the weights of the backbone that were trained, by their names in its tower."""
        assert isinstance(model.tokens_of, PixelTokens)
        tower = model.tokens_of.backbone.tower
        return {name: value.detach().cpu() for name, value in tower.named_parameters() if value.requires_grad}

    def validation_tokens(self, model: TrainingModel, rows_V: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the tokens of some images as the backbone under training sees them now."""
        batches = [rows_V[start : start + IMAGES_PER_BATCH] for start in range(0, len(rows_V), IMAGES_PER_BATCH)]
        device = self.encoder.device
        tokens = [model.tokens(torch.from_numpy(self.pixels_NHWC[rows]).to(device)).half().cpu() for rows in batches]
        return np.asarray(torch.cat(tokens).numpy())
