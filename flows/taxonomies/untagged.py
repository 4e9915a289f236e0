"""A taxonomy whose name no dataset was tagged with: there is nothing to score for it, and nothing to learn from."""

from __future__ import annotations

from collections.abc import Collection

_NAMED = 5


def untagged_line(name: str, known: Collection[str]) -> str:
    """Say that no dataset was tagged under a taxonomy's name, and what to do.

    Args:
        name: of the taxonomy.
        known: names of the taxonomies that datasets were tagged with.
    """
    said = f"no dataset of the store was tagged with a taxonomy named {name!r} yet"
    step = "`clipdecoder tag SHARDS --taxonomy FILE` scores images for it"
    if not known:
        return f"{said}; {step}"
    first = sorted(known)[:_NAMED]
    more = f" and {len(known) - _NAMED} more" * (len(known) > _NAMED)
    return (
        f"{said} (datasets have {', '.join(map(repr, first))}{more}); {step}; if it is a new version of one of these, "
        f"write the old name (`name: {first[0]}`)"
    )
