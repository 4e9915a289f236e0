"""Columns of vectors: bit for bit, also of a part of a column, with and without rows that have none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.vectors import vector_column, vector_width, vectors_of


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_vectors_come_back(there: list[bool], start: int, stop: int) -> None:
    is_there_N = np.array(there, bool)
    vectors_ND = np.random.default_rng(len(there)).normal(size=(len(there), 3)).astype(np.float16)
    column = vector_column(vectors_ND, None if is_there_N.all() else is_there_N)[start:stop]
    found_VD, mask_N = vectors_of(column)
    kept_N = is_there_N[start:stop]
    assert found_VD.tobytes() == vectors_ND[start:stop][kept_N].tobytes() and found_VD.shape[1] == 3
    assert (mask_N is None) if kept_N.all() else (mask_N is not None and mask_N.tolist() == kept_N.tolist())


def test_a_whole_column_is_read_without_a_copy() -> None:
    column = vector_column(np.ones((5, 4), np.float16))
    found_ND, _ = vectors_of(column)
    assert found_ND.ctypes.data == column.buffers()[1].address


def test_another_kind_of_column_is_refused() -> None:
    assert vector_width(pa.binary(24)) == 12
    with pytest.raises(ValueError, match=r"vectors were expected, not fixed_size_list<item: halffloat>\[3\]"):
        vector_width(pa.list_(pa.float16(), 3))
