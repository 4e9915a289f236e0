"""Content hashes: one canonical form for everything that an id is made of."""

from __future__ import annotations

import hashlib
import json
from typing import Any

DIGEST_LENGTH = 16  # hexadecimal characters, 64 bits: no collision to fear below a billion ids


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the short content hash of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGEST_LENGTH]
