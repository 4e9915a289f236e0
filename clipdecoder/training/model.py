"""Head, joint projection and, in fine-tuning, backbone as one module whose forward pass is the loss.

One module, so that optimiser, moving average and DistributedDataParallel see every parameter there is.

Shapes: B images of this process, T patch tokens, K labels of the step, H W pixels, C token width, D width inside the
head, P width of the contrastive space, Q query width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipdecoder.heads.group_head import GroupHead, Head
from clipdecoder.training.batches import Batch
from clipdecoder.training.distributed import gather_rows
from clipdecoder.training.loss import JointProjection, asymmetric_loss, contrastive_loss, distillation_loss
from schemas.errors import ConfigError
from schemas.training import TrainConfig

if TYPE_CHECKING:
    # Importing it takes seconds, and training from stored tokens needs no backbone.
    from clipdecoder.encoders.backbone import Backbone

Losses = dict[str, Tensor]  # "loss", the weighted sum, and its parts


class PixelTokens(nn.Module):
    """From pixels to patch tokens, with gradients where the backbone's parameters want them.

    The backbone stays in evaluation mode: its batch norms keep the statistics they were pretrained with, for which
    batches of fine-tuning are too small and an average of weights has none.
    """

    def __init__(self, backbone: Backbone, to_input: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.to_input = to_input

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Return x_BTC for uint8 pixels.

        Raises:
            ModelError: the backbone has no patch tokens.
        """
        tokens_BTC: Tensor | None = self.backbone(self.to_input(pixels_BHWC)).tokens_BTC
        assert tokens_BTC is not None
        return tokens_BTC

    def train(self, mode: bool = True) -> PixelTokens:
        """Do as asked, the backbone excepted."""
        super().train(mode)
        self.backbone.eval()
        return self


def count_trained(backbone: Backbone, finetune: str | int) -> int:
    """Return how many of the last blocks `finetune` means: "none", "all", or a number.

    Raises:
        ConfigError: the backbone has fewer.
    """
    num_blocks = len(backbone.blocks())
    trained = int({"none": 0, "all": num_blocks}.get(str(finetune), finetune))
    if trained > num_blocks:
        raise ConfigError(f"finetune = {finetune}, and the backbone has {num_blocks} blocks; use at most that, or all")
    return trained


def unfreeze(backbone: Backbone, finetune: str | int) -> int:
    """Let `finetune` of the backbone be trained; see `count_trained`. Return how many weights.

    Raises:
        ConfigError: it has fewer blocks.
    """
    blocks, num_trained = backbone.blocks(), count_trained(backbone, finetune)
    backbone.requires_grad_(False)
    trained = [parameter for block in blocks[len(blocks) - num_trained :] for parameter in block]
    for parameter in trained:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in trained)


class TrainingModel(nn.Module):
    """Everything that is trained.

    Args:
        head: the decoder.
        config: the recipe: weights of the losses, dropout of tokens.
        queries_KQ: text queries of the trained labels.
        tokens_of: from pixels to patch tokens; None where the inputs are tokens.
    """

    queries_KQ: Tensor

    def __init__(
        self, head: Head, config: TrainConfig, queries_KQ: NDArray[np.float32], tokens_of: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.head = head
        self.config = config
        self.joint = JointProjection(config.width, config.projection_width) if config.alpha else None
        self.tokens_of = tokens_of
        self.register_buffer("queries_KQ", torch.tensor(queries_KQ), persistent=False)

    def forward(self, batch: Batch) -> Losses:
        """Return the loss over the whole batch, of all processes, and its parts unweighted."""
        x_BTC = self._drop_tokens(self.tokens(batch.inputs))
        x_BTD = self.head.inputs.project_tokens(x_BTC)
        queries_KQ = self.queries_KQ[batch.columns_K]
        logits_BK = self._decode(x_BTD, batch.columns_K, queries_KQ)
        # A 16-bit loss is not finite at large logits, and its gradients vanish at small ones.
        with torch.autocast(x_BTD.device.type, enabled=False):
            parts = self._parts(gather_rows(logits_BK.float()), batch)
            if self.joint is not None:
                image_BP = self.joint(x_BTD.float().mean(dim=1))
                text_KP = self.joint(self.head.inputs.project_queries(queries_KQ))
                joint_BK = self.joint.logits(gather_rows(image_BP), text_KP)
                parts["contrastive"] = contrastive_loss(joint_BK, batch.targets_BK)
        return {"loss": self._weighted(parts), **parts}

    def tokens(self, inputs: Tensor) -> Tensor:
        """Return x_BTC of inputs, which are tokens already or pixels."""
        x_BTC: Tensor = inputs if self.tokens_of is None else self.tokens_of(inputs)
        return x_BTC

    def _decode(self, x_BTD: Tensor, columns_K: Tensor, queries_KQ: Tensor) -> Tensor:
        if isinstance(self.head, GroupHead):
            return self.head.decode(x_BTD)[:, columns_K]
        return self.head.decode(x_BTD, self.head.prepare(queries_KQ))

    def _parts(self, logits_BK: Tensor, batch: Batch) -> Losses:
        config = self.config
        parts: Losses = {}
        if config.beta:
            parts["asymmetric"] = asymmetric_loss(
                logits_BK,
                batch.targets_BK,
                gamma_neg=config.gamma_neg,
                gamma_pos=config.gamma_pos,
                probability_clip=config.probability_clip,
            )
        if batch.teacher_BK is not None:
            parts["distillation"] = distillation_loss(logits_BK, batch.teacher_BK)
        return parts

    def _weighted(self, parts: Losses) -> Tensor:
        weights = {
            "asymmetric": self.config.beta,
            "contrastive": self.config.alpha,
            "distillation": self.config.distillation,
        }
        return torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()

    def _drop_tokens(self, x_BTC: Tensor) -> Tensor:
        """Leave out a share of each image's tokens in training; two remain at least."""
        if not (self.training and self.config.token_dropout):
            return x_BTC
        num_images, num_tokens, width = x_BTC.shape
        num_kept = max(2, round(num_tokens * (1 - self.config.token_dropout)))
        if num_kept >= num_tokens:
            return x_BTC
        kept_BT = torch.rand(num_images, num_tokens, device=x_BTC.device).argsort(dim=1)[:, :num_kept]
        return x_BTC.gather(1, kept_BT[:, :, None].expand(-1, -1, width))
