"""What a score is, for those who compute it and those who store it.

`log odds = slope * logit + intercept` and `score = sigmoid(log odds)`. Log odds are rounded to a grid before anything
is made of them. So a score is one number wherever it is computed, and what is compared with a floor or a threshold is
what is stored. Rounding moves a score by at most 1.6e-5, and the cosine of a CLIP model by 6e-7: a tenth of what
float16 embeddings move it by.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ODDS_STEPS = 8192  # for one unit of log odds: a power of two, so that dividing by it is exact
# Log odds beyond are as good as certain: the score is 0 or 1 in float64 too, and exp() does not overflow.
_LIMIT = 700.0


def grid_odds(log_odds: NDArray[np.floating[Any]]) -> NDArray[np.int32]:
    """Return log odds as steps of the grid, those beyond +-700 as +-700."""
    return np.asarray(np.rint(np.clip(log_odds, -_LIMIT, _LIMIT) * ODDS_STEPS), np.int32)


def scores_of(odds: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the scores of log odds on the grid: 0 to 1, computed in float64, rounded to float32."""
    return np.asarray(1.0 / (1.0 + np.exp(odds / -float(ODDS_STEPS))), np.float32)
