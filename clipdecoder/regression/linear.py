"""The linear branch: regression from the pooled embedding to labels, in closed form, for seen and for novel labels.

A ridge regression whose outputs are joined by a kernel between labels: with image kernel values and label kernel k,

    logit(x, l) = sum over seen labels j of g_j(x) k(j, l),   g minimises   sum (logit - target)^2 + penalty |logit|^2

in the norm of both kernels. It is solved exactly through the eigenvectors of both (regularised least squares for label
pairs: Romera-Paredes & Torr, ICML 2015, with kernels on both sides). k(j, l) = exp(sharpness (cosine - 1)), cosine
between queries less their mean, plus `own` where j = l: what a label has beyond its text. A novel label has only the
text's part.

Three things carry it to novel labels, each measured (docs/LOG.md): targets standardised per label, so that rare labels
count as much as frequent ones; the sharp kernel on centred queries; and each image's logits taken relative to the mean
and deviation of its logits for the seen labels, a fixed set, so that they depend on no other image and no vocabulary.

Shapes: N images, V validation images, K seen labels, L labels asked for, D embedding width, Q query width, M landmarks,
P directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats
from clipdecoder.regression.image_kernel import Doubles, ImageKernel, ImageSpace
from clipdecoder.regression.label_kernel import LabelKernel, relative_to_seen
from clipdecoder.regression.settings import LinearSettings, Solver, choose_settings
from clipdecoder.scoring.label_maps import CHUNK_CELLS
from clipdecoder.training.targets import Targets


@dataclass(frozen=True, kw_only=True)
class LinearBranch:
    """A fitted regression. Weights act on kernel values with the landmarks."""

    images: ImageKernel
    labels: LabelKernel
    seen_weights_MK: NDArray[np.float32]
    seen_offset_K: NDArray[np.float32]
    novel_weights_MK: NDArray[np.float32]  # give g of the seen labels
    novel_offset_K: NDArray[np.float32]
    relative: bool  # whether novel logits are relative to the image's logits for the seen labels

    def logits(
        self, embeddings_ND: Floats, queries_LQ: NDArray[np.float32], seen_L: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return logits_NL, float32; a label's logit does not depend on which others are asked for.

        Args:
            embeddings_ND: pooled, L2-normalised.
            queries_LQ: text queries, L2-normalised; those of seen labels are not looked at.
            seen_L: each label's column in training, -1 where it is novel: a novel label may have a seen one's query.
        """
        logits_NL = np.empty((len(embeddings_ND), len(seen_L)), np.float32)
        novel_L = seen_L < 0
        shared_KL = self.labels.between(queries_LQ[novel_L]).astype(np.float32)
        weights_ML, offset_L = self.seen_weights_MK[:, seen_L[~novel_L]], self.seen_offset_K[seen_L[~novel_L]]
        size = max(1, CHUNK_CELLS // max(1, len(weights_ML), len(seen_L)))
        for start in range(0, len(embeddings_ND), size):
            rows = slice(start, start + size)
            values_RM = self.images.values(embeddings_ND[rows])
            logits_NL[rows, ~novel_L] = values_RM @ weights_ML - offset_L
            if novel_L.any():
                logits_NL[rows, novel_L] = self._novel(values_RM, shared_KL)
        return logits_NL

    def _novel(self, values_RM: NDArray[np.float32], shared_KL: NDArray[np.float32]) -> NDArray[np.float32]:
        g_RK = values_RM @ self.novel_weights_MK - self.novel_offset_K
        logits_RL = g_RK @ shared_KL
        if not self.relative:
            return np.asarray(logits_RL)
        return relative_to_seen(logits_RL, g_RK @ self._shared_KK)

    @cached_property
    def _shared_KK(self) -> NDArray[np.float32]:
        return self.labels.matrix().astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return all there is to store, by name."""
        return {
            "landmarks": np.asarray(self.images.landmarks_MD),
            "queries": self.labels.queries_KQ,
            "seen_weights": self.seen_weights_MK,
            "seen_offset": self.seen_offset_K,
            "novel_weights": self.novel_weights_MK,
            "novel_offset": self.novel_offset_K,
            "numbers": np.array([self.images.scale, self.labels.sharpness, self.labels.own, self.relative], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearBranch:
        """Return what `arrays` stored, bit for bit.

        Raises:
            KeyError: an array is missing.
        """
        scale, sharpness, own, relative = (float(number) for number in arrays["numbers"])
        return cls(
            images=ImageKernel(arrays["landmarks"], scale),
            labels=LabelKernel(arrays["queries"], sharpness, own),
            seen_weights_MK=arrays["seen_weights"],
            seen_offset_K=arrays["seen_offset"],
            novel_weights_MK=arrays["novel_weights"],
            novel_offset_K=arrays["novel_offset"],
            relative=bool(relative),
        )


def fit_linear(
    embeddings_ND: Floats,
    targets: Targets,
    queries_KQ: NDArray[np.float32],
    train_M: NDArray[np.int64],
    validation_V: NDArray[np.int64],
    *,
    space: ImageSpace | None = None,
    settings: LinearSettings | None = None,
) -> LinearBranch:
    """Fit the branch on the training images, with settings chosen on the validation images.

    An unknown cell counts as the label's mean. A label without positives has only what its text says.

    Args:
        embeddings_ND: pooled, L2-normalised, of all images.
        targets: of all images and the K seen labels.
        queries_KQ: text queries of the seen labels, L2-normalised.
        train_M: rows to fit on, at least one.
        validation_V: rows to choose on.
        space: of these embeddings and training rows, if there is one already; it takes most of the time.
        settings: taken as they are; None: chosen, those for novel labels by leaving out seen ones.
    """
    space = ImageSpace.of(embeddings_ND, train_M) if space is None else space
    rate_K, deviation_K = _moments(targets, train_M)

    def wanted(rows: NDArray[np.int64]) -> Doubles:
        targets_RK = targets.dense(rows)
        return np.asarray(np.where(targets_RK >= 0, targets_RK - rate_K, 0.0) / deviation_K)

    solver = Solver(space.energy_P, space.cross(embeddings_ND, wanted))
    if settings is None:
        settings = choose_settings(solver, space, embeddings_ND, targets, queries_KQ, validation_V)
    labels = LabelKernel(queries_KQ.astype(np.float32), settings.sharpness, settings.own)
    seen = LabelKernel(labels.queries_KQ, settings.sharpness, settings.seen_own).matrix()
    seen_PK = solver.solve(seen, settings.seen_penalty) @ seen
    novel_PK = solver.solve(labels.matrix(), settings.penalty)
    return LinearBranch(
        images=space.kernel,
        labels=labels,
        seen_weights_MK=(space.basis_MP @ seen_PK).astype(np.float32),
        seen_offset_K=(space.offset_P @ seen_PK).astype(np.float32),
        novel_weights_MK=(space.basis_MP @ novel_PK).astype(np.float32),
        novel_offset_K=(space.offset_P @ novel_PK).astype(np.float32),
        relative=settings.relative,
    )


def _moments(targets: Targets, rows_M: NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Return the mean and the deviation of each label's known cells; the deviation of one image in M at least."""
    positive_K, known_K = np.zeros(targets.num_labels), np.zeros(targets.num_labels)
    size = max(1, CHUNK_CELLS // max(1, targets.num_labels))
    for start in range(0, len(rows_M), size):
        dense_RK = targets.dense(rows_M[start : start + size])
        positive_K += (dense_RK == 1).sum(axis=0)
        known_K += (dense_RK >= 0).sum(axis=0)
    rate_K = positive_K / np.maximum(known_K, 1)
    return rate_K, np.sqrt(np.maximum(rate_K * (1 - rate_K), 1 / len(rows_M)))
