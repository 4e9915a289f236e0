"""Vectors in cells, so that only what lies near each other is compared: k-means, as SemDeDup does, with several probes.

Shapes: N vectors, D width, K cells, P probes of a vector, S sampled vectors, B vectors of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

PROBES = 8  # cells that are searched for what is near a vector
EXACT_ROWS = 30_000  # up to as many vectors lie in one cell, and all of them are compared
_SAMPLES_PER_CELL, _STEPS = 32, 5
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Which cells each vector is near to.

    probes_NP: the cells to search for what is near a vector, the nearest first, in which the vector itself lies; -1
        of vectors that are zero: they are near nothing.
    """

    probes_NP: NDArray[np.int32]

    @property
    def homes_N(self) -> NDArray[np.int32]:
        """The cell that each vector lies in."""
        return self.probes_NP[:, 0]

    @classmethod
    def of(
        cls,
        vectors_ND: NDArray[np.float16],
        *,
        cells: int = 0,
        probes: int = PROBES,
        sample: NDArray[np.int64] | None = None,
    ) -> Self:
        """Return cells of some vectors; the same for the same vectors.

        Args:
            vectors_ND: of length 1, or zero where there is none. May be a memory map: chunks of it are read.
            cells: how many; 0: one up to `EXACT_ROWS`, then as many as make finding them and searching cost the same.
            probes: how many of them are searched for each vector.
            sample: the rows that centres are found of; None: of `sample_rows`.
        """
        rows = _present(vectors_ND)
        if sample is None:
            sample = _sample(rows, _fitting(len(rows), cells))
        count = min(_fitting(len(rows), cells), max(1, len(sample)))
        probes_NP = np.full((len(vectors_ND), min(probes, count)), -1, np.int32)
        if count == 1:
            probes_NP[rows] = 0
        else:
            centres_KD = _centres(as_floats(vectors_ND, sample), count)
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                near_BK = as_floats(vectors_ND, chunk) @ centres_KD.T
                probes_NP[chunk] = near_BK.topk(probes_NP.shape[1], dim=1).indices.numpy()
        return cls(probes_NP=probes_NP)


def as_floats(vectors_ND: NDArray[np.float16], rows: NDArray[np.int64]) -> torch.Tensor:
    """Return some of the vectors in float32."""
    return torch.from_numpy(vectors_ND[rows]).float()


def sample_rows(vectors_ND: NDArray[np.float16], *, cells: int = 0) -> NDArray[np.int64]:
    """Return the rows that centres of so many cells are found of, ascending; none where one cell is enough."""
    rows = _present(vectors_ND)
    count = _fitting(len(rows), cells)
    return _sample(rows, count) if count > 1 else rows[:0]


def _present(vectors_ND: NDArray[np.float16]) -> NDArray[np.int64]:
    """Return the rows that are not zero. As whole numbers, which numpy compares four times as fast."""
    numbers_ND, starts = vectors_ND.view(np.uint16), range(0, len(vectors_ND), _CHUNK)
    present = [numbers_ND[start : start + _CHUNK].any(axis=1) for start in starts]
    return np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *present]))


def _fitting(rows: int, cells: int) -> int:
    # A vector is compared with all centres, and with the vectors before it in its cells: PROBES * rows / 2 / cells.
    return cells or (1 if rows <= EXACT_ROWS else round(math.sqrt(PROBES * rows / 2)))


def _sample(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    size = min(len(rows), count * _SAMPLES_PER_CELL)
    return np.sort(np.random.default_rng(0).choice(rows, size, replace=False))


def _centres(sample_SD: torch.Tensor, count: int) -> torch.Tensor:
    """Return centres of length 1: spherical k-means of a sample, begun with vectors of it."""
    centres_KD = sample_SD[torch.from_numpy(np.random.default_rng(1).choice(len(sample_SD), count, replace=False))]
    for _ in range(_STEPS):
        nearest_S = torch.cat([(chunk @ centres_KD.T).argmax(dim=1) for chunk in torch.split(sample_SD, _CHUNK)])
        sums_KD = torch.zeros_like(centres_KD).index_add_(0, nearest_S, sample_SD)
        # A centre that is nearest to nothing stays where it is.
        centres_KD = torch.where(sums_KD.any(dim=1, keepdim=True), sums_KD, centres_KD)
        centres_KD = torch.nn.functional.normalize(centres_KD, dim=1)
    return centres_KD
