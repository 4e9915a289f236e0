"""Muon: momentum whose update is orthogonalised, for the matrices of transformer blocks.

After Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon` computes in bfloat16, which is
a hundred times slower than float32 on a CPU without bfloat16 units; this one computes in float32.

Shapes: R rows and S columns of a weight.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95


def orthogonalise(update_RS: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all about 1, by five Newton-Schulz steps of order five."""
    tall = update_RS.shape[0] > update_RS.shape[1]
    x: Tensor = update_RS.T if tall else update_RS
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def _block_update(update_RS: Tensor) -> Tensor:
    """Orthogonalised update; query, key and value projections, stacked in one weight, count as three matrices."""
    stacked = update_RS.shape[0] == 3 * update_RS.shape[1]
    parts = update_RS.chunk(3) if stacked else (update_RS,)
    scale = max(1.0, parts[0].shape[0] / parts[0].shape[1]) ** 0.5
    update: Tensor = torch.cat([orthogonalise(part) for part in parts]) * scale
    return update


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent with Nesterov momentum, orthogonalised, and decoupled weight decay."""

    def __init__(self, weights: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; `closure` is not supported."""
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                update = _block_update(weight.grad.lerp(momentum, MOMENTUM))
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
