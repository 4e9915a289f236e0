"""How weights move: groups of parameters, the schedule of the learning rate, the moving average."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from clipdecoder.training.model import TrainingModel
from schemas.training import TrainConfig

Weights = tuple[Tensor, ...] | list[Tensor]
Average = Callable[[Weights, Weights, Tensor | int], None]


def parameter_groups(model: TrainingModel, config: TrainConfig) -> list[dict[str, object]]:
    """Return what the optimiser is given: every trainable parameter once; matrices with decay, the rest without."""
    groups: list[dict[str, object]] = []
    for of_backbone, rate in ((False, config.learning_rate), (True, config.backbone_learning_rate)):
        trained = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.startswith("tokens_of.") == of_backbone
        ]
        for decay, parameters in (
            (config.weight_decay, [parameter for parameter in trained if parameter.ndim >= 2]),
            (0.0, [parameter for parameter in trained if parameter.ndim < 2]),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "lr": rate})
    return groups


def one_cycle(optimizer: AdamW, config: TrainConfig, steps: int) -> OneCycleLR:
    """Return the schedule; the warm-up lasts two steps at least, for PyTorch divides by one less than its length."""
    total = config.epochs * steps
    warmup = max(config.warmup, min(0.9, 2 / total))
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=rates, total_steps=total, pct_start=warmup)


def ramped_average(decay: float) -> Average:
    """Return the update of an exponential moving average that forgets fast at first, when it still holds the start."""

    def update(averaged: Weights, current: Weights, num_averaged: Tensor | int) -> None:
        num_steps = int(num_averaged)
        share = 1 - min(decay, (1 + num_steps) / (10 + num_steps))
        torch._foreach_lerp_(list(averaged), list(current), share)

    return update
