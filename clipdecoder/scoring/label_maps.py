"""From logits to scores, label by label.

Labels are independent of each other: no softmax, so a label's score does not depend on which others are scored.

Shapes: K labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.scores import grid_odds, scores_of

CHUNK_CELLS = 4_000_000  # logits computed at once: 16 MB, and some four times that in passing


@dataclass(frozen=True)
class LabelMaps:
    """What makes a score of a logit, label by label: `sigmoid(slope * logit + intercept)`."""

    slope_K: NDArray[np.float64]
    intercept_K: NDArray[np.float64]

    @classmethod
    def shared(cls, slope: float, intercept: float, num_labels: int) -> LabelMaps:
        """Return one map for all labels."""
        return cls(np.full(num_labels, slope), np.full(num_labels, intercept))

    @property
    def equal(self) -> bool:
        """Whether all labels have one map, so that logits rank as scores do."""
        return bool((self.slope_K == self.slope_K[:1]).all() and (self.intercept_K == self.intercept_K[:1]).all())

    def log_odds(self, logits: NDArray[np.floating[Any]], label: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """Return `slope * logit + intercept` for these labels' logits."""
        odds = self.slope_K[label] * logits.astype(np.float64) + self.intercept_K[label]
        return np.asarray(odds, np.float64)

    def scores(
        self, logits: NDArray[np.floating[Any]], label: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the scores of these labels' logits, of log odds on the grid of schemas.scores: as they are stored."""
        return scores_of(grid_odds(self.log_odds(logits, label)))
