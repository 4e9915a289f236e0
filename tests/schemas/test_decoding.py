"""How files are decoded is part of a model's name."""

from __future__ import annotations

import pytest

from schemas.decoding import Decode, decoding_name, split_name
from schemas.errors import ModelError


@pytest.mark.parametrize("bare", ["bundled:scenes", "open_clip:ViT-B-32/openai", "timm:a[mean=0.5]/b.safetensors"])
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_name_says_how_files_are_decoded(bare: str, decode: Decode) -> None:
    name = decoding_name(bare, decode)
    assert split_name(name) == (bare, decode)
    assert decoding_name(name, None) == decoding_name(name, decode) == name


def test_exact_is_what_a_bare_name_means() -> None:
    assert decoding_name("bundled:scenes", "exact") == decoding_name("bundled:scenes", None) == "bundled:scenes"
    assert decoding_name("bundled:scenes", "fast") == "bundled:scenes+fast"


def test_suffixes_stand_in_any_order() -> None:
    assert split_name("a+fast+bf16") == split_name("a+bf16+fast") == ("a+bf16", "fast")


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'bundled:scenes\+fast' decodes fast, and --decode exact was asked for"):
        decoding_name("bundled:scenes+fast", "exact")
