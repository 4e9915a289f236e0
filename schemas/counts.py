"""How many of what, in words."""

from __future__ import annotations

import re

_IES = re.compile(r"(?<=[^aeiou])y$")


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: `1 label`, `2,000 labels`, `0 queries`.

    Args:
        number: 0 or more.
        noun: in the singular, regular in the plural; words may stand before it.
    """
    plural = _IES.sub("ie", noun) + "s"
    return f"{number:,} {noun if number == 1 else plural}"
