"""The nearest embeddings: what a plain sort in float64 says, whatever the chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdecoder.scoring.nearest import Nearest, nearest

WIDTH = 16


def embeddings(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def chunks(embeddings_ND: np.ndarray, cuts: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut rows into pieces, some of them empty; ids are ten times the row."""
    ids_N = 10 * np.arange(len(embeddings_ND), dtype=np.int64)
    return zip(np.split(ids_N, cuts), np.split(embeddings_ND, cuts), strict=True)


def sorted_plainly(query_D: np.ndarray, embeddings_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact_ND, exact_D = embeddings_ND.astype(np.float64), query_D.astype(np.float64)
    cosines = (exact_ND * exact_D).sum(axis=1) / np.linalg.norm(exact_ND, axis=1) / np.linalg.norm(exact_D)
    order = np.argsort(-cosines.round(13), kind="stable")
    return 10 * order, cosines[order]


def assert_same(one: Nearest, other: Nearest) -> None:
    assert one.ids.tolist() == other.ids.tolist() and one.cosines.tobytes() == other.cosines.tobytes()


@given(
    st.integers(0, 60),
    st.integers(1, 70),
    st.integers(0, 1000),
    st.lists(st.integers(0, 60), max_size=6),
    st.lists(st.integers(0, 59), max_size=20),
)
def test_it_is_what_a_sort_says_and_chunks_change_no_bit(
    count: int, top: int, seed: int, cuts: list[int], copies: list[int]
) -> None:
    embeddings_ND = embeddings(count, seed)
    for place, row in enumerate(copies[:count]):  # some pictures are there several times
        embeddings_ND[place] = embeddings_ND[row % count]
    query_D = 3 * np.random.default_rng(seed + 1).standard_normal(WIDTH).astype(np.float32)
    ids, cosines = sorted_plainly(query_D, embeddings_ND)
    whole = nearest(query_D, chunks(embeddings_ND, []), top=top)
    assert whole.ids.tolist() == ids[:top].tolist()
    np.testing.assert_allclose(whole.cosines, cosines[:top], rtol=0, atol=1e-12)
    assert whole.compared == count
    assert_same(nearest(query_D, chunks(embeddings_ND, sorted(cuts)), top=top), whole)


def test_equal_embeddings_stand_in_the_order_of_ids() -> None:
    embeddings_ND = np.repeat(embeddings(1), 5000, axis=0)
    found = nearest(embeddings_ND[0], chunks(embeddings_ND, [1, 700, 701, 4000]), top=4)
    assert found.ids.tolist() == [0, 10, 20, 30]
    np.testing.assert_allclose(found.cosines, 1, rtol=0, atol=1e-12)


def test_an_embedding_is_nearest_to_itself_though_float16_made_another_one_longer() -> None:
    embeddings_ND = embeddings(3000, width=512)
    for row in (0, 17, 2999):
        close_ND = np.concatenate([embeddings_ND, embeddings_ND[row : row + 1] * np.float16(1.0005)])
        assert nearest(embeddings_ND[row], chunks(close_ND, [1000]), top=2).ids.tolist()[0] == 10 * row


def test_none_is_below_the_least_cosine() -> None:
    embeddings_ND = embeddings(200)
    _, cosines = sorted_plainly(embeddings_ND[3], embeddings_ND)
    least = (cosines[6] + cosines[7]) / 2
    found = nearest(embeddings_ND[3], chunks(embeddings_ND, [50]), top=100, min_cosine=least)
    assert len(found.ids) == 7 and found.compared == 200
    assert len(nearest(embeddings_ND[3], chunks(embeddings_ND, []), top=5, min_cosine=least).ids) == 5


@pytest.mark.parametrize("width", [1, 512, 1536])
def test_of_nothing_nothing_is_found(width: int) -> None:
    found = nearest(np.ones(width), [(np.empty(0, np.int64), np.empty((0, width), np.float16))], top=3)
    assert (found.ids.tolist(), found.cosines.tolist(), found.compared) == ([], [], 0)
    assert nearest(np.ones(width), [], top=3).compared == 0
