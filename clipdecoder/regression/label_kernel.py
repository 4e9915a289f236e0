"""How alike labels are, by their text queries.

Shapes: N images, K seen labels, L labels asked for, Q query width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import Floats

Doubles = NDArray[np.float64]

MIN_DEVIATION = 1e-6


@dataclass(frozen=True)
class LabelKernel:
    """exp(sharpness (cosine - 1)) between queries less the seen labels' mean, and `own` more for a seen label itself.

    Text embeddings of a vocabulary share most of their length; what tells labels apart is the rest.
    """

    queries_KQ: NDArray[np.float32]
    sharpness: float
    own: float

    def matrix(self) -> Doubles:
        """Return shared_KK between the seen labels."""
        return self.between(self.queries_KQ) + self.own * np.eye(len(self.queries_KQ))

    def between(self, queries_LQ: NDArray[np.float32]) -> Doubles:
        """Return shared_KL of the seen labels with any others, by text alone."""
        cosine_KL = self._directions_KQ @ _directions(queries_LQ - self._mean_Q).T
        return np.asarray(np.exp(self.sharpness * (cosine_KL - 1)))

    @cached_property
    def _mean_Q(self) -> Doubles:
        # A label alone would lose all it has with its mean.
        alone = len(self.queries_KQ) < 2
        return np.zeros(self.queries_KQ.shape[1]) if alone else self.queries_KQ.mean(axis=0, dtype=np.float64)

    @cached_property
    def _directions_KQ(self) -> Doubles:
        return _directions(self.queries_KQ - self._mean_Q)


def relative_to_seen(logits_NL: Floats, seen_NK: Floats) -> NDArray[np.float32]:
    """Return each image's logits in deviations from the mean of its logits for the seen labels.

    An image that looks like much of everything, or like nothing, no longer ranks first, or last, for every label.
    """
    deviation_N1 = np.maximum(seen_NK.std(axis=1, keepdims=True), MIN_DEVIATION)
    return np.asarray((logits_NL - seen_NK.mean(axis=1, keepdims=True)) / deviation_N1, np.float32)


def _directions(queries_KQ: Doubles) -> Doubles:
    length_K1 = np.linalg.norm(queries_KQ, axis=-1, keepdims=True)
    return np.asarray(queries_KQ / np.maximum(length_K1, 1e-6))
