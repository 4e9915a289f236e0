"""A Gaussian kernel between image embeddings, and the closed-form regression's view of images through it.

k(x, y) = exp(-|p(x) - p(y)|^2 / m), p the signed square root (L2-normalised again: it keeps a few large components from
drowning the others), m the median squared distance of training images. Images are described by their kernel values with
landmarks, a random sample of the training images (Nystroem: Williams & Seeger, NIPS 2000): cost and memory are bounded
whatever N is, and up to `MAX_LANDMARKS` images the description is exact.

Shapes: N images, D embedding width, M landmarks, P independent directions, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats
from clipdecoder.scoring.label_maps import CHUNK_CELLS

Doubles = NDArray[np.float64]

MAX_LANDMARKS = 4096
MAX_DIRECTIONS = (
    2048  # on 3,500 photographs all 3,499 gain 0.4 mAP on seen labels, none on novel ones, at twice the cost
)
MAX_WORK = 7e11  # N * M * M: a minute or two on two cores; 160,000 images get some 2,000 landmarks
JITTER = 1e-5  # on the landmarks' own kernel values of 1: equal images may both be landmarks
FLOOR = 1e-7  # of a direction's variance, relative to the largest: below it there is only rounding


@dataclass(frozen=True)
class ImageKernel:
    """Kernel values of any image with the landmarks."""

    landmarks_MD: Floats  # embeddings as they were given
    scale: float  # squared distance at which the kernel has fallen to 1 / e

    @classmethod
    def of(cls, embeddings_ND: Floats, rows_N: NDArray[np.int64], seed: int) -> ImageKernel:
        """Return the kernel with landmarks drawn from these rows; at least one."""
        num_landmarks = int(min(len(rows_N), MAX_LANDMARKS, max(64, (MAX_WORK / max(1, len(rows_N))) ** 0.5)))
        chosen = np.sort(np.random.default_rng(seed).choice(rows_N, num_landmarks, replace=False))
        landmarks_MD = np.asarray(embeddings_ND[chosen])
        powered_MD = _powered(landmarks_MD[:1024])
        distance = 2 - 2 * (powered_MD @ powered_MD.T)[np.triu_indices(len(powered_MD), 1)]
        apart = distance[distance > 1e-6]
        return cls(landmarks_MD, float(np.median(apart)) if len(apart) else 1.0)

    @cached_property
    def _powered_DM(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(_powered(self.landmarks_MD).T)

    def values(self, embeddings_ND: Floats) -> NDArray[np.float32]:
        """Return values_NM in (0, 1]."""
        # Vectors of length 1: the squared distance is 2 - 2 cosine.
        values_NM = _powered(embeddings_ND) @ self._powered_DM
        values_NM -= 1
        values_NM *= 2 / self.scale
        return np.asarray(np.exp(values_NM, out=values_NM))


@dataclass(frozen=True)
class ImageSpace:
    """Training images in directions that are centred and uncorrelated; mean squared length about 1.

    Fitted once from the images alone; every regression on them, whatever its labels and penalty, is then a division.
    """

    kernel: ImageKernel
    basis_MP: Doubles  # from kernel values to the directions
    offset_P: Doubles  # what to take off them
    energy_P: Doubles  # sum of squares over the training images
    rows_N: NDArray[np.int64]  # the training images

    @classmethod
    def of(cls, embeddings_ND: Floats, rows_N: NDArray[np.int64], seed: int = 0) -> ImageSpace:
        """Return the space of these rows."""
        kernel = ImageKernel.of(embeddings_ND, rows_N, seed)
        own_MM = kernel.values(kernel.landmarks_MD).astype(np.float64)
        own_MM = (own_MM + own_MM.T) / 2 + JITTER * np.eye(len(own_MM))
        # Kernel values times this have the kernel as their inner product.
        inverse_MM = np.linalg.inv(np.linalg.cholesky(own_MM)).T
        mean_M, gram_MM = np.zeros(len(own_MM)), np.zeros_like(own_MM)
        for rows in _blocks(rows_N, len(own_MM)):
            described_RM = kernel.values(embeddings_ND[rows]) @ inverse_MM
            mean_M += described_RM.sum(axis=0) / len(rows_N)
            gram_MM += described_RM.T @ described_RM
        gram_MM -= len(rows_N) * np.outer(mean_M, mean_M)
        energy_P, directions_MP = np.linalg.eigh(gram_MM)
        unit = 1 / np.sqrt(max(float(energy_P.sum()) / len(rows_N), np.finfo(np.float64).tiny))
        # Ascending: the last ones are the strongest.
        kept = np.flatnonzero(energy_P > max(FLOOR * energy_P[-1], np.finfo(np.float64).tiny))[-MAX_DIRECTIONS:]
        energy_P, directions_MP = energy_P[kept], directions_MP[:, kept]
        return cls(
            kernel=kernel,
            basis_MP=inverse_MM @ directions_MP * unit,
            offset_P=mean_M @ directions_MP * unit,
            energy_P=energy_P * unit**2,
            rows_N=rows_N,
        )

    def project(self, embeddings_ND: Floats) -> Doubles:
        """Return z_NP, any images in the space."""
        return np.asarray(self.kernel.values(embeddings_ND) @ self.basis_MP - self.offset_P)

    def cross(self, embeddings_ND: Floats, wanted: Callable[[NDArray[np.int64]], Doubles]) -> Doubles:
        """Return cross_PK: the sum over training images of their place in the space times the outputs wanted there.

        `wanted` gives the outputs of some rows (R, K), which sum to zero over the training images. It is asked block by
        block, so that the whole table never stands in memory.
        """
        cross_MK = np.zeros((len(self.basis_MP), wanted(self.rows_N[:0]).shape[1]))
        for rows in _blocks(self.rows_N, sum(cross_MK.shape)):
            cross_MK += self.kernel.values(embeddings_ND[rows]).T @ wanted(rows)
        return self.basis_MP.T @ cross_MK


def _powered(embeddings_ND: Floats) -> NDArray[np.float32]:
    wide_ND = embeddings_ND.astype(np.float32)
    powered_ND = np.sign(wide_ND) * np.sqrt(np.abs(wide_ND))
    length_N1 = np.linalg.norm(powered_ND, axis=-1, keepdims=True)
    return np.asarray(powered_ND / np.maximum(length_N1, np.finfo(np.float32).tiny))


def _blocks(rows_N: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, CHUNK_CELLS // max(1, width))
    for start in range(0, len(rows_N), size):
        yield rows_N[start : start + size]
