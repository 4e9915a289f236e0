"""One training step's pictures and captions, with the answer to every pair of them and whether it counts.

Shapes: B pictures, N captions, P patches, H W pixels, C channels, M concepts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from examples.scenes.captions import ALLOWED_CONCEPTS, Caption, batch_captions, caption_truth, touched_concepts
from examples.scenes.model import normalise_pixels
from examples.scenes.pictures import CONCEPT_INDEX, GRID, Pictures, patch_shares

NEGATIVE_SHARE, POSITIVE_SHARE = 0.08, 0.3  # of a patch that a concept covers

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Model input and truth of one step; the first captions, one per column of `regions`, name one concept each.

    pixels_BCHW: normalised. truth_BN: is the caption true of the picture. regions_BPN: does the caption's concept cover
    the patch. The masks say which of these answers count.
    """

    pixels: Tensor
    captions: list[Caption]
    truth: Tensor
    mask: Tensor
    regions: Tensor
    region_mask: Tensor


def _flipped(x_BHW_: Tensor, flips_2B: Tensor) -> Tensor:
    """Pictures, or grids of patches, upside down or mirrored where flips_2B says so: every shape keeps its name."""
    for dim, flip_B in zip((1, 2), flips_2B, strict=True):
        x_BHW_ = torch.where(flip_B[:, None, None, None], x_BHW_.flip(dim), x_BHW_)
    return x_BHW_


def _region_truth(shares_BPM: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Regions_BPN and their mask, for the captions that name one concept each.

    A patch that a concept covers only a little is neither a positive nor a negative of it.
    """
    truth_BPM = shares_BPM > POSITIVE_SHARE
    mask_BPM = truth_BPM | ((shares_BPM < NEGATIVE_SHARE) & ~touched_concepts(shares_BPM > NEGATIVE_SHARE))
    columns = [CONCEPT_INDEX[concept] for concept in ALLOWED_CONCEPTS]
    return torch.from_numpy(truth_BPM[..., columns]), torch.from_numpy(mask_BPM[..., columns])


def make_batch(pictures: Pictures, indices: Indices, pairs: int, rng: np.random.Generator) -> Batch:
    """These pictures, flipped at random, with freshly drawn captions."""
    truth_BM = pictures.truth[indices]
    captions = batch_captions(truth_BM, pairs, rng)
    truth_BN = caption_truth(captions, truth_BM)
    touched_BN = caption_truth(captions, touched_concepts(truth_BM), any_concept=True)
    flips_2B = torch.from_numpy(rng.random((2, len(indices))) < 0.5)
    regions = _region_truth(patch_shares(pictures.objects[indices], pictures.shares[indices]))
    grids = [_flipped(x_BPN.reshape(len(indices), GRID, GRID, -1), flips_2B).flatten(1, 2) for x_BPN in regions]
    return Batch(
        pixels=normalise_pixels(_flipped(torch.from_numpy(pictures.pixels[indices]), flips_2B)),
        captions=captions,
        truth=torch.from_numpy(truth_BN),
        mask=torch.from_numpy(truth_BN | ~touched_BN),
        regions=grids[0],
        region_mask=grids[1],
    )
