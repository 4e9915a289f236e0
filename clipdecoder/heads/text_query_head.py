"""ML-Decoder head with text queries (Ridnik et al. 2021, arXiv:2111.12933; Ali & Khan 2024, arXiv:2406.14830).

Shapes: B batch, T patch tokens, K labels, C width of tokens or queries as given, D width inside the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdecoder.heads.cost import chunk_bytes, chunk_size
from clipdecoder.heads.decoder_layer import DecoderLayer, PreparedQueries
from clipdecoder.heads.inputs import HeadInputs
from schemas.training import HeadConfig

LABELS_AT_ONCE = 2048  # while a vocabulary is prepared


class TextQueryHead(nn.Module):
    """Score each label with its own cross-attention query and one shared output weight.

    Queries never attend to each other, so a label's logit does not depend on which other labels are scored: any
    vocabulary, in any order, in chunks.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = HeadInputs(config)
        self.layer = DecoderLayer(config)
        self.output = nn.Linear(config.width, 1)
        # What the cosine of a label's final vector with its own query counts, beside the shared output weight.
        self.residual_scale = nn.Parameter(torch.ones(())) if config.residual else None

    def prepare(self, queries_KC: Tensor) -> PreparedQueries:
        """Return what does not depend on the image, for L2-normalised text queries.

        Raises:
            ModelError: the queries are not of the width that the head was trained with.
        """
        size = len(queries_KC) if torch.is_grad_enabled() else LABELS_AT_ONCE
        parts = torch.split(queries_KC, max(1, size))
        return PreparedQueries.join([self.layer.prepare(self.inputs.project_queries(part)) for part in parts])

    def forward(self, x_BTC: Tensor, queries: Tensor | PreparedQueries, *, max_bytes: int | None = None) -> Tensor:
        """Return logits_BK: float32, uncalibrated, one column per query in order.

        Args:
            x_BTC: patch tokens as the backbone gives them, of any float type.
            queries: text queries_KC, or what `prepare` made of them.
            max_bytes: labels are scored in chunks whose activations stay below about this, by default as suits the
                device. It changes no logit.

        Raises:
            ModelError: one token only, or tokens or queries of another width than the head was trained with.
        """
        prepared = queries if isinstance(queries, PreparedQueries) else self.prepare(queries)
        return self.decode(self.inputs.project_tokens(x_BTC), prepared, max_bytes=max_bytes)

    def fit_statistics(self, x_BTC: Tensor, queries_KC: Tensor) -> None:
        """Adapt to an encoder's scale, before training: from a sample of its tokens and the trained labels' queries."""
        self.inputs.fit_statistics(x_BTC, queries_KC)

    def decode(self, x_BTD: Tensor, prepared: PreparedQueries, *, max_bytes: int | None = None) -> Tensor:
        """Return logits_BK for projected tokens; see `forward`."""
        keys_values = self.layer.keys_values(x_BTD)
        budget = max_bytes if max_bytes is not None else chunk_bytes(x_BTD.device.type)
        # With gradients too: all chunks' activations are kept then, but each is in the cache for what comes next.
        size = chunk_size(self.config, len(x_BTD), budget)
        chunks = [prepared[start : start + size] for start in range(0, len(prepared), size or 1)]
        empty_B0 = torch.zeros(len(x_BTD), 0, device=x_BTD.device)
        return torch.cat([empty_B0, *(self._score(keys_values, chunk) for chunk in chunks)], dim=1)

    def _score(self, keys_values: tuple[Tensor, Tensor], queries: PreparedQueries) -> Tensor:
        h_BKD = self.layer(keys_values, queries)
        logits_BK: Tensor = self.output(h_BKD).squeeze(-1).float()
        if self.residual_scale is not None:
            query_KD = F.normalize(queries.h_KD.float(), dim=-1)
            cosine_BK = torch.einsum("bkd,kd->bk", F.normalize(h_BKD.float(), dim=-1), query_KD)
            logits_BK = logits_BK + self.residual_scale * cosine_BK
        return logits_BK
