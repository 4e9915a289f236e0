"""Names of exported pictures: all different, on disks that tell no case apart too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.exports.pictures import file_names

LETTERS = st.text(alphabet="aAbBßéÉ/. -2%", min_size=1, max_size=5)


@given(st.lists(LETTERS, unique=True, max_size=30))
def test_no_two_names_are_one_where_case_does_not_count(keys: list[str]) -> None:
    names = file_names(keys)
    assert [*names] == keys
    assert len({name.casefold() for name in names.values()}) == len(keys)
    assert all(name.isascii() and not name.startswith("/") and ".." not in name.split("/") for name in names.values())


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a", "b/c"], ["a", "b/c"]),
        (["a", "A", "b"], ["a", "A-2", "b"]),
        (["cat/Tom", "cat/tom", "Cat/tom"], ["cat/Tom", "cat/tom-2", "Cat/tom-3"]),
        (["a-2", "a", "A"], ["a-2", "a", "A-3"]),
        (["a", "A", "A-2"], ["a", "A-2", "A-2-2"]),
    ],
)
def test_the_first_of_each_name_keeps_it(keys: list[str], names: list[str]) -> None:
    assert list(file_names(keys).values()) == names
