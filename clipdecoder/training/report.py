"""What a training tells about an epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clipdecoder.training.model import Losses


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One line of the metrics log."""

    epoch: int  # from 1
    epochs: int
    steps: int
    losses: dict[str, float]  # "loss", the weighted sum, and its parts unweighted: means over steps
    learning_rate: float  # at the end of the epoch
    grad_norm: float  # before clipping, mean over steps
    temperature: float | None  # of the contrastive loss, as a factor on cosines
    seconds: float  # of training, validation left out
    images_per_second: float
    value: float | None  # what validation gave
    best_epoch: int


@dataclass
class Tally:
    """Sums over the steps of an epoch, left on the device so that no step waits for them."""

    steps: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def add(self, losses: Losses, grad_norm: Tensor) -> None:
        """Count one step."""
        for name, value in (losses | {"grad_norm": grad_norm}).items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.seconds = time.perf_counter() - self.started

    def losses(self) -> dict[str, float]:
        """Return the mean of each part over the epoch's steps."""
        return {name: float(value) / self.steps for name, value in self.sums.items() if name != "grad_norm"}

    def grad_norm(self) -> float:
        """Return the mean norm of the gradient before clipping."""
        return float(self.sums["grad_norm"]) / self.steps
