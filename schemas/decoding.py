"""How files become pixels: exactly, or faster and nearly so. It is part of a model's name and of its `encoder_id`.

    bundled:scenes             exact
    bundled:scenes+fast        JPEGs decoded at a half, a quarter or an eighth of their size where that is enough

A name with its suffix finds the same encoder again, so whatever remembers a model's name remembers this too.
"""

from __future__ import annotations

from typing import Literal

from schemas.errors import ModelError

Decode = Literal["exact", "fast"]


_SUFFIXES: dict[Decode, str] = {"fast": "+fast"}
_MAY_FOLLOW = ("", "+bf16", "+fp16")  # suffixes stand in any order: see schemas.precision


def split_name(name: str) -> tuple[str, Decode]:
    """Return a model's name without the suffix of a way of decoding, and how its files are decoded."""
    for decode, suffix in _SUFFIXES.items():
        bare, found, rest = name.rpartition(suffix)
        if found and rest in _MAY_FOLLOW:
            return bare + rest, decode
    return name, "exact"


def decoding_name(name: str, decode: Decode | None) -> str:
    """Return a model's name with the suffix of the decoding that is asked for; None: as the name says.

    Raises:
        ModelError: the name has the suffix of another one.
    """
    bare, own = split_name(name)
    if decode is None or decode == own:
        return name
    if own != "exact":
        raise ModelError(f"{name!r} decodes {own}, and --decode {decode} was asked for; leave one of the two out")
    return bare + _SUFFIXES[decode]
