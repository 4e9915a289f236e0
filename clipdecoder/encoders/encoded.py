"""What an image encoder gives: embeddings and patch tokens as they are stored, and NaN of what could not be computed.

Shapes: B batch, D embedding width, T patch tokens, C numbers in a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.encoders.backbone import Features


class Encoded(NamedTuple):
    """A batch of pictures as arrays. A row that could not be computed is NaN throughout, in both."""

    embeddings_BD: NDArray[np.float16]  # L2-normalised in float32, then rounded
    tokens_BTC: NDArray[np.float16] | None  # as the tower gives them, not normalised; None where not asked for


class DeviceEncoded(NamedTuple):
    """The same on the encoder's device."""

    embeddings_BD: Tensor
    tokens_BTC: Tensor | None


def encoded_of(features: Features) -> DeviceEncoded:
    """Normalise the embeddings in float32, round both to float16, and make NaN of each row that is not sound."""
    raw_BD = features.embeddings_BD.float()
    norm_B1 = raw_BD.norm(dim=-1, keepdim=True)
    sound_B1 = norm_B1.isfinite() & (norm_B1 > 0)
    tokens_BTC = features.tokens_BTC
    if tokens_BTC is not None:
        tokens_BTC = tokens_BTC.to(torch.float16, memory_format=torch.contiguous_format)
        sound_B1 &= tokens_BTC.isfinite().flatten(1).all(dim=1, keepdim=True)
        tokens_BTC = tokens_BTC.masked_fill(~sound_B1[:, :, None], torch.nan)
    return DeviceEncoded((raw_BD / norm_B1).masked_fill(~sound_B1, torch.nan).half(), tokens_BTC)


def joined(parts: Sequence[DeviceEncoded]) -> DeviceEncoded:
    """Return the parts of a batch, at least one, as one."""
    if len(parts) == 1:
        return parts[0]
    embeddings, tokens = zip(*parts, strict=True)
    return DeviceEncoded(torch.cat(embeddings), None if tokens[0] is None else torch.cat(tokens))
