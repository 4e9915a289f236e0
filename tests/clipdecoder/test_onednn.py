"""Networks by oneDNN: the same numbers up to rounding, PyTorch's own layers wherever more than a product is wanted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from clipdecoder.encoders.model import load_model
from clipdecoder.encoders.open_clip_models import load_open_clip
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.onednn import use_onednn
from schemas.taxonomy import Label, Taxonomy
from schemas.training import HeadConfig

OURS = "mkldnn::_linear_pointwise"
HERE = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

ONE_LABEL = Taxonomy(name="one", labels=(Label(id="disc", name="disc"),))


def operators(network: Any, *inputs: Any, **options: Any) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        network(*inputs, **options)
    return {event.key for event in seen.key_averages()}


def self_attention(**changes: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(128, 4, **{"batch_first": True} | changes).eval()


def both(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    ours = copy.deepcopy(network)
    use_onednn(ours)
    return network, ours


@pytest.mark.parametrize("network", ["bundled:scenes", "vit_tiny_patch16_224", "convnext_atto"])
def test_a_tower_gives_the_same_embeddings(network: str) -> None:
    torch.manual_seed(0)
    tower: Any = (
        load_open_clip(network).network.visual  # type: ignore[union-attr]
        if ":" in network
        else timm.create_model(network, num_classes=0, **({"img_size": 64} if "vit" in network else {})).eval()
    )
    plain, ours = both(tower)
    x_BCHW = torch.randn(8, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x_BCHW), plain(x_BCHW), rtol=1e-4, atol=2e-5)
        cosine_B = torch.cosine_similarity(ours(x_BCHW).double(), plain(x_BCHW).double())
    assert cosine_B.min() > 1 - 1e-6
    assert ours.state_dict().keys() == plain.state_dict().keys()


def test_a_head_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    plain, ours = both(TextQueryHead(HeadConfig(token_width=128, query_width=96)).eval())
    x_BTC, queries_KC = torch.randn(4, 9, 128), nn.functional.normalize(torch.randn(30, 96), dim=-1)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x_BTC, queries_KC), plain(x_BTC, queries_KC), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not HERE, reason="this processor gains nothing by it")
def test_encoders_take_it_and_a_pictures_bits_do_not_depend_on_the_others() -> None:
    encoder = load_model("bundled:scenes", device="cpu").image
    pixels_BHWC = torch.randint(0, 256, (24, 64, 64, 3), dtype=torch.uint8)
    whole_BD = encoder.device_encode(pixels_BHWC, tokens=False).embeddings_BD
    assert OURS in operators(encoder.device_encode, pixels_BHWC, tokens=False)
    for first, last in ((0, 8), (8, 24), (16, 24)):
        part_BD = encoder.device_encode(pixels_BHWC[first:last], tokens=False).embeddings_BD
        assert torch.equal(part_BD, whole_BD[first:last])


@pytest.mark.skipif(not HERE, reason="this processor gains nothing by it")
def test_attention_takes_it_under_the_mask_of_a_causal_tower_alone() -> None:
    _, ours = both(self_attention())
    x_BTD, later_TT = torch.randn(2, 5, 128), torch.ones(5, 5).triu(1)
    with torch.inference_mode():
        added = operators(ours, x_BTD, x_BTD, x_BTD, need_weights=False, attn_mask=later_TT * -1e9)
        boolean = operators(ours, x_BTD, x_BTD, x_BTD, need_weights=False, attn_mask=later_TT.bool())
    assert OURS in added and OURS not in boolean
    text = load_model("bundled:scenes", device="cpu").text
    assert OURS in operators(text.encode_vocabulary, ONE_LABEL.vocabulary())


@pytest.mark.skipif(not HERE, reason="this processor gains nothing by it")
def test_training_and_other_types_meet_pytorchs_own_layers() -> None:
    layer = nn.Linear(128, 128)
    use_onednn(layer)
    x_BD = torch.randn(3, 128)
    layer(x_BD).sum().backward()
    assert layer.weight.grad is not None and OURS not in operators(layer, x_BD)
    with torch.inference_mode():
        assert OURS in operators(layer, x_BD)
        with torch.autocast("cpu", torch.bfloat16):
            assert OURS not in operators(layer, x_BD) and layer(x_BD).dtype == torch.bfloat16
        assert OURS not in operators(copy.deepcopy(layer).double(), x_BD.double())
    small = nn.Linear(64, 64)
    use_onednn(small)
    with torch.inference_mode():
        assert OURS not in operators(small, torch.randn(3, 64))


@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"add_bias_kv": True}, {"kdim": 64, "vdim": 64}])
@pytest.mark.parametrize("case", ["self", "mask", "weights", "other keys"])
def test_attention_gives_the_same_whatever_is_asked_of_it(changes: dict[str, Any], case: str) -> None:
    if case != "other keys" and "kdim" in changes:
        pytest.skip("keys of another width are never the queries themselves")
    plain, ours = both(self_attention(**changes))
    x_BTD = torch.randn(2, 5, 128)
    other_BTD = torch.randn(2, 7, changes.get("kdim", 128)) if case == "other keys" else x_BTD
    options: dict[str, Any] = {"need_weights": case == "weights"}
    if case == "mask":
        options["attn_mask"] = torch.full((5, 5), -torch.inf).triu(1)
    with torch.inference_mode():
        found, expected = (net(x_BTD, other_BTD, other_BTD, **options) for net in (ours, plain))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (found[1] is None) == (expected[1] is None)
