"""Commands that are printed for a person to copy: a path or a name in them may hold anything.

A command about a store names it where the command line would take another one by default.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import ConfigError

# What schemas.config says as well; importing that costs a fifth of a second. A test keeps them equal.
DEFAULT_STORE = "store"
SETTINGS_FILE = "clipdecoder.toml"
SETTINGS_PREFIX = "CLIPDECODER_"

_IN_DOUBLE_QUOTES = frozenset('"$`\\!')  # what a shell does not take as it is there
_stores: list[str | None] = []  # the last one is what is worked on; of the process, as threads print commands too


def shell(*words: str) -> str:
    """Return words as a person would type them for a shell, which makes these words of it again.

    A word with single quotes, of which SQL is full, stands in double ones where that is safe.
    """
    return " ".join(map(_quoted, words))


def store_command(*words: str, store: str | None = None) -> str:
    """Return a command of `clipdecoder` about a store, to be copied.

    Args:
        words: of the command, without its store.
        store: URL; None: the store that `commands_about` was told, if any.
    """
    url = store if store is not None else next(reversed(_stores), None)
    return shell("clipdecoder", *words, *([] if url is None or _is_default(url) else ["--store", url]))


@contextmanager
def commands_about(store: str | None) -> Iterator[None]:
    """Let commands that are printed in the block be about a store; None: they name none."""
    _stores.append(store)
    try:
        yield
    finally:
        _stores.pop()


def default_store() -> str:
    """Return the store of a command that names none: the setting.

    Raises:
        ConfigError: the settings cannot be read.
    """
    if not Path(SETTINGS_FILE).exists() and not any(name.upper().startswith(SETTINGS_PREFIX) for name in os.environ):
        return DEFAULT_STORE  # nothing is set: most commands of a day need not load what reads settings
    from schemas.config import load_settings

    return load_settings().store


def _is_default(store: str) -> bool:
    with suppress(ConfigError):  # settings that cannot be read are no default
        return store == default_store()
    return False


def _quoted(word: str) -> str:
    return f'"{word}"' if "'" in word and not set(word) & _IN_DOUBLE_QUOTES else shlex.quote(word)
