"""The published form of ML-Decoder for large closed vocabularies: a few queries, each decoding a group of labels.

Ridnik et al. 2021, arXiv:2111.12933, section 3.3. With 100 groups for 1,000 labels an image costs about a tenth, and
the head scores no label but those it was trained on.

Shapes: B batch, T patch tokens, K labels, G groups, M labels per group, C width of tokens or queries as given, D width
inside the head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clipdecoder.heads.decoder_layer import DecoderLayer
from clipdecoder.heads.inputs import HeadInputs
from clipdecoder.heads.text_query_head import TextQueryHead
from schemas.errors import ModelError
from schemas.training import HeadConfig


class GroupHead(nn.Module):
    """Score labels in groups: neighbours in the vocabulary share a query, and each label has its own output weight.

    A group's query is the mean of its labels' text queries, so it starts near them all.
    """

    queries_GC: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = HeadInputs(config)
        self.layer = DecoderLayer(config)
        self.group_size = math.ceil(config.num_labels / config.groups)
        self.num_groups = math.ceil(config.num_labels / self.group_size)
        self.register_buffer("queries_GC", torch.zeros(self.num_groups, config.query_width))
        self.output_GDM = nn.Parameter(torch.empty(self.num_groups, config.width, self.group_size))
        self.output_bias_K = nn.Parameter(torch.zeros(config.num_labels))
        nn.init.normal_(self.output_GDM, std=config.width**-0.5)

    def fit_statistics(self, x_BTC: Tensor, queries_KC: Tensor) -> None:
        """Adapt to an encoder's scale and take the trained labels' text queries in, before training.

        Raises:
            ModelError: another number of labels than the head is made for.
        """
        if len(queries_KC) != self.config.num_labels:
            raise ModelError(
                f"a head with groups scores exactly the {self.config.num_labels} labels it is made for, got "
                f"{len(queries_KC)}: for novel labels train a head with groups = 0"
            )
        self.inputs.fit_statistics(x_BTC, queries_KC)
        group_K = torch.arange(len(queries_KC), device=queries_KC.device) // self.group_size
        sums_GC = torch.zeros_like(self.queries_GC).index_add(0, group_K, queries_KC)
        self.queries_GC.copy_(sums_GC / group_K.bincount()[:, None])

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return logits_BK: float32, uncalibrated, one column per trained label in order.

        Raises:
            ModelError: one token only, or tokens of another width than the head was trained with.
        """
        return self.decode(self.inputs.project_tokens(x_BTC))

    def decode(self, x_BTD: Tensor) -> Tensor:
        """Return logits_BK for projected tokens; see `forward`."""
        prepared = self.layer.prepare(self.inputs.project_queries(self.queries_GC))
        h_BGD = self.layer(self.layer.keys_values(x_BTD), prepared)
        logits_BGM = torch.einsum("bgd,gdm->bgm", h_BGD, self.output_GDM.to(h_BGD.dtype))
        return logits_BGM.flatten(1)[:, : self.config.num_labels].float() + self.output_bias_K.float()


Head = TextQueryHead | GroupHead


def build_head(config: HeadConfig) -> Head:
    """Return a new head of this shape: with groups where the shape has them."""
    return GroupHead(config) if config.groups else TextQueryHead(config)
