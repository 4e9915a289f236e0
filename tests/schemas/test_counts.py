"""Counts with their nouns."""

from __future__ import annotations

import pytest

from schemas.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "label", "0 labels"),
        (1, "label", "1 label"),
        (2000, "held-out image", "2,000 held-out images"),
        (1, "query", "1 query"),
        (3, "query", "3 queries"),
        (2, "key", "2 keys"),
    ],
)
def test_one_is_not_many(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
