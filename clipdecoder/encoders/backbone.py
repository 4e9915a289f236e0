"""Image towers as modules that give the pooled embedding and the patch tokens from one forward pass.

Shapes: B batch, C channels of a picture or numbers in a token, H W pixels, D embedding width, T patch tokens,
N tokens with prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import ModelError

_STEM_CONVOLUTIONS = 8


class Features(NamedTuple):
    """What a tower gives for a batch, as the network computes it: neither is normalised."""

    embeddings_BD: Tensor
    tokens_BTC: Tensor | None  # None where they were not asked for


class Backbone(nn.Module):
    """An image tower. `tower` holds every weight: the names in its `state_dict` are the library's own.

    Networks come frozen and in evaluation mode. Whoever trains one sets `requires_grad` on the parameters of the
    blocks that may move, and had better leave it in evaluation mode: batch norms then keep their statistics.
    """

    local = False  # whether patch tokens lie in the space of the text queries, each an embedding of its patch

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower: Any = tower
        self.training = tower.training

    @property
    def convolutional(self) -> bool:
        """Whether it is made of convolutions, beyond those that cut a picture into patches."""
        return sum(isinstance(module, nn.Conv2d) for module in self.tower.modules()) > _STEM_CONVOLUTIONS

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        """Return embeddings and, if asked for, patch tokens: the embeddings are the same numbers either way.

        Args:
            x_BCHW: float32, as `ImageTransform.to_device_input` gives it.
            tokens: whether tokens are wanted.

        Raises:
            ModelError: the tower has no patch tokens.
        """
        raise NotImplementedError

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the tower's blocks from input to output, each parameter in one of them.

        The first holds what comes before all blocks, the last also what comes after them (final norm, projection).
        """
        raise NotImplementedError


class TransformerBackbone(Backbone):
    """open_clip's own vision transformer: patch tokens of the last layer, after the final norm, times `proj`.

    They lie in the joint space of image and text, since `proj` is what takes the pooled token there.
    """

    local = True

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        """See `Backbone`. T is the number of patches: the class token is left out whatever the pooling."""
        if not tokens:
            return Features(self.tower(x_BCHW), None)
        # The tower's own `output_tokens` skips the final norm where that follows the pooling; this does not.
        out = self.tower.forward_intermediates(x_BCHW, indices=1, normalize_intermediates=True, output_fmt="NLC")
        return Features(out["image_features"], out["image_intermediates"][-1] @ self.tower.proj)

    def blocks(self) -> list[list[nn.Parameter]]:
        """See `Backbone`: the stem, then one block per layer."""
        layers = [list(layer.parameters()) for layer in self.tower.transformer.resblocks]
        layers[-1] += [*self.tower.ln_post.parameters(), self.tower.proj]
        return _with_stem(self.tower, layers)


class ResNetBackbone(Backbone):
    """CLIP's ResNet: its tokens are the feature map that the attention pooling reads, not in the joint space."""

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        """See `Backbone`. T is height times width of the map, a 32nd of the picture's each."""
        if not tokens:
            return Features(self.tower(x_BCHW), None)
        out = self.tower.forward_intermediates(x_BCHW, indices=1)
        return Features(out["image_features"], _flat(out["image_intermediates"][-1]))

    def blocks(self) -> list[list[nn.Parameter]]:
        """See `Backbone`: the stem, then one block per bottleneck."""
        stages = (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4)
        layers = [list(bottleneck.parameters()) for stage in stages for bottleneck in stage]
        layers[-1] += self.tower.attnpool.parameters()
        return _with_stem(self.tower, layers)


class TimmBackbone(Backbone):
    """A timm model without classifier, alone or inside open_clip's adapter, which adds a projection of its own.

    The embedding is what the model itself pools: the mean over the map, the class token, or its attention pooling,
    with any layer that it has between that and the classifier. Tokens are the map that it pools, without class token
    and registers.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__(tower)
        self._adapted = isinstance(tower, TimmModel)

    @property
    def trunk(self) -> Any:
        """The timm model itself."""
        return self.tower.trunk if self._adapted else self.tower

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        """See `Backbone`."""
        map_B = self.trunk.forward_features(x_BCHW)
        embeddings_BD = self.trunk.forward_head(map_B)
        if self._adapted:
            embeddings_BD = self.tower.head(embeddings_BD)
        return Features(embeddings_BD, self._tokens(map_B) if tokens else None)

    def blocks(self) -> list[list[nn.Parameter]]:
        """See `Backbone`: the groups that timm itself makes for layer-wise learning rates."""
        groups = group_parameters(self.trunk, self.trunk.group_matcher(coarse=False))
        blocks: list[list[nn.Parameter]] = []
        for names in groups.values():
            parameters = [self.trunk.get_parameter(name) for name in names]
            # timm has a group for what follows the last block; here it is that block's.
            if blocks and not any(re.search(r"\.\d+\.", name) for name in names):
                blocks[-1] += parameters
            else:
                blocks.append(parameters)
        if self._adapted:
            blocks[-1] += self.tower.head.parameters()
        return blocks

    def _tokens(self, map_B: Any) -> Tensor:
        """Return tokens_BTC from a map (B, C, H, W) or (B, H, W, C), or from tokens with prefixes (B, N, C)."""
        if isinstance(map_B, Tensor) and map_B.ndim == 4:
            channels_last = getattr(self.trunk, "output_fmt", "NCHW") == "NHWC"
            return map_B.flatten(1, 2) if channels_last else _flat(map_B)
        if isinstance(map_B, Tensor) and map_B.ndim == 3:
            # Models with a class token and without the attribute put that one token first.
            return map_B[:, int(getattr(self.trunk, "num_prefix_tokens", hasattr(self.trunk, "cls_token"))) :]
        raise ModelError(f"{type(self.trunk).__name__} gives no feature map: nothing to make patch tokens of")


class PooledBackbone(Backbone):
    """A tower that hands out its embedding only, as those of CoCa do, whose learnt queries pool all patches."""

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        """See `Backbone`: tokens are refused."""
        if tokens:
            raise ModelError(
                f"this {type(self.tower).__name__} pools its patches by attention, and what it hands out beside the "
                "embedding are no patch tokens; take a model of another architecture, e.g. ViT-B-16"
            )
        out = self.tower(x_BCHW)
        # CoCa's `encode_image` normalises; other networks with such a tower hand out the plain tensor.
        return Features(F.normalize(out[0], dim=-1) if isinstance(out, tuple) else out, None)

    def blocks(self) -> list[list[nn.Parameter]]:
        """See `Backbone`: one block, all of it."""
        return [list(self.tower.parameters())]


def open_clip_backbone(visual: nn.Module) -> Backbone:
    """Return the backbone of open_clip's `visual`, whatever the architecture."""
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return TransformerBackbone(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetBackbone(visual)
    return TimmBackbone(visual) if isinstance(visual, TimmModel) else PooledBackbone(visual)


def _flat(map_BCHW: Tensor) -> Tensor:
    return map_BCHW.flatten(2).transpose(1, 2)


def _with_stem(tower: nn.Module, blocks: Iterable[list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Put before `blocks` the parameters that are in none of them."""
    blocks = list(blocks)
    taken = {id(parameter) for block in blocks for parameter in block}
    return [[p for p in tower.parameters() if id(p) not in taken], *blocks]
