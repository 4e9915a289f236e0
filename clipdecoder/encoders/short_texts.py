"""Texts through a causal text tower without what stands behind them: labels are short, and a context is 77 tokens.

Shapes: M texts, L tokens of the context, S tokens up to the end of the longest text, C width of the tower.
"""

from __future__ import annotations

from typing import Any

from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

_STEP = 8  # lengths are rounded up, so that a text is mostly as long in one company as in another
_AT_THE_END = ("argmax", "eos")  # where the embedding is taken from: the token that ends the text


def encode_texts(network: Any, tokens_ML: Tensor) -> Tensor:
    """Return the embeddings_MD of `encode_text`, not normalised, for a fraction of the work where texts are short.

    A causal tower never looks behind a token, so what is behind the longest text changes nothing but rounding (the last
    bits). A tower of another kind gets the whole context.
    """
    if not (isinstance(network, CLIP) and network.text_pool_type in _AT_THE_END and network.attn_mask is not None):
        whole: Tensor = network.encode_text(tokens_ML)
        return whole
    ends_M = tokens_ML.argmax(dim=-1)
    if network.text_pool_type == "eos":
        ends_M = (tokens_ML == network.text_eos_id).int().argmax(dim=-1)
    length = min(tokens_ML.shape[1], -(-(int(ends_M.max()) + 1) // _STEP) * _STEP)
    return _encode(network, tokens_ML[:, :length])


def _encode(network: Any, tokens_MS: Tensor) -> Tensor:
    """Do as `CLIP.encode_text`, which adds the positions of the whole context."""
    length, kind = tokens_MS.shape[1], network.transformer.get_cast_dtype()
    x_MSC = network.token_embedding(tokens_MS).to(kind) + network.positional_embedding[:length].to(kind)
    x_MSC = network.transformer(x_MSC, attn_mask=network.attn_mask[:length, :length])
    x_MSC = network.ln_final(x_MSC)
    x_MC: Tensor = text_global_pool(x_MSC, tokens_MS, network.text_pool_type, eos_token_id=network.text_eos_id)
    projection = network.text_projection
    if projection is None:
        return x_MC
    embeddings_MD: Tensor = projection(x_MC) if isinstance(projection, nn.Module) else x_MC @ projection
    return embeddings_MD
