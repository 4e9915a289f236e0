"""Where on a picture a label looked: the weights of the decoder's cross-attention.

Shapes: T patch tokens, K labels, C width of tokens or queries as given, D width inside the head, H attention heads,
E width of one attention head, Q queries of the head: labels, or groups of labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdecoder.heads.group_head import GroupHead, Head
from schemas.errors import ModelError


def attention_of(head: Head, x_TC: Tensor, queries_KC: Tensor, columns_K: Tensor) -> Tensor:
    """Return attention_KT: how much each label draws from each patch, averaged over heads; every row sums to 1.

    In a head with groups the labels of a group look at the same places.

    Args:
        head: of a trained model.
        x_TC: patch tokens of one picture.
        queries_KC: L2-normalised text queries of the labels.
        columns_K: each label's column in training, -1 where it is novel.

    Raises:
        ModelError: a head with groups was never trained on a label.
    """
    if isinstance(head, GroupHead):
        if (columns_K < 0).any():
            raise ModelError("a decoder with label groups looks for the labels it was trained on, and for no others")
        asked_QC, rows_K = head.queries_GC, columns_K // head.group_size
    else:
        asked_QC, rows_K = queries_KC, torch.arange(len(queries_KC), device=queries_KC.device)
    with torch.inference_mode():
        q_HQE = head.layer.prepare(head.inputs.project_queries(asked_QC)).q_HKE
        k_1HTE, _ = head.layer.keys_values(head.inputs.project_tokens(x_TC[None]))
        logits_HQT = q_HQE @ k_1HTE[0].transpose(-1, -2) / q_HQE.shape[-1] ** 0.5
        attention_QT = logits_HQT.float().softmax(dim=-1).mean(dim=0)
        attention_KT: Tensor = attention_QT[rows_K.to(attention_QT.device)]
        return attention_KT
