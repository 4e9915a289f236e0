"""Groups around leaders: every member within the limit of its leader, no two leaders alike, whatever the blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipdecoder.curation.cells import Cells
from clipdecoder.curation.leaders import Bounds, Space, cosines, find_leaders, hash_space, make_space

Vectors = NDArray[np.float16]


def vectors(seed: int, count: int, width: int = 16, spread: float = 0.25, topics: int | None = None) -> Vectors:
    """Return vectors of length 1 around some topics; every 50th is zero."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((topics or max(1, count // 8), width))
    made = centres[random.integers(0, len(centres), count)] + spread * random.standard_normal((count, width))
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    made[49::50] = 0
    return made.astype(np.float16)


def space(vectors_ND: Vectors, limit: float, cells: int = 1) -> Space:
    return make_space(vectors_ND, limit, cells=cells)


def one_by_one(vectors_ND: Vectors, limit: float) -> list[int]:
    """Return the leaders as the definition says it."""
    leaders: list[int] = []
    found = []
    for row in range(len(vectors_ND)):
        near = cosines(vectors_ND, np.full(len(leaders), row), np.array(leaders, np.int64))
        near = np.where(np.isnan(near), -2, near)
        best = int(near.argmax()) if leaders else 0
        if leaders and near[best] >= limit:
            found.append(leaders[best])
        else:
            found.append(row)
            leaders.append(row)
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 300), st.sampled_from([0.6, 0.8, 0.9, 0.95, 0.99, 1.0]))
def test_leaders_are_what_the_definition_says(seed: int, count: int, limit: float) -> None:
    made = vectors(seed, count)
    made[count // 2 :: 7] = made[: len(made[count // 2 :: 7])]
    assert find_leaders([space(made, limit)]).tolist() == one_by_one(made, limit)


def test_blocks_and_their_halves_change_nothing() -> None:
    made = vectors(1, 900, topics=5, spread=0.1)
    small = Bounds(least_block=16, most_block=128, max_pairs=50, queries=32, members=48)
    assert find_leaders([space(made, 0.9)], bounds=small).tolist() == one_by_one(made, 0.9)


def test_every_member_is_within_the_limit_of_its_leader_and_leads_nobody() -> None:
    made = vectors(2, 3000)
    found = find_leaders([space(made, 0.9, cells=30)])
    members = np.flatnonzero(found != np.arange(len(found)))
    assert len(members) > 1000
    assert (cosines(made, members, found[members]) >= 0.9).all()
    assert (found[found] == found).all() and (found <= np.arange(len(found))).all()
    assert (found[49::50] == np.arange(len(found))[49::50]).all(), "what has no vector is near nothing"


def test_cells_find_nearly_all_that_comparing_everything_finds() -> None:
    made = vectors(3, 6000, width=64, spread=0.15, topics=2000)
    exact, by_cells = find_leaders([space(made, 0.95)]), find_leaders([space(made, 0.95, cells=150)])
    copies = exact != np.arange(len(exact))
    assert copies.sum() > 1000
    assert ((by_cells != np.arange(len(exact))) & copies).sum() >= 0.99 * copies.sum()


def test_what_is_there_very_often_is_one_group_in_many_cells_too() -> None:
    made = vectors(4, 4000, width=64, spread=1)
    near = made[7] + 0.02 * np.random.default_rng(5).standard_normal((2500, 64))
    made[1000:3500] = near / np.linalg.norm(near, axis=1, keepdims=True)
    found = find_leaders([space(made, 0.95, cells=60)])
    assert np.unique(found[1000:3500]).tolist() == [7]


def test_one_way_to_be_alike_is_enough_and_the_first_says_which_leader_is_nearest() -> None:
    first = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], np.float16)
    second = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float16)
    assert find_leaders([space(first, 0.99)]).tolist() == [0, 1, 2, 3]
    # The third is like the first by the second way; the fourth is as well.
    assert find_leaders([space(first, 0.99), space(second, 0.9)]).tolist() == [0, 1, 0, 0]
    # By the first way the fourth is nearer to the second: 0.96 against 0.6.
    assert find_leaders([space(first, 0.95), space(second, 0.9)]).tolist() == [0, 1, 0, 1]
    nothing = np.zeros((4, 2), np.float16)
    assert find_leaders([space(nothing, 0.9), space(second, 0.9)]).tolist() == [0, 1, 0, 0]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 16))
def test_hashes_are_alike_by_the_bits_in_which_they_differ(seed: int, bits: int) -> None:
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, 60, np.uint64)
    hashes[30:] = hashes[:30]
    for row, flips in enumerate(random.integers(0, 20, 30)):
        for bit in random.choice(64, flips, replace=False):
            hashes[30 + row] ^= np.uint64(1) << np.uint64(bit)
    has_hash = random.random(60) < 0.9
    found = find_leaders([hash_space(hashes, has_hash, bits)])
    for row, leader in enumerate(found):
        differing = np.bitwise_count(hashes[:row] ^ hashes[row])
        leads = has_hash[:row] & has_hash[row] & (found[:row] == np.arange(row)) & (differing <= bits)
        assert bool(leads.any()) == (leader != row) and (leader == row or differing[leader] <= bits)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    find_leaders([space(vectors(5, 3000), 0.9)], lambda done, total: told.append((done, total)))
    assert told[-1] == (3000, 3000) and told == sorted(told)


def test_cells_are_the_same_again_and_empty_ones_do_no_harm() -> None:
    made = vectors(6, 500)
    one, other = Cells.of(made, cells=20, probes=3), Cells.of(made, cells=20, probes=3)
    np.testing.assert_array_equal(one.probes_NP, other.probes_NP)
    assert one.probes_NP.shape == (500, 3) and (one.homes_N[49::50] == -1).all()
    assert Cells.of(made[:0]).probes_NP.shape == (0, 1)
    assert Cells.of(np.zeros((3, 4), np.float16)).homes_N.tolist() == [-1] * 3
    assert Cells.of(made[:5], cells=50).probes_NP.shape == (5, 5)
