"""Zero-shot scoring: the cosine of image and text, with or without the best patch's.

Shapes: R images, K labels, D embedding width, T patch tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipdecoder.scoring.scores import LabelMaps

MEGABYTES_OF_PATCHES = 64


@dataclass(frozen=True, kw_only=True)
class CosineScorer:
    """The scorers `clip` and `clip+local` of a model whose images and texts share one space.

    With `local` the logit is the mean of two cosines: the whole picture's, and that of the patch which fits best. A
    small object that a pooled embedding drowns stands out there.
    """

    queries_KD: NDArray[np.float32]  # L2-normalised
    maps: LabelMaps
    local: bool = False
    device: torch.device | None = None  # where patches are looked at; None: the CPU

    @property
    def needs_tokens(self) -> bool:
        """Whether patch tokens are looked at."""
        return self.local

    @property
    def cells_per_image(self) -> int:
        """Numbers held per image while scoring."""
        return len(self.queries_KD)

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTD: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK, from -1 to 1."""
        # By torch, whose threads sleep while they wait: numpy's spin, and beside another busy process a backfill took
        # twice as long for it.
        embeddings = torch.from_numpy(embeddings_RD.astype(np.float32))
        cosine_RK = (embeddings @ torch.from_numpy(self.queries_KD).T).numpy()
        if not self.local:
            return np.asarray(cosine_RK)
        assert tokens_RTD is not None, "the best patch is looked for in patch tokens"
        best_RK = best_patch(tokens_RTD, self.queries_KD, self.device)
        return np.asarray((cosine_RK + best_RK) / 2, np.float32)


def best_patch(
    tokens_RTD: NDArray[np.float16], queries_KD: NDArray[np.float32], device: torch.device | None
) -> NDArray[np.float32]:
    """Return local_RK: the greatest cosine of any patch of an image with a label's query.

    Images are taken a few at a time, so that memory stays near `MEGABYTES_OF_PATCHES` whatever K is.
    """
    queries_DK = torch.from_numpy(np.ascontiguousarray(queries_KD.T)).to(device)
    num_images, num_tokens, _ = tokens_RTD.shape
    rows = max(1, MEGABYTES_OF_PATCHES * 2**18 // max(1, num_tokens * len(queries_KD)))
    best: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, num_images, rows):
            x_BTD = torch.from_numpy(np.array(tokens_RTD[start : start + rows], np.float32)).to(device)
            best.append((F.normalize(x_BTD, dim=-1) @ queries_DK).amax(dim=1).cpu())
    if not best:
        return np.empty((0, len(queries_KD)), np.float32)
    return np.asarray(torch.cat(best).numpy())
