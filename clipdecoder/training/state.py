"""A training in progress as bytes, so that a killed one goes on as if nothing had happened. Safetensors, no pickle.

Weights that are not trained are left out: they come with the backbone. Random state is left out too: everything drawn
derives from the recipe's seed, the epoch and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from clipdecoder.training.report import EpochReport
from schemas.errors import ConfigError, ModelError
from schemas.training import TrainConfig

FORMAT = "clipdecoder training state 1"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0  # finished ones
    best_epoch: int = 0  # 0: none yet
    best_value: float | None = None  # what validation gave for it; None without validation
    reports: list[EpochReport] = field(default_factory=list)  # of the finished ones


@dataclass(frozen=True)
class Parts:
    """The objects that change while training goes on."""

    model: nn.Module
    average: AveragedModel | None
    optimizer: Optimizer
    scheduler: LRScheduler


def trained_weights(model: nn.Module) -> Weights:
    """Return copies of what training changes, on the CPU: trainable parameters, and buffers of modules with such."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    still = {name for name, module in model.named_modules() if not any(p.requires_grad for p in module.parameters())}
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if name not in frozen and name.rpartition(".")[0] not in still
    }


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights of `trained_weights` back."""
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, f"weights of another model: {unexpected[:3]}"


def save_state(parts: Parts, progress: Progress, best: Weights | None, config: TrainConfig) -> bytes:
    """Return everything that a training needs to go on."""
    sections = {"model": trained_weights(parts.model), "best": best or {}}
    if parts.average is not None:
        sections["average"] = trained_weights(parts.average.module) | {"num_averaged": parts.average.n_averaged.cpu()}
    moments = parts.optimizer.state_dict()
    sections["optimizer"] = {
        f"{number}.{name}": value.cpu() for number, state in moments["state"].items() for name, value in state.items()
    }
    tensors = {f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()}
    facts = {
        "format": FORMAT,
        "config": config.model_dump(),
        "progress": asdict(progress),
        "groups": moments["param_groups"],
        "scheduler": parts.scheduler.state_dict(),
    }
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(contiguous, {"training": json.dumps(facts)})


def load_state(data: bytes, parts: Parts, config: TrainConfig) -> tuple[Progress, Weights | None]:
    """Put the objects back where `save_state` found them; return progress and the best weights so far.

    Raises:
        ModelError: these bytes are no training state, or that of a model of another shape.
        ConfigError: the training was another: names the settings that differ.
    """
    facts, tensors = _read(data)
    _check_config(facts["config"], config)
    try:
        load_weights(parts.model, _section(tensors, "model"))
        if parts.average is not None:
            average = _section(tensors, "average")
            parts.average.n_averaged.copy_(average.pop("num_averaged"))
            load_weights(parts.average.module, average)
        _load_moments(parts.optimizer, facts["groups"], _section(tensors, "optimizer"))
    except (RuntimeError, AssertionError, KeyError) as error:
        raise ModelError(
            f"the saved training is of another model ({error}); start without it, or with the data it was made with"
        ) from error
    parts.scheduler.load_state_dict(facts["scheduler"])
    return _progress(facts["progress"]), _section(tensors, "best") or None


def _progress(facts: dict[str, Any]) -> Progress:
    reports = facts.pop("reports", [])  # earlier versions did not keep them
    return Progress(**facts, reports=[EpochReport(**report) for report in reports])


def _read(data: bytes) -> tuple[dict[str, Any], Weights]:
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["training"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"these {len(data)} bytes are no training state: {error}; start without it") from error
    if facts.get("format") != FORMAT:
        raise ModelError(f"a training state of format {facts.get('format')!r}, and this reads {FORMAT!r}")
    return facts, tensors


def _check_config(saved: dict[str, Any], config: TrainConfig) -> None:
    asked = config.model_dump()
    names = [name for name in asked if saved.get(name) != asked[name]]
    if names:
        differences = ", ".join(f"{name} = {saved.get(name)!r} and not {asked[name]!r}" for name in names)
        raise ConfigError(f"the saved training had {differences}; use its settings, or start without it")


def _section(tensors: Weights, name: str) -> Weights:
    return {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == name}


def _load_moments(optimizer: Optimizer, groups: list[dict[str, Any]], tensors: Weights) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # A shape is not looked at by PyTorch until the first step.
    for parameter, moments in optimizer.state.items():
        if moments["exp_avg"].shape != parameter.shape:
            raise RuntimeError(f"moments of shape {tuple(moments['exp_avg'].shape)} for {tuple(parameter.shape)}")
