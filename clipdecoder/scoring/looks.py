"""Where a trained model looked on one picture for one label, as a map over what it saw of the picture.

Shapes: H W pixels of the model's input, C channels, P R rows and columns of patches, T patch tokens, K labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.heads.attention import attention_of
from clipdecoder.scoring.trained_model import TrainedModel
from schemas.errors import ModelError
from schemas.taxonomy import VocabularyLabel


@dataclass(frozen=True, kw_only=True)
class Look:
    """A picture as the model takes it, and where on it a label looked."""

    pixels_HWC: NDArray[np.uint8]
    attention_PR: NDArray[np.float32]  # sums to 1


def look_for(model: TrainedModel, data: bytes, label: VocabularyLabel, *, max_pixels: int) -> Look:
    """Return where the model's decoder looks on a picture for a label.

    Raises:
        ModelError: the model has no decoder, or its patches form no grid.
        SampleError: the picture cannot be decoded.
    """
    head = model.branches.head
    if head is None:
        raise ModelError(f"model {model.record.model_id} has no decoder, so no label looks anywhere; train one")
    image = model.encoders.image
    picture = image.transform.read(data, max_pixels=max_pixels)
    tokens_1TC = image.encode(picture.pixels_HWC[None], tokens=True).tokens_BTC
    assert tokens_1TC is not None, "tokens were asked for"
    queries = model.queries([label])
    attention_1T = attention_of(
        head,
        torch.from_numpy(tokens_1TC[0]).to(image.device).float(),
        torch.from_numpy(queries.queries_KQ).to(image.device),
        torch.from_numpy(queries.seen_K),
    )
    rows, columns = grid_of(attention_1T.shape[1], image.transform.size)
    return Look(pixels_HWC=picture.pixels_HWC, attention_PR=attention_1T.cpu().numpy()[0].reshape(rows, columns))


def grid_of(num_tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the patches of a picture of this height and width.

    Raises:
        ModelError: so many patches form no grid of the picture's proportions.
    """
    height, width = size
    rows = max(1, round(math.sqrt(num_tokens * height / width)))
    if num_tokens % rows:
        raise ModelError(f"{num_tokens} patches form no grid on a picture of {width}x{height}")
    return rows, num_tokens // rows
