"""Commands that are printed for a person to copy: a path or a name in them may hold anything."""

from __future__ import annotations

import shlex

_IN_DOUBLE_QUOTES = frozenset('"$`\\!')  # what a shell does not take as it is there


def shell(*words: str) -> str:
    """Return words as a person would type them for a shell, which makes these words of it again.

    A word with single quotes, of which SQL is full, stands in double ones where that is safe.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    return f'"{word}"' if "'" in word and not set(word) & _IN_DOUBLE_QUOTES else shlex.quote(word)
