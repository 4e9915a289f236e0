"""Which cells of a table of logits are kept: those that reach the floor, and the best few of each row.

On the processor by numpy, which is several times faster than torch there; on a GPU by torch, so that only what is kept
is copied. Both leave equal cells to the order of labels.

Shapes: R rows (samples), K labels; M cells, in the order of rows and then of labels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.scoring.label_maps import LabelMaps
from schemas.scores import ODDS_STEPS


class Cells(NamedTuple):
    """Cells of a table of logits. All arrays have length M."""

    sample: NDArray[np.int64]  # row
    label: NDArray[np.int64]  # column
    logit: NDArray[np.float32]
    score: NDArray[np.float32]


def kept_cells(logits_RK: Tensor, maps: LabelMaps, floor: float, top_k: int) -> Cells:
    """Return the cells of `score >= floor` and the `top_k` best of each row.

    Waits for the device; scores are computed on the processor, in float64, wherever the logits are.
    """
    # Scores are costly and most cells are far below the floor: look for those that may reach it, then look exactly.
    reached = _candidates if logits_RK.is_cuda else _candidates_here
    found = reached(logits_RK, maps, _logits_below(floor, maps), top_k)
    top_M = _top(found, top_k)
    score_M = maps.scores(found.logit, found.label)
    # Compared in float32, the floor rounded likewise: no score is lost that reaches the floor in SQL's float64.
    kept_M = top_M | (score_M >= np.float32(floor))
    return Cells(found.sample[kept_M], found.label[kept_M], found.logit[kept_M], score_M[kept_M])


def top_cells(ranks_RK: NDArray[np.floating[Any]], top_k: int) -> NDArray[np.bool_]:
    """Return kept_RK: the `top_k` greatest cells of each row, the first labels first where they are equal."""
    lowest_R = _lowest(ranks_RK, top_k)
    sample_M, label_M = np.nonzero(ranks_RK >= lowest_R[:, None])
    rank_M = ranks_RK[sample_M, label_M]
    kept_RK = np.zeros(ranks_RK.shape, bool)
    kept_RK[sample_M, label_M] = _top(_Found(sample_M, label_M, rank_M, rank_M, lowest_R), top_k)
    return kept_RK


class _Found(NamedTuple):
    """Cells that may be kept."""

    sample: NDArray[np.int64]
    label: NDArray[np.int64]
    logit: NDArray[np.floating[Any]]
    rank: NDArray[np.floating[Any]]  # what orders a row
    lowest_R: NDArray[np.floating[Any]]  # the `top_k`-th greatest rank of each row


def _candidates_here(logits_RK: Tensor, maps: LabelMaps, below_K: NDArray[np.float32], top_k: int) -> _Found:
    cells_RK = logits_RK.numpy()
    ranks_RK = cells_RK if maps.equal else maps.log_odds(cells_RK, slice(None))
    lowest_R = _lowest(ranks_RK, top_k)
    if maps.equal:
        bound_RK = cells_RK >= np.minimum(lowest_R[:, None], below_K)
    else:
        bound_RK = (ranks_RK >= lowest_R[:, None]) | (cells_RK >= below_K)
    place_M = np.flatnonzero(bound_RK)
    num_rows, num_labels = bound_RK.shape
    if len(place_M) == bound_RK.size:  # as a rule where few labels are scored: there is nothing to pick out
        sample_M, label_M = np.repeat(np.arange(num_rows), num_labels), np.tile(np.arange(num_labels), num_rows)
        return _Found(sample_M, label_M, cells_RK.reshape(-1), ranks_RK.reshape(-1), lowest_R)
    sample_M, label_M = np.divmod(place_M, max(1, num_labels))
    return _Found(sample_M, label_M, cells_RK.reshape(-1)[place_M], ranks_RK.reshape(-1)[place_M], lowest_R)


def _candidates(logits_RK: Tensor, maps: LabelMaps, below_K: NDArray[np.float32], top_k: int) -> _Found:
    """Do as `_candidates_here` on the device that the logits are on."""
    num_labels, device = logits_RK.shape[1], logits_RK.device
    ranks_RK = logits_RK
    if not maps.equal:
        slope_K, intercept_K = (torch.from_numpy(x).to(device) for x in (maps.slope_K, maps.intercept_K))
        ranks_RK = slope_K * logits_RK.double() + intercept_K
    if 0 < top_k < num_labels:
        lowest_R = ranks_RK.topk(top_k, dim=1, sorted=False).values.amin(dim=1)
    else:
        lowest_R = ranks_RK.new_full((len(ranks_RK),), -math.inf if top_k > 0 else math.inf)
    kept_RK = (ranks_RK >= lowest_R[:, None]) | (logits_RK >= torch.from_numpy(below_K).to(device))
    sample_M, label_M = kept_RK.nonzero(as_tuple=True)
    found = (sample_M, label_M, logits_RK[sample_M, label_M], ranks_RK[sample_M, label_M], lowest_R)
    return _Found(*(column.cpu().numpy() for column in found))


def _lowest(ranks_RK: NDArray[np.floating[Any]], top_k: int) -> NDArray[np.floating[Any]]:
    """Return the `top_k`-th greatest of each row: none reaches it where `top_k` is 0, all where it exceeds K."""
    num_labels = ranks_RK.shape[1]
    if 0 < top_k < num_labels:
        return np.asarray(np.partition(ranks_RK, num_labels - top_k, axis=1)[:, num_labels - top_k])
    return np.full(len(ranks_RK), -math.inf if top_k > 0 else math.inf, ranks_RK.dtype)


def _top(found: _Found, top_k: int) -> NDArray[np.bool_]:
    """Return which cells are among the `top_k` greatest of their row, the first labels first where they are equal."""
    num_rows, lowest_M = len(found.lowest_R), found.lowest_R[found.sample]
    reach_M = found.rank >= lowest_M
    if np.count_nonzero(reach_M) <= top_k * num_rows:
        return np.asarray(reach_M)  # nobody shares a last place, or all labels have one
    above_M, equal_M = found.rank > lowest_M, found.rank == lowest_M
    places_R = top_k - np.bincount(found.sample[above_M], minlength=num_rows)
    equals_R = np.bincount(found.sample[equal_M], minlength=num_rows)
    place_M = np.cumsum(equal_M) - (np.cumsum(equals_R) - equals_R)[found.sample]  # among its row's equals, from 1
    return np.asarray(above_M | (equal_M & (place_M <= places_R[found.sample])))


def _logits_below(floor: float, maps: LabelMaps) -> NDArray[np.float32]:
    """Return for each label a logit that every cell with `score >= floor` exceeds, with room for rounding."""
    below_K = np.full(len(maps.slope_K), -math.inf)
    rising_K = maps.slope_K > 0
    if floor > 0:
        loose = min(floor, 1.0) * (1 - 1e-3)  # a step of the grid that scores are on is 1.2e-4 of a low score
        log_odds = math.log(loose) - math.log1p(-loose) - 1 / ODDS_STEPS  # they are rounded to a grid
        bound_K = (log_odds - maps.intercept_K[rising_K]) / maps.slope_K[rising_K]
        below_K[rising_K] = bound_K - 1e-5 * np.maximum(1.0, np.abs(bound_K))
    return below_K.astype(np.float32)
