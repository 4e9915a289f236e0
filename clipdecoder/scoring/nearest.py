"""The embeddings nearest to one query: exact, by a matrix product over chunks. numpy alone, so that it starts at once.

Shapes: N embeddings of a chunk, M of them that may be among the nearest, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# How far the quick cosine can be from the exact one: a float16 embedding's length is 1 but for its rounding, and a
# product in float32 adds a rounding for each number.
_LENGTH_ERROR = 2.0**-10
_STEP_ERROR = 2.0**-23


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """What is nearest, the nearest first; equal cosines in the order of ids."""

    ids: NDArray[np.int64]
    cosines: NDArray[np.float64]  # from -1 to 1
    compared: int  # embeddings that were looked at


def nearest(
    query_D: NDArray[np.floating],
    chunks: Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]],
    *,
    top: int,
    min_cosine: float = -1.0,
) -> Nearest:
    """Return the `top` embeddings of greatest cosine with a query; how they were cut into chunks changes no bit.

    Every embedding is compared in float32. Those that may be among the nearest, as far as rounding can tell, are
    compared again in float64 and by their own length, row by row.

    Args:
        query_D: of any length but zero.
        chunks: ids_N, ascending over all chunks, and embeddings_ND, L2-normalised before they were rounded.
        top: how many at most, 1 or more.
        min_cosine: none below it.
    """
    unit_D = query_D.astype(np.float64)
    unit_D /= np.linalg.norm(unit_D)
    found = Nearest(ids=np.empty(0, np.int64), cosines=np.empty(0), compared=0)
    for ids_N, embeddings_ND in chunks:
        least = max(min_cosine, found.cosines[-1]) if len(found.ids) == top else min_cosine
        rows_M = _candidates(unit_D, embeddings_ND, top, least)
        cosines_M = _exact_cosines(unit_D, embeddings_ND[rows_M])
        reached = cosines_M >= min_cosine
        ids = np.concatenate([found.ids, ids_N[rows_M][reached]])
        cosines = np.concatenate([found.cosines, cosines_M[reached]])
        order = np.lexsort((ids, -cosines))[:top]
        found = Nearest(ids=ids[order], cosines=cosines[order], compared=found.compared + len(ids_N))
    return found


def _candidates(
    unit_D: NDArray[np.float64], embeddings_ND: NDArray[np.float16], top: int, least: float
) -> NDArray[np.intp]:
    """Return every row that can be among the `top` of a chunk and has a cosine of `least` or more."""
    error = _LENGTH_ERROR + len(unit_D) * _STEP_ERROR
    # Row by row, and no matrix product: that one has threads of its own, which spin while they wait for each other, and
    # beside the caller's threads it took twice the processor's time.
    quick_N = np.vecdot(embeddings_ND.astype(np.float32), unit_D.astype(np.float32))
    bound = least - error
    if len(quick_N) > top:
        bound = max(bound, np.partition(quick_N, -top)[-top] - 2 * error)
    return np.flatnonzero(quick_N >= bound)


def _exact_cosines(unit_D: NDArray[np.float64], embeddings_MD: NDArray[np.float16]) -> NDArray[np.float64]:
    # Sums along rows, and no matrix product: that adds in another order for another number of rows.
    exact_MD = embeddings_MD.astype(np.float64)
    products_M = (exact_MD * unit_D).sum(axis=1)
    lengths_M = np.sqrt((exact_MD * exact_MD).sum(axis=1))
    return np.asarray(np.clip(products_M / lengths_M, -1.0, 1.0))
