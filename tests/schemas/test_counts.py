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


@pytest.mark.parametrize(
    ("number", "verb", "said"),
    [
        (1, "are", "1 label is"),
        (2, "are", "2 labels are"),
        (0, "have", "0 labels have"),
        (1, "have", "1 label has"),
        (1, "were", "1 label was"),
        (1, "cannot", "1 label cannot"),
        (1, "stand", "1 label stands"),
    ],
)
def test_the_verb_agrees(number: int, verb: str, said: str) -> None:
    assert counted(number, "label", verb) == said
