"""Texts through a causal text tower without what stands behind them: labels are short, and a context is 77 tokens.

A text has the same embedding whatever stands beside it: a label that is scored later than the others, by another
process, has the scores that it would have had with them.

Shapes: M texts, L tokens of the context, S tokens up to the end of a text, R rows at once, C width of the tower.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from clipdecoder.encoders.text import TEXTS_PER_CHUNK

_STEP = 4  # lengths are rounded up: texts of one rounded length go through the tower together
# Texts go through in multiples of so many. On a processor that is enough for each to have the same bits beside any
# others, as for pictures (`tagger.ROWS_AT_ONCE`); a GPU chooses how to multiply by the shape, so there it is the same
# for all of a chunk of texts.
_ROWS = {"cpu": 8}
_AT_THE_END = ("argmax", "eos")  # where the embedding is taken from: the token that ends the text


def encode_texts(network: Any, tokens_ML: Tensor) -> Tensor:
    """Return the embeddings_MD of `encode_text`, not normalised, for a fraction of the work where texts are short.

    A causal tower never looks behind a token, so what is behind the end of a text changes nothing but rounding (the
    last bits). A tower of another kind gets the whole context.
    """
    lengths_M = _lengths(network, tokens_ML)
    places = [(lengths_M == length).nonzero()[:, 0] for length in sorted(set(lengths_M.tolist()))]
    embeddings = [_in_full_rows(network, tokens_ML[place], int(lengths_M[place[0]])) for place in places]
    return torch.cat(embeddings)[torch.cat(places).argsort()]


def _lengths(network: Any, tokens_ML: Tensor) -> Tensor:
    """Return how many tokens of each text the tower has to see."""
    context = tokens_ML.shape[1]
    if not (isinstance(network, CLIP) and network.text_pool_type in _AT_THE_END and network.attn_mask is not None):
        return torch.full_like(tokens_ML[:, 0], context)
    ends_M = tokens_ML.argmax(dim=-1)
    if network.text_pool_type == "eos":
        ends_M = (tokens_ML == network.text_eos_id).int().argmax(dim=-1)
    return ((ends_M // _STEP + 1) * _STEP).clamp(max=context)


def _in_full_rows(network: Any, tokens_ML: Tensor, length: int) -> Tensor:
    """Embed texts with copies of the last one behind them, up to a full number of rows."""
    num_texts = len(tokens_ML)
    more = -num_texts % _ROWS.get(tokens_ML.device.type, TEXTS_PER_CHUNK)
    tokens_RL = torch.cat([tokens_ML, tokens_ML[-1:].expand(more, -1)])
    whole = length == tokens_RL.shape[1]
    embeddings_RD: Tensor = network.encode_text(tokens_RL) if whole else _encode(network, tokens_RL[:, :length])
    return embeddings_RD[:num_texts]


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
