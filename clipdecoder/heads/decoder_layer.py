"""One decoder layer of ML-Decoder: queries look at patch tokens, never at each other.

Ridnik et al. 2021, arXiv:2111.12933: cross-attention, a feed-forward part, no self-attention.

Shapes: B batch, T patch tokens, K queries, D width inside the head, H attention heads, E width of one attention head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdecoder.heads.dropout import Dropout
from schemas.training import HeadConfig


@dataclass(frozen=True)
class PreparedQueries:
    """Everything about a vocabulary that does not depend on the image: computed once, used for every batch."""

    h_KD: Tensor  # projected and normalised
    q_HKE: Tensor  # the attention's queries

    def __len__(self) -> int:
        return len(self.h_KD)

    def __getitem__(self, part: slice) -> PreparedQueries:
        return PreparedQueries(self.h_KD[part], self.q_HKE[:, part])

    @classmethod
    def join(cls, parts: Sequence[PreparedQueries]) -> PreparedQueries:
        """Return the parts of a vocabulary, in order, as one."""
        return cls(torch.cat([part.h_KD for part in parts]), torch.cat([part.q_HKE for part in parts], dim=1))


class DecoderLayer(nn.Module):
    """Cross-attention and feed-forward with a residual and a LayerNorm after each, as in the paper.

    Attention weights have no dropout, which keeps PyTorch's fused kernels in training on GPUs; what is drawn from
    tokens and what the feed-forward part adds have.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.query = nn.Linear(width, width)
        # A key's bias would add the same to all of a query's attention logits, which softmax takes off again.
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.linear1 = nn.Linear(width, config.feedforward_width)
        self.linear2 = nn.Linear(config.feedforward_width, width)
        self.dropout = Dropout(config.dropout)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)

    def prepare(self, queries_KD: Tensor) -> PreparedQueries:
        """Return the queries normalised and projected for attention."""
        # Upstream adds the query to itself; LayerNorm takes the factor out again, but for its epsilon.
        h_KD = self.norm1(2 * queries_KD)
        return PreparedQueries(h_KD, self._split(self.query(h_KD)))

    def keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return k_BHTE and v_BHTE: once per image, whatever the number of queries."""
        return self._split(self.key(x_BTD)), self._split(self.value(x_BTD))

    def forward(self, keys_values: tuple[Tensor, Tensor], queries: PreparedQueries) -> Tensor:
        """Return h_BKD, each query's vector after it has looked at each image."""
        k_BHTE, v_BHTE = keys_values
        seen_BHKE = attend(queries.q_HKE.to(k_BHTE.dtype), k_BHTE, v_BHTE)
        attended_BKD = self.out(seen_BHKE.transpose(1, 2).flatten(2))
        h_BKD = self.norm2(queries.h_KD + self.dropout(attended_BKD))
        # In place: the hidden layer is the widest there is, and a second copy of it would not fit in the cache.
        added_BKD = self.linear2(self.dropout(F.relu(self.linear1(h_BKD), inplace=True)))
        out_BKD: Tensor = self.norm3(h_BKD + self.dropout(added_BKD))
        return out_BKD

    def _split(self, x: Tensor) -> Tensor:
        """Move attention heads in front: (..., L, D) to (..., H, L, E)."""
        return x.reshape(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads).transpose(-2, -3)


def attend(q_HKE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """Return seen_BHKE: what each query draws from the tokens of each image."""
    if torch.is_grad_enabled() and k_BHTE.device.type == "cpu":
        # Plain products: in bfloat16 the fused kernel for processors takes 140 ms, most of it for gradients, and these
        # take 18; in float32 it is no faster than they are.
        share_BHKT = ((q_HKE * q_HKE.shape[-1] ** -0.5) @ k_BHTE.transpose(-2, -1)).softmax(dim=-1)
        seen_BHKE: Tensor = share_BHKT @ v_BHTE
        return seen_BHKE
    return F.scaled_dot_product_attention(q_HKE.expand(len(k_BHTE), -1, -1, -1), k_BHTE, v_BHTE)
