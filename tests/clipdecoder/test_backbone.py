"""Every kind of tower: the embedding is the library's own to the bit, and tokens are what it pools."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from clipdecoder.encoders.backbone import Backbone, PooledBackbone, TimmBackbone, open_clip_backbone
from schemas.errors import ModelError

TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": [24, 40], "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 64}
ADAPTED = {"timm_model_name": "test_resnet", "image_size": 96}

# Vision configuration, expected T and C, whether tokens lie in the joint space.
TOWERS: dict[str, tuple[dict[str, Any], int, int, bool]] = {
    "class token": (VIT, 15, 64, True),
    "mean": (VIT | {"pool_type": "avg"}, 15, 64, True),
    "mean, then norm": (VIT | {"pool_type": "avg", "final_ln_after_pool": True}, 15, 64, True),
    "class token, fixed positions": (
        VIT | {"image_size": 32, "pos_embed_type": "sin_cos_2d", "patch_dropout": 0.5},
        *(16, 64, True),
    ),
    "no pooling": (VIT | {"pool_type": "none"}, 15, 64, True),
    "resnet": (RESNET, 4, 256, False),
    "timm, linear": (ADAPTED | {"timm_pool": "avg", "timm_proj": "linear"}, 9, 96, False),
    "timm, attention": (
        {"timm_model_name": "test_efficientnet", "image_size": 160, "timm_pool": "abs_attn", "timm_proj": ""},
        *(25, 256, False),
    ),
    "timm, vit": (
        {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "", "timm_proj": "linear"},
        *(100, 64, False),
    ),
}


def build(vision_cfg: dict[str, Any], **config: Any) -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(64, dict(vision_cfg), TEXT, **config).eval().requires_grad_(False)


@pytest.fixture(params=list(TOWERS), scope="module")
def tower(request: pytest.FixtureRequest) -> tuple[Any, Backbone, Tensor, tuple[int, int, bool]]:
    vision_cfg, num_tokens, token_width, local = TOWERS[request.param]
    network = build(vision_cfg)
    size = vision_cfg["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    x_BCHW = torch.randn(3, 3, height, width)
    return network, open_clip_backbone(network.visual), x_BCHW, (num_tokens, token_width, local)


@torch.no_grad()
def test_embeddings_are_the_librarys_own_and_tokens_have_their_shape(tower: Any) -> None:
    network, backbone, x_BCHW, (num_tokens, token_width, local) = tower
    with_tokens, without = backbone(x_BCHW), backbone(x_BCHW, tokens=False)
    assert torch.equal(with_tokens.embeddings_BD, network.encode_image(x_BCHW))
    assert torch.equal(without.embeddings_BD, with_tokens.embeddings_BD) and without.tokens_BTC is None
    assert with_tokens.tokens_BTC is not None
    assert with_tokens.tokens_BTC.shape == (3, num_tokens, token_width)
    assert backbone.local is local and not backbone.training


@torch.no_grad()
def test_tokens_of_a_tower_that_averages_give_the_embedding() -> None:
    network = build(TOWERS["mean"][0])
    out = open_clip_backbone(network.visual)(torch.randn(3, 3, 24, 40))
    torch.testing.assert_close(out.tokens_BTC.mean(dim=1), out.embeddings_BD, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_a_class_token_tower_are_normed_and_projected_patches() -> None:
    network = build(VIT)
    layer: list[Tensor] = []
    network.visual.ln_post.register_forward_hook(lambda module, inputs, output: layer.append(output))
    x_BCHW = torch.randn(2, 3, 24, 40)
    network.encode_image(x_BCHW)
    tokens_BTC = open_clip_backbone(network.visual)(x_BCHW).tokens_BTC
    assert torch.equal(tokens_BTC, layer[0][:, 1:] @ network.visual.proj)


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 7, 14])
def test_a_token_is_about_its_own_patch(place: int) -> None:
    """Row-major order: without attention between patches, a change in one patch is a change in one token."""
    network = build(VIT)
    for block in network.visual.transformer.resblocks:
        block.attn.out_proj.weight.zero_()
    backbone, x_BCHW = open_clip_backbone(network.visual), torch.randn(1, 3, 24, 40)
    changed = x_BCHW.clone()
    row, column = divmod(place, 5)
    changed[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 1
    moved_T = (backbone(x_BCHW).tokens_BTC - backbone(changed).tokens_BTC).abs().amax(dim=(0, 2)) > 1e-6
    assert moved_T.nonzero().flatten().tolist() == [place]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "num_tokens"),
    [("test_resnet", 25), ("test_vit", 100), ("test_mambaout", 25)],
)
def test_timm_maps_of_every_layout(name: str, num_tokens: int) -> None:
    network = timm.create_model(name, num_classes=0).eval()
    size = network.pretrained_cfg["input_size"]
    x_BCHW = torch.randn(2, *size)
    out = TimmBackbone(network)(x_BCHW)
    assert torch.equal(out.embeddings_BD, network(x_BCHW))
    assert out.tokens_BTC is not None and out.tokens_BTC.shape == (2, num_tokens, network.num_features)
    if name == "test_resnet":
        torch.testing.assert_close(out.tokens_BTC.mean(dim=1), out.embeddings_BD)


def test_the_transposed_map_keeps_places() -> None:
    class Trunk(nn.Module):
        output_fmt = "NHWC"

        def forward_features(self, x_BCHW: Tensor) -> Tensor:
            return x_BCHW.permute(0, 2, 3, 1)

        def forward_head(self, map_BHWC: Tensor) -> Tensor:
            return map_BHWC.mean(dim=(1, 2))

    x_BCHW = torch.randn(2, 3, 4, 5)
    assert torch.equal(TimmBackbone(Trunk())(x_BCHW).tokens_BTC, x_BCHW.flatten(2).transpose(1, 2))


class _Lists(nn.Module):
    def forward_features(self, x_BCHW: Tensor) -> list[Tensor]:
        return [x_BCHW]

    def forward_head(self, maps: list[Tensor]) -> Tensor:
        return maps[0].mean(dim=(2, 3))


def test_a_model_without_one_map_is_refused() -> None:
    backbone = TimmBackbone(_Lists())
    with pytest.raises(ModelError, match="no feature map"):
        backbone(torch.randn(1, 3, 4, 4))
    assert backbone(torch.randn(1, 3, 4, 4), tokens=False).tokens_BTC is None


@torch.no_grad()
@pytest.mark.parametrize("output_tokens", [True, False])
def test_a_tower_that_pools_by_attention_embeds_and_has_no_tokens(output_tokens: bool) -> None:
    vision_cfg = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": output_tokens}
    network = build(vision_cfg)
    backbone = open_clip_backbone(network.visual)
    assert isinstance(backbone, PooledBackbone)
    x_BCHW = torch.randn(2, 3, 24, 40)
    out = backbone(x_BCHW, tokens=False).embeddings_BD
    pooled = network.visual(x_BCHW)
    # CoCa has the kind that hands out two things, and normalises what it calls an image's embedding.
    assert torch.equal(out, torch.nn.functional.normalize(pooled[0], dim=-1) if output_tokens else pooled)
    with pytest.raises(ModelError, match="no patch tokens"):
        backbone(x_BCHW)


def test_blocks_hold_each_parameter_once_from_input_to_output(tower: Any) -> None:
    backbone = tower[1]
    blocks = backbone.blocks()
    ids = [id(parameter) for block in blocks for parameter in block]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in backbone.parameters()}
    assert len(blocks) > 2


def test_unfreezing_the_last_block_leaves_gradients_there_only() -> None:
    for vision_cfg, names in (
        (VIT, ("transformer.resblocks.2.", "ln_post.", "proj")),
        (RESNET, ("layer4.", "attnpool.")),
        (ADAPTED | {"timm_proj": "linear"}, ("trunk.layer4.", "head.")),
    ):
        backbone = open_clip_backbone(build(vision_cfg).visual)
        for parameter in backbone.blocks()[-1]:
            parameter.requires_grad_(True)
        size = vision_cfg["image_size"]
        out = backbone(torch.randn(2, 3, *((size, size) if isinstance(size, int) else size)))
        (out.embeddings_BD.square().sum() + out.tokens_BTC.square().sum()).backward()
        moved = {name for name, parameter in backbone.tower.named_parameters() if parameter.grad is not None}
        assert moved and all(name.startswith(names) for name in moved)
        assert moved == {name for name, _ in backbone.tower.named_parameters() if name.startswith(names)}


def test_what_follows_the_last_block_of_a_timm_model_belongs_to_it() -> None:
    network = timm.create_model("test_vit", num_classes=0)
    last = {id(parameter) for parameter in TimmBackbone(network).blocks()[-1]}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in last}
    depth = len(network.blocks)
    assert all(name.startswith((f"blocks.{depth - 1}.", "norm.", "fc_norm.")) for name in names)
    assert "norm.weight" in names
