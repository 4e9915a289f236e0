"""How many of what, in words."""

from __future__ import annotations

import re

_IES = re.compile(r"(?<=[^aeiou])y$")
_OF_ONE = {"are": "is", "were": "was", "have": "has", "do": "does", "cannot": "cannot", "may": "may"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """Return a count with its noun: `1 label`, `2,000 labels`, `0 queries`, `1 label is`.

    Args:
        number: 0 or more.
        noun: in the singular, regular in the plural; words may stand before it.
        verb: that follows, as it is in the plural; any but those named above is regular.
    """
    return " ".join(filter(None, (f"{number:,} {noun if number == 1 else _many(noun)}", _agreeing(number, verb))))


def _agreeing(number: int, verb: str) -> str:
    """Return a verb, given as it is in the plural, as it is of so many: `are` of 1 is `is`."""
    return verb if number != 1 or not verb else _OF_ONE.get(verb, f"{verb}s")


def _many(noun: str) -> str:
    return f"{_IES.sub('ie', noun)}s"
