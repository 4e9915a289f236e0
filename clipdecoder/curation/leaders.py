"""Groups of vectors that are nearly the same, each around a leader: what keeps one of each group leaves no two alike.

Vectors come in the order of preference. One that is not within the limit of any leader before it is a leader; every
other belongs to the nearest leader before it. So each member is within the limit of its leader, and no two leaders are
within the limit of each other: groups do not chain. Which cells are searched (`Cells`) bounds what it costs, and is
the only reason for which a pair within the limit may be missed.

Shapes: N vectors, D width, Q vectors that look for leaders, M vectors that they are compared with, E pairs, B
bits of a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.curation.cells import Cells, as_floats, sample_rows

_SLACK = 2e-3  # how far a quick cosine, in float32 and of vectors rounded to float16, is from the exact one at most
_PAIRS_AT_ONCE = 4096  # compared exactly
_HASH_BITS = 64

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Space:
    """One way in which samples can be alike.

    vectors_ND: of length 1 before rounding, zero where a sample has none; may be a memory map.
    limit: least cosine of two that are alike, above 0.
    cells: where to look.
    """

    vectors_ND: NDArray[np.float16]
    limit: float
    cells: Cells


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is in memory at once. It changes no result."""

    least_block: int = 1024  # samples of the first block; each is twice the one before it
    most_block: int = 65_536
    max_pairs: int = 2_000_000  # within one block; a block that has more is halved
    queries: int = 2048  # of one matrix product
    members: int = 8192


class _Pairs(NamedTuple):
    """Samples that are alike: `ones_E` comes after `others_E`."""

    ones_E: Rows
    others_E: Rows
    cosines_E: NDArray[np.float64]


class _TooMany(Exception):
    """A block has more pairs than are held at once."""


def make_space(vectors_ND: NDArray[np.float16], limit: float, *, cells: int = 0) -> Space:
    """Return vectors with the cells to look in.

    The cells are those of different vectors: a sample is looked through first, and one of each group of it stays.
    Otherwise what is there ten thousand times would lie in many cells, and be found as often.

    Args:
        vectors_ND: as in `Space`.
        limit: as in `Space`.
        cells: how many; 0: as many as fit.
    """
    sample = sample_rows(vectors_ND, cells=cells)
    if len(sample):
        some_SD = vectors_ND[sample]
        sample = sample[np.unique(find_leaders([Space(vectors_ND=some_SD, limit=limit, cells=Cells.of(some_SD))]))]
    return Space(vectors_ND=vectors_ND, limit=limit, cells=Cells.of(vectors_ND, cells=cells, sample=sample))


def hash_space(hashes_N: NDArray[np.uint64], has_hash_N: NDArray[np.bool_], max_bits: int, *, cells: int = 0) -> Space:
    """Return the way in which pictures are alike whose perceptual hashes differ in `max_bits` bits at most.

    As vectors of 1 and -1, made as long as 1, hashes have a cosine of 1 - 2 * differing bits / 64.
    """
    bits_NB = np.unpackbits(hashes_N[:, None].view(np.uint8), axis=1).astype(np.float16)
    vectors_NB = (2 * bits_NB - 1) / np.float16(_HASH_BITS**0.5) * has_hash_N[:, None]
    return make_space(vectors_NB.astype(np.float16), 1 - 2 * max_bits / _HASH_BITS, cells=cells)


def find_leaders(
    spaces: Sequence[Space], watch: Callable[[int, int], None] = lambda done, total: None, bounds: Bounds = Bounds()
) -> Rows:
    """Return the leader of each sample: leaders_N, itself where it is one.

    Where samples can be alike in several ways, one is enough; of several leaders the one with the greatest cosine in
    the first of these ways counts, and among equals the first. Memory holds one block and its pairs.

    Args:
        spaces: one or more, of the same samples in the order of preference.
        watch: told how many samples are done, of how many.
        bounds: of memory.
    """
    search = _Search(spaces, bounds)
    pending: list[Rows] = []
    start, size = 0, bounds.least_block
    total = len(spaces[0].vectors_ND)
    while start < total or pending:
        if not pending:
            pending.append(np.arange(start, min(start + size, total)))
            start, size = start + size, min(2 * size, bounds.most_block)
        block = pending.pop()
        try:
            search.settle(block)
        except _TooMany:
            pending += [block[len(block) // 2 :], block[: len(block) // 2]]
        else:
            watch(int(block[-1]) + 1, total)
    return search.leaders_N


def cosines(vectors_ND: NDArray[np.float16], ones_E: Rows, others_E: Rows) -> NDArray[np.float64]:
    """Return the exact cosine of each pair of vectors; NaN where one of them is zero."""
    found = [np.empty(0)]
    for start in range(0, len(ones_E), _PAIRS_AT_ONCE):
        one_ED = vectors_ND[ones_E[start : start + _PAIRS_AT_ONCE]].astype(np.float64)
        other_ED = vectors_ND[others_E[start : start + _PAIRS_AT_ONCE]].astype(np.float64)
        lengths_E = np.sqrt(np.vecdot(one_ED, one_ED) * np.vecdot(other_ED, other_ED))
        with np.errstate(invalid="ignore"):
            found.append(np.clip(np.vecdot(one_ED, other_ED) / lengths_E, -1.0, 1.0))
    return np.concatenate(found)


class _Search:
    """What is known of the samples so far."""

    def __init__(self, spaces: Sequence[Space], bounds: Bounds) -> None:
        self._spaces, self._bounds = spaces, bounds
        self.leaders_N = np.arange(len(spaces[0].vectors_ND))
        self._leaders: list[Rows] = []  # of the blocks that are settled

    def settle(self, block: Rows) -> None:
        """Find the leaders of a block; all before it are settled.

        Raises:
            _TooMany: nothing was settled.
        """
        known = np.concatenate([np.empty(0, np.int64), *self._leaders])
        best = self._pairs(block, known, best_only=True)
        alone = np.setdiff1d(block, best.ones_E)
        new, own = self._new_leaders(alone)
        later = self._pairs(np.setdiff1d(block, alone), new, best_only=True)
        self._join(_joined([best, own, later]))
        self._leaders.append(new)

    def _new_leaders(self, alone: Rows) -> tuple[Rows, _Pairs]:
        """Return those that become leaders, and the pairs of the others with them."""
        pairs = self._pairs(alone, alone, best_only=False)
        order = np.lexsort((pairs.others_E, pairs.ones_E))
        followers: set[int] = set()
        kept = np.zeros(len(order), np.bool_)
        for place, one, other in zip(order, pairs.ones_E[order].tolist(), pairs.others_E[order].tolist(), strict=True):
            if other not in followers:
                followers.add(one)
                kept[place] = True
        return np.setdiff1d(alone, np.array(sorted(followers), np.int64)), _taken(pairs, np.flatnonzero(kept))

    def _join(self, pairs: _Pairs) -> None:
        """Give each sample its best leader."""
        near_E = np.where(np.isnan(pairs.cosines_E), -2.0, pairs.cosines_E)
        order = np.lexsort((pairs.others_E, -near_E, pairs.ones_E))
        ones, first = np.unique(pairs.ones_E[order], return_index=True)
        self.leaders_N[ones] = pairs.others_E[order][first]

    def _pairs(self, queries: Rows, members: Rows, *, best_only: bool) -> _Pairs:
        """Return the pairs that are alike in any way, each query with members before it.

        Args:
            queries: which look for members.
            members: that may be found.
            best_only: in the first way only those that may be nearest to a query, of each product.
        """
        found: list[_Pairs] = []
        for space in self._spaces:
            count, first = 0, space is self._spaces[0]
            for ones_E, others_E in self._near(space, queries, members, best_only=best_only and first):
                count += len(ones_E)
                if not best_only and count > self._bounds.max_pairs and len(queries) > 2:
                    raise _TooMany
                exact_E = cosines(space.vectors_ND, ones_E, others_E)
                alike = exact_E >= space.limit
                ones_E, others_E, exact_E = ones_E[alike], others_E[alike], exact_E[alike]
                if not first:
                    exact_E = cosines(self._spaces[0].vectors_ND, ones_E, others_E)
                found.append(_Pairs(ones_E, others_E, exact_E))
        return _joined(found)

    def _near(self, space: Space, queries: Rows, members: Rows, *, best_only: bool) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of which the quick cosine may reach the limit."""
        probes_QP = space.cells.probes_NP[queries]
        searched, by_cell = _by_cell(probes_QP.reshape(-1))
        lying, members_by_cell = _by_cell(space.cells.homes_N[members])
        for cell in np.intersect1d(searched, lying):
            asking = queries[by_cell(cell) // probes_QP.shape[1]]
            answering = members[members_by_cell(cell)]
            for start in range(0, len(asking), self._bounds.queries):
                ones = asking[start : start + self._bounds.queries]
                one_QD = as_floats(space.vectors_ND, ones)
                for place in range(0, len(answering), self._bounds.members):
                    others = answering[place : place + self._bounds.members]
                    near_QM = one_QD @ as_floats(space.vectors_ND, others).T
                    rows_E, columns_E = _chosen(near_QM, ones, others, space.limit - _SLACK, best_only=best_only)
                    if len(rows_E):
                        yield ones[rows_E], others[columns_E]


def _chosen(
    near_QM: torch.Tensor, ones: Rows, others: Rows, least: float, *, best_only: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if bool(near_QM.max() < least):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if others[-1] >= ones[0]:  # both ascend; otherwise all of the others come first
        near_QM.masked_fill_(torch.from_numpy(others[None, :] >= ones[:, None]), -2.0)
    bound_Q = torch.full((len(ones), 1), least)
    if best_only:
        bound_Q = torch.maximum(bound_Q, near_QM.max(dim=1, keepdim=True).values - 2 * _SLACK)
    rows_E, columns_E = (near_QM >= bound_Q).nonzero(as_tuple=True)
    return rows_E.numpy(), columns_E.numpy()


class _Places(NamedTuple):
    """Places in an array, gathered by the cell that stands there."""

    order: Rows
    spans: dict[int, tuple[int, int]]

    def __call__(self, cell: int) -> Rows:
        """Return the places of a cell, ascending."""
        start, end = self.spans[int(cell)]
        return self.order[start:end]


def _by_cell(cells: NDArray[np.int32]) -> tuple[NDArray[np.int32], _Places]:
    """Return which cells there are, and where each stands; -1 is none."""
    order = np.argsort(cells, kind="stable")
    order = order[np.searchsorted(cells[order], 0) :]
    found, starts, counts = np.unique(cells[order], return_index=True, return_counts=True)
    spans = zip(starts.tolist(), (starts + counts).tolist(), strict=True)
    return found, _Places(order, dict(zip(found.tolist(), spans, strict=True)))


def _taken(pairs: _Pairs, places: Rows) -> _Pairs:
    return _Pairs(pairs.ones_E[places], pairs.others_E[places], pairs.cosines_E[places])


def _joined(pairs: Sequence[_Pairs]) -> _Pairs:
    if not pairs:
        return _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return _Pairs(*(np.concatenate(columns) for columns in zip(*pairs, strict=True)))
