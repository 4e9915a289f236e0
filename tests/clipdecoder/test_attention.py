"""Where a label looked: weights that sum to 1, the same that the decoder uses, over the patches of the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipdecoder.heads.attention import attention_of
from clipdecoder.heads.group_head import Head, build_head
from clipdecoder.scoring.looks import grid_of
from schemas.errors import ModelError
from schemas.training import HeadConfig

SHAPE = {"token_width": 12, "query_width": 8, "width": 16, "num_heads": 4, "feedforward_width": 16}
NUM_TOKENS, NUM_LABELS = 9, 6


def make_head(**changes: int) -> Head:
    torch.manual_seed(0)
    head = build_head(HeadConfig.model_validate(SHAPE | changes)).eval()
    with torch.no_grad():
        head.fit_statistics(torch.randn(4, NUM_TOKENS, 12), queries())
    return head


def queries() -> torch.Tensor:
    return F.normalize(torch.randn(NUM_LABELS, 8, generator=torch.Generator().manual_seed(1)), dim=-1)


def tokens() -> torch.Tensor:
    return torch.randn(NUM_TOKENS, 12, generator=torch.Generator().manual_seed(2))


SEEN = torch.arange(NUM_LABELS)


@pytest.mark.parametrize("changes", [{}, {"groups": 2, "num_labels": NUM_LABELS}], ids=["text queries", "groups"])
def test_every_label_spreads_one_over_the_patches(changes: dict[str, int]) -> None:
    attention_KT = attention_of(make_head(**changes), tokens(), queries(), SEEN)
    assert attention_KT.shape == (NUM_LABELS, NUM_TOKENS) and (attention_KT > 0).all()
    torch.testing.assert_close(attention_KT.sum(dim=1), torch.ones(NUM_LABELS))


def test_the_weights_are_those_of_the_decoder() -> None:
    head = make_head()
    attention_KT = attention_of(head, tokens(), queries(), SEEN)
    with torch.no_grad():
        k_1HTE, _ = head.layer.keys_values(head.inputs.project_tokens(tokens()[None]))
        q_HKE = head.layer.prepare(head.inputs.project_queries(queries())).q_HKE
        one_hot_1HTT = torch.eye(NUM_TOKENS).expand(1, 4, -1, -1)  # as values, they give the weights
        drawn_1HKT = F.scaled_dot_product_attention(q_HKE[None], k_1HTE, one_hot_1HTT)
    torch.testing.assert_close(attention_KT, drawn_1HKT.mean(dim=1)[0])


def test_a_label_looks_alike_whatever_else_is_asked() -> None:
    head = make_head()
    whole_KT = attention_of(head, tokens(), queries(), SEEN)
    torch.testing.assert_close(attention_of(head, tokens(), queries()[3:4], SEEN[3:4]), whole_KT[3:4])
    moved = torch.randperm(NUM_TOKENS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attention_of(head, tokens()[moved], queries(), SEEN), whole_KT[:, moved])


def test_labels_of_a_group_look_together_and_novel_ones_nowhere() -> None:
    head = make_head(groups=2, num_labels=NUM_LABELS)
    attention_KT = attention_of(head, tokens(), queries(), SEEN)
    assert np.array_equal(attention_KT[0], attention_KT[2]) and not np.array_equal(attention_KT[0], attention_KT[3])
    with pytest.raises(ModelError, match="label groups"):
        attention_of(head, tokens(), queries(), torch.tensor([0, -1, 2, 3, 4, 5]))


def test_patches_lie_on_a_grid() -> None:
    assert grid_of(49, (224, 224)) == (7, 7)
    assert grid_of(2 * 8, (32, 128)) == (2, 8)
    with pytest.raises(ModelError, match="no grid"):
        grid_of(50, (224, 224))
