"""Short texts: the embeddings of the whole context, without the work for it."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch

from clipdecoder.encoders.short_texts import encode_texts
from clipdecoder.onednn import use_onednn

CONTEXT, WORDS = 77, 100
VISION = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
TEXT = {"context_length": CONTEXT, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 2}


def network(custom: bool = False, **text: Any) -> Any:
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT | text).eval()


def texts_of(*lengths: int) -> torch.Tensor:
    """Return random texts of so many tokens, their end included: the last word of the vocabulary, as CLIP has it."""
    tokens_ML = torch.zeros(len(lengths), CONTEXT, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens_ML[row, : length - 1] = torch.randint(1, WORDS - 1, (length - 1,))
        tokens_ML[row, length - 1] = WORDS - 1
    return tokens_ML


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"pool_type": "eos", "eos_id": WORDS - 1},
        {"proj_type": "none", "width": 16},
        {"proj_bias": True},
        {"pool_type": "last"},
        {"no_causal_mask": True},
        {"custom": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [(1,), (3, 16, 2), (17,), (60, 5), (77, 1)], ids=str)
def test_embeddings_are_those_of_the_whole_context(text: dict[str, Any], lengths: tuple[int, ...]) -> None:
    tower, tokens_ML = network(**text), texts_of(*lengths)
    with torch.inference_mode():
        torch.testing.assert_close(encode_texts(tower, tokens_ML), tower.encode_text(tokens_ML), atol=2e-6, rtol=1e-5)


def test_what_is_behind_the_end_of_a_text_is_not_computed() -> None:
    tower, seen = network(), []
    tower.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    with torch.inference_mode():
        encode_texts(tower, texts_of(4, 17, 9, 2, 8))
    assert [(rows, length) for rows, length, _ in seen] == [(8, 4), (8, 8), (8, 12), (8, 20)]


@pytest.mark.parametrize("text", [{}, {"no_causal_mask": True}, {"custom": True}], ids=str)
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("onednn", [False, True])
def test_a_text_has_the_same_bits_in_any_company(text: dict[str, Any], width: int, onednn: bool) -> None:
    tower = network(**({"width": width, "heads": 2, "custom": False} | text))
    if onednn:  # as a tower is on a processor
        use_onednn(tower)
    tokens_ML = texts_of(*torch.randint(2, 40, (37,)).tolist())
    with torch.inference_mode():
        together = encode_texts(tower, tokens_ML)
        for size in (1, 2, 3, 5, 8, 20):
            parts = torch.cat([encode_texts(tower, part) for part in tokens_ML.split(size)])
            assert torch.equal(parts, together), size
        order = torch.randperm(len(tokens_ML))
        assert torch.equal(encode_texts(tower, tokens_ML[order]), together[order])
