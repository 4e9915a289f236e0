"""In which precision a backbone computes. A reduced one is part of a model's name and of its `encoder_id`.

    open_clip:ViT-B-32/openai          float32
    open_clip:ViT-B-32/openai+bf16     bfloat16 on a GPU; float32 on a processor, which is slower with less

Embeddings of a reduced precision have a cosine of 0.999 and more with those of float32, and scores move with them: so
the two do not mix under one id. As with the suffixes of schemas.decoding, a name finds the same encoder again.
"""

from __future__ import annotations

from typing import Literal

from schemas.errors import ModelError

Precision = Literal["float32", "bfloat16", "float16"]
PrecisionOption = Literal["auto", "float32", "bfloat16", "float16"]

_SUFFIXES: dict[Precision, str] = {"bfloat16": "+bf16", "float16": "+fp16"}
_MAY_FOLLOW = ("", "+fast")  # suffixes stand in any order


def split_precision(name: str) -> tuple[str, Precision]:
    """Return a model's name without the suffix of a precision, and the precision."""
    for precision, suffix in _SUFFIXES.items():
        bare, found, rest = name.rpartition(suffix)
        if found and rest in _MAY_FOLLOW:
            return bare + rest, precision
    return name, "float32"


def precision_name(name: str, precision: Precision) -> str:
    """Return a model's name with the suffix of a precision.

    Raises:
        ModelError: the name has the suffix of another one.
    """
    _, own = split_precision(name)
    if own == precision:
        return name
    if own != "float32":
        raise ModelError(f"{name!r} computes in {own}, and --precision {precision} was asked for; leave one out")
    return name + _SUFFIXES[precision]
