"""What the linear branch is fitted with, and how that is chosen: on held-out images and held-out labels.

Shapes: V validation images, K seen labels, P directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats, Targets8, average_precisions, mean_or_nan, rankable_labels
from clipdecoder.regression.image_kernel import Doubles, ImageSpace
from clipdecoder.regression.label_kernel import LabelKernel, relative_to_seen
from clipdecoder.training.targets import Targets

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
SHARPNESS = (2.0, 4.0, 8.0)
SEEN_OWN = (0.05, 1.0)
FOLDS = 5
MIN_LABELS = 10  # fewer say nothing about novel labels, nor about what is usual for an image
MAX_VALIDATION = 5000  # images to choose on: more change nothing and cost time


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Settings of the regression. Penalties are for images of mean squared length 1 and targets of deviation 1.

    The defaults were chosen on Corel5k and serve where there is too little to choose on.
    """

    sharpness: float = 4.0
    own: float = 0.05
    penalty: float = 30.0
    relative: bool = True
    seen_own: float = 0.05
    seen_penalty: float = 3.0


@dataclass(frozen=True)
class Solver:
    """The regression's normal equations, in the images' eigenvectors."""

    energy_P: Doubles
    cross_PK: Doubles

    def select(self, columns: NDArray[np.int64]) -> Solver:
        """Return the same without the other labels."""
        return Solver(self.energy_P, self.cross_PK[:, columns])

    def solve(self, shared_KK: Doubles, penalty: float) -> Doubles:
        """Return g_PK; the logits of seen labels are g times `shared_KK`."""
        return next(self.path(shared_KK, (penalty,)))

    def path(self, shared_KK: Doubles, penalties: Sequence[float]) -> Iterator[Doubles]:
        """Yield the solution for each penalty; the eigenvectors of the labels are found once."""
        values_K, vectors_KK = np.linalg.eigh(shared_KK)
        turned_PK = self.cross_PK @ vectors_KK
        work_PK = np.outer(self.energy_P, np.maximum(values_K, 0))
        for penalty in penalties:
            yield (turned_PK / (work_PK + penalty)) @ vectors_KK.T


def choose_settings(
    solver: Solver,
    space: ImageSpace,
    embeddings_ND: Floats,
    targets: Targets,
    queries_KQ: NDArray[np.float32],
    validation_V: NDArray[np.int64],
) -> LinearSettings:
    """Return the settings of the best mAP on the validation images.

    For novel labels every seen label is left out once, in folds, and scored as if novel. Settings for seen labels are
    those of all labels together. Where the images or labels are too few, the defaults stay.
    """
    validation_V = validation_V[:: -(-len(validation_V) // MAX_VALIDATION) or 1]
    targets_VK = targets.dense(validation_V)
    enough = len(queries_KQ) >= MIN_LABELS
    if not rankable_labels(targets_VK).any():
        return LinearSettings(relative=enough)
    z_VP = space.project(embeddings_ND[validation_V])
    sharpness, penalty, relative = (
        _best_novel(solver, z_VP, targets_VK, queries_KQ)
        if enough
        else (LinearSettings.sharpness, LinearSettings.penalty, False)
    )
    seen_own, seen_penalty = _best_seen(solver, z_VP, targets_VK, queries_KQ, sharpness)
    return LinearSettings(
        sharpness=sharpness, penalty=penalty, relative=relative, seen_own=seen_own, seen_penalty=seen_penalty
    )


def _best_novel(
    solver: Solver, z_VP: Doubles, targets_VK: Targets8, queries_KQ: NDArray[np.float32]
) -> tuple[float, float, bool]:
    """Return sharpness, penalty and whether to be relative, by the average precision of labels left out."""
    order = np.random.default_rng(0).permutation(len(queries_KQ))
    precisions: dict[tuple[float, float, bool], list[float]] = {}
    for fold, sharpness in product(range(FOLDS), SHARPNESS):
        left_out, kept = np.sort(order[fold::FOLDS]), np.sort(np.delete(order, np.s_[fold::FOLDS]))
        labels = LabelKernel(queries_KQ[kept], sharpness, LinearSettings().own)
        shared_KK, shared_KL = labels.matrix(), labels.between(queries_KQ[left_out])
        solutions = solver.select(kept).path(shared_KK, PENALTIES)
        for penalty, g_PK in zip(PENALTIES, solutions, strict=True):
            g_VK = z_VP @ g_PK
            logits_VL = g_VK @ shared_KL
            for relative in (True, False):
                shown_VL = relative_to_seen(logits_VL, g_VK @ shared_KK) if relative else logits_VL
                precisions.setdefault((sharpness, penalty, relative), []).extend(
                    average_precisions(shown_VL, targets_VK[:, left_out])
                )
    return max(precisions, key=lambda setting: mean_or_nan(np.array(precisions[setting])))


def _best_seen(
    solver: Solver, z_VP: Doubles, targets_VK: Targets8, queries_KQ: NDArray[np.float32], sharpness: float
) -> tuple[float, float]:
    """Return what a seen label has of its own, and the penalty."""
    precisions: dict[tuple[float, float], float] = {}
    for own in SEEN_OWN:
        shared_KK = LabelKernel(queries_KQ, sharpness, own).matrix()
        for penalty, g_PK in zip(PENALTIES, solver.path(shared_KK, PENALTIES), strict=True):
            logits_VK = z_VP @ (g_PK @ shared_KK)
            precisions[own, penalty] = mean_or_nan(average_precisions(logits_VK, targets_VK))
    return max(precisions, key=lambda setting: precisions[setting])
