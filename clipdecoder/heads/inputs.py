"""What a head does first: tokens and text queries of any encoder, standardised and brought to one width.

Shapes: B batch, T patch tokens, K labels, C width of tokens or queries as given, D width inside the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import ModelError
from schemas.training import HeadConfig


class HeadInputs(nn.Module):
    """Projections of tokens and of text queries, after statistics that are set once from training data.

    Encoders differ by orders of magnitude in scale, and the text embeddings of a vocabulary share most of their
    length: without the statistics every encoder would need its own learning rate.
    """

    token_mean_C: Tensor
    token_scale_C: Tensor
    query_mean_C: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.token_projection = nn.Linear(config.token_width, config.width)
        self.query_projection = nn.Linear(config.query_width, config.width)
        self.register_buffer("token_mean_C", torch.zeros(config.token_width))
        self.register_buffer("token_scale_C", torch.ones(config.token_width))
        self.register_buffer("query_mean_C", torch.zeros(config.query_width))

    @torch.no_grad()
    def fit_statistics(self, x_BTC: Tensor, queries_KC: Tensor) -> None:
        """Set the statistics from a sample of training tokens and from the queries of the trained labels."""
        flat = x_BTC.double().flatten(0, 1)
        deviation_C = flat.std(dim=0, correction=0)
        # A channel that hardly moves is not blown up: its noise would count as much as the others' signal.
        floor = 0.1 * deviation_C.square().mean().sqrt().clamp(min=1e-6)
        self.token_mean_C.copy_(flat.mean(dim=0))
        self.token_scale_C.copy_(1 / (deviation_C.square() + floor.square()).sqrt())
        # A label alone would lose all it has with its mean.
        if len(queries_KC) > 1:
            self.query_mean_C.copy_(queries_KC.double().mean(dim=0))

    def project_tokens(self, x_BTC: Tensor) -> Tensor:
        """Return x_BTD, the tokens as attention sees them.

        Raises:
            ModelError: one token only, or tokens of another width.
        """
        _check_tokens(x_BTC, self.config)
        x_BTC = (x_BTC.to(self.token_mean_C.dtype) - self.token_mean_C) * self.token_scale_C
        return F.relu(self.token_projection(x_BTC))

    def project_queries(self, queries_KC: Tensor) -> Tensor:
        """Return queries_KD, the text queries in the head's space.

        What all trained labels have in common is taken off, and what remains has one length: cosines between the
        remainders tell labels apart.

        Raises:
            ModelError: queries of another width.
        """
        _check_queries(queries_KC, self.config)
        centred_KC = F.normalize(queries_KC.to(self.query_mean_C.dtype) - self.query_mean_C, dim=-1)
        projected_KD: Tensor = self.query_projection(centred_KC * self.config.query_width**0.5)
        return projected_KD


def _check_tokens(x_BTC: Tensor, config: HeadConfig) -> None:
    num_tokens = x_BTC.shape[1] if x_BTC.ndim == 3 else 1
    if num_tokens < 2:
        raise ModelError(f"head needs patch tokens, got T={num_tokens}: is the backbone pooling?")
    if x_BTC.shape[2] != config.token_width:
        raise ModelError(
            f"head was made for tokens {config.token_width} wide, got {x_BTC.shape[2]}: use the backbone that it was "
            "trained with"
        )


def _check_queries(queries_KC: Tensor, config: HeadConfig) -> None:
    if queries_KC.shape[-1] != config.query_width:
        raise ModelError(
            f"head was made for text queries {config.query_width} wide, got {queries_KC.shape[-1]}: use the text "
            "encoder that it was trained with"
        )
