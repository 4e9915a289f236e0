"""What a head does in training and nowhere else: dropout, attention with gradients, labels in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipdecoder.heads.decoder_layer import attend
from clipdecoder.heads.dropout import Dropout
from clipdecoder.heads.text_query_head import TextQueryHead
from schemas.training import HeadConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_leaves_out_the_share_and_keeps_the_mean(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 333, dtype=dtype, requires_grad=True)
    dropped = Dropout(share)(x)
    assert dropped.dtype == dtype and dropped.shape == x.shape
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert float(dropped.detach().double().mean()) == pytest.approx(1, abs=0.01 / (1 - share))
    dropped.backward(torch.ones_like(dropped))
    assert x.grad is not None and torch.equal(x.grad, dropped), "what is left out learns nothing"


def test_dropout_draws_by_the_seed_and_only_in_training() -> None:
    x, dropout = torch.randn(5, 7), Dropout(0.4)
    first, second = (torch.manual_seed(seed) and dropout(x) for seed in (1, 1))
    assert torch.equal(first, second) and not torch.equal(first, dropout(x))
    assert dropout.eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)


def test_neighbours_are_dropped_independently() -> None:
    """Four cells share a random number, of which each has bits of its own."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000)) > 0).double().reshape(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.02


def test_attention_is_the_same_with_gradients_and_without() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(shape, requires_grad=True) for shape in ((4, 5, 8), (3, 4, 7, 8), (3, 4, 7, 8))]
    with_gradients = attend(*parts)
    with torch.no_grad():
        torch.testing.assert_close(with_gradients, attend(*parts))


def test_chunks_change_no_gradient() -> None:
    torch.manual_seed(0)
    config = HeadConfig(token_width=12, query_width=10, width=16, num_heads=4, feedforward_width=24, dropout=0.0)
    head, x_BTC, queries_KC = TextQueryHead(config), torch.randn(3, 5, 12), torch.randn(9, 10)

    def gradients(max_bytes: int) -> list[Tensor]:
        head.zero_grad()
        head(x_BTC, queries_KC, max_bytes=max_bytes).square().sum().backward()
        return [parameter.grad for parameter in head.parameters() if parameter.grad is not None]

    for whole, chunked in zip(gradients(2**30), gradients(1), strict=True):
        torch.testing.assert_close(whole, chunked)
