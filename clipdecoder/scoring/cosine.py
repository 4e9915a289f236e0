"""Zero-shot scoring: the cosine of image and text, with or without the best patch's.

Shapes: R images, K labels, D embedding width, T patch tokens, M rows of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipdecoder.scoring.label_maps import LabelMaps
from clipdecoder.scoring.scores import array_logits, tensor_of

MEGABYTES_OF_PATCHES = 64
CPU = torch.device("cpu")
# Matrix products on a processor treat what is beyond a multiple of some number otherwise, and round it otherwise. With
# images and labels filled up to a multiple of this one, an image's cosines do not depend on its company, to the bit: so
# scores of fresh and of stored features are the same numbers (8,000 products of many shapes compared). Batches of
# pictures have `tagger.ROWS_AT_ONCE`.
TILE = 16


class QueryColumns(NamedTuple):
    """Text queries as the columns of a matrix on a device."""

    filled_DK: Tensor  # zeros to the right, up to a multiple of `TILE`
    num_labels: int

    @classmethod
    def of(cls, queries_KD: NDArray[np.float32], device: torch.device) -> QueryColumns:
        """Return queries as columns."""
        return cls(tensor_of(filled(queries_KD).T, device), len(queries_KD))


def filled(queries_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return queries with rows of zeros below, up to a multiple of `TILE`."""
    return np.pad(queries_KD, ((0, -len(queries_KD) % TILE), (0, 0)))


@dataclass(frozen=True, kw_only=True)
class CosineScorer:
    """The scorers `clip` and `clip+local` of a model whose images and texts share one space.

    With `local` the logit is the mean of two cosines: the whole picture's, and that of the patch which fits best. A
    small object that a pooled embedding drowns stands out there.
    """

    queries_KD: NDArray[np.float32]  # L2-normalised
    maps: LabelMaps
    local: bool = False
    device: torch.device = CPU

    @property
    def needs_tokens(self) -> bool:
        """Whether patch tokens are looked at."""
        return self.local

    @property
    def cells_per_image(self) -> int:
        """Numbers held per image while scoring."""
        return len(self.queries_KD)

    @cached_property
    def _columns(self) -> QueryColumns:
        return QueryColumns.of(self.queries_KD, self.device)

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTD: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK, from -1 to 1."""
        return array_logits(self, embeddings_RD, tokens_RTD)

    def device_logits(self, embeddings_RD: Tensor, tokens_RTD: Tensor | None) -> Tensor:
        """Return logits_RK, from -1 to 1, of features on the device."""
        cosine_RK = cosines(embeddings_RD, self._columns)
        if not self.local:
            return cosine_RK
        assert tokens_RTD is not None, "the best patch is looked for in patch tokens"
        return (cosine_RK + best_cosines(tokens_RTD, self._columns)) / 2


def cosines(embeddings_RD: Tensor, columns: QueryColumns) -> Tensor:
    """Return cosine_RK, float32, of L2-normalised rows of any float type."""
    # By torch, whose threads sleep while they wait: numpy's spin, and beside another busy process a backfill took
    # twice as long for it.
    num_rows, width = embeddings_RD.shape
    filled_RD = columns.filled_DK.new_empty(num_rows + -num_rows % TILE, width)
    filled_RD[:num_rows] = embeddings_RD
    filled_RD[num_rows:] = 0
    return (filled_RD @ columns.filled_DK)[:num_rows, : columns.num_labels]


def best_cosines(tokens_RTD: Tensor, columns: QueryColumns) -> Tensor:
    """Return local_RK: the greatest cosine of any patch of an image with a label's query.

    Images are taken a few at a time, so that memory stays near `MEGABYTES_OF_PATCHES` whatever K is.
    """
    num_tokens = tokens_RTD.shape[1]
    images = max(1, MEGABYTES_OF_PATCHES * 2**18 // max(1, num_tokens * columns.num_labels))
    best = []
    for x_RTD in torch.split(tokens_RTD, images):
        patches_MD = F.normalize(x_RTD.float(), dim=-1).flatten(0, 1)
        best.append(cosines(patches_MD, columns).reshape(len(x_RTD), num_tokens, columns.num_labels).amax(dim=1))
    return torch.cat(best)


def best_patch(
    tokens_RTD: NDArray[np.float16], queries_KD: NDArray[np.float32], device: torch.device
) -> NDArray[np.float32]:
    """Return local_RK of arrays: see `best_cosines`."""
    with torch.inference_mode():
        columns = QueryColumns.of(queries_KD, device)
        return np.asarray(best_cosines(tensor_of(tokens_RTD, device), columns).cpu().numpy())
