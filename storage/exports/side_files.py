"""Tags in a sample's `.json`: one key more, and everything else as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from schemas.export import TAGS_KEY


def with_tags(content: bytes | None, said: Mapping[str, Any]) -> bytes | None:
    """Return a `.json` with `said` under one key, or None if it is no JSON object and so can have no keys.

    A file that has no such key yet stays as it is, byte for byte, up to its last brace. One that was exported before
    has its values, and the new tags instead of the old ones.

    Args:
        content: the side file; None: the sample has none.
        said: what stands under the key.
    """
    if content is None:
        return json.dumps({TAGS_KEY: said}).encode()
    try:
        text = content.decode()
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if TAGS_KEY in value:
        return json.dumps({name: each for name, each in value.items() if name != TAGS_KEY} | {TAGS_KEY: said}).encode()
    before = text.rstrip().removesuffix("}").rstrip()
    return f"{before}{', ' if value else ''}{json.dumps(TAGS_KEY)}: {json.dumps(said)}}}".encode()
