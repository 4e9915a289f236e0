"""What a page may say of an error: its sentence, without where on this machine things lie."""

from __future__ import annotations

import re

# A URL or an absolute path with a folder in it. `store://` is the sandbox's own word for the files of a store.
_PLACE = re.compile(
    r"(?<![\w:/.])(?!store://)(?:[a-z][a-z0-9+.-]*://|/|~/|[A-Za-z]:\\)[^\s'\"<>,;()]*[/\\][^\s'\"<>,;()]*"
)


def without_places(message: str) -> str:
    """Return an error's message with every path and URL cut down to its last part."""
    return _PLACE.sub(lambda found: "…/" + re.split(r"[/\\]", found[0].rstrip("/\\:"))[-1], message)
