"""Zero-shot mean average precision of the tiny CLIP, apart for labels that captions named and labels they never did.

Shapes: N pictures, B pictures of a batch, K labels, P patches, D embedding width, C H W pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from examples.scenes.model import label_queries, normalise_pixels
from examples.scenes.pictures import Pictures
from examples.scenes.render import LABELS, NEVER_IN_CAPTIONS

NEVER_K: npt.NDArray[np.bool_] = np.array([label.id in NEVER_IN_CAPTIONS for label in LABELS])


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Macro mAP in percent over both groups of labels, each with its chance level (the mean positive rate)."""

    pictures: int
    captioned_map: float
    captioned_chance: float
    never_map: float
    never_chance: float

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures: mAP {self.captioned_map:.1f} on 48 captioned labels"
            f" (chance {self.captioned_chance:.1f}), {self.never_map:.1f} on 16 never-captioned labels"
            f" (chance {self.never_chance:.1f})"
        )


def average_precision(scores_N: npt.NDArray[np.float32], truth_N: npt.NDArray[np.bool_]) -> float:
    """Mean, over the positives, of the precision at each one's rank; NaN without positives."""
    ranked_N = truth_N[np.argsort(-scores_N, kind="stable")]
    if not ranked_N.any():
        return float("nan")
    precision_N = np.cumsum(ranked_N) / np.arange(1, len(ranked_N) + 1)
    return float(precision_N[ranked_N].mean())


def _patch_maximum(model: CLIP, pixels_BCHW: Tensor, queries_KD: Tensor) -> Tensor:
    """Cosine_BK of each label with the patch of the picture that it fits best."""
    visual: Any = model.visual
    _, patches_BPD = visual._pool(visual.transformer(visual._embeds(pixels_BCHW)))
    return (F.normalize(patches_BPD @ visual.proj, dim=-1) @ queries_KD.T).amax(dim=1)


@torch.inference_mode()
def label_logits(
    model: CLIP, pictures: Pictures, *, patches: bool = False, batch: int = 250
) -> npt.NDArray[np.float32]:
    """Zero-shot cosine_NK of every label's text query with every picture, or with its best patch."""
    queries_KD = label_queries(model)
    parts: list[Tensor] = []
    for start in range(0, len(pictures.pixels), batch):
        pixels_BCHW = normalise_pixels(torch.from_numpy(pictures.pixels[start : start + batch]))
        if patches:
            parts.append(_patch_maximum(model, pixels_BCHW, queries_KD))
        else:
            parts.append(model.encode_image(pixels_BCHW, normalize=True) @ queries_KD.T)
    logits: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return logits


def evaluate(model: CLIP, pictures: Pictures, *, patches: bool = False) -> Evaluation:
    """Score every label in every picture zero-shot; labels without positives are left out of the means."""
    logits_NK = label_logits(model.eval(), pictures, patches=patches)
    truth_NK = pictures.truth[:, : len(LABELS)]
    ap_K = np.array([average_precision(logits_NK[:, k], truth_NK[:, k]) for k in range(len(LABELS))])
    rate_K = truth_NK.mean(axis=0)
    return Evaluation(
        pictures=len(truth_NK),
        captioned_map=100 * float(np.nanmean(ap_K[~NEVER_K])),
        captioned_chance=100 * float(rate_K[~NEVER_K].mean()),
        never_map=100 * float(np.nanmean(ap_K[NEVER_K])),
        never_chance=100 * float(rate_K[NEVER_K].mean()),
    )
