"""The training loop: from annotated patch tokens, or pixels, to a head.

Frozen training reads stored patch tokens, so an epoch costs seconds; fine-tuning reads pixels and trains part of the
backbone along.

Shapes: N samples, T patch tokens, C token width, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from clipdecoder.devices import multiplies_bfloat16
from clipdecoder.heads.group_head import Head, build_head
from clipdecoder.training.batches import Batch, Process, TrainData, epoch_rows, iter_batches
from clipdecoder.training.distributed import from_main, is_main, rank, world_size
from clipdecoder.training.model import Losses, TrainingModel
from clipdecoder.training.optimizer import one_cycle, parameter_groups, ramped_average
from clipdecoder.training.report import EpochReport, Tally
from clipdecoder.training.state import (
    Parts,
    Progress,
    Weights,
    load_state,
    load_weights,
    save_state,
    trained_weights,
)
from schemas.errors import ConfigError, RunError
from schemas.training import TrainConfig

STATISTICS_IMAGES = 512  # a sample that means and deviations of token channels are taken from


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls. In a group of processes only the main one does.

    Args:
        evaluate: validates the averaged model, in evaluation mode and without gradients; more is better.
        on_step: is told steps done and steps of the epoch.
        on_epoch: is told the epoch's report.
        save: keeps the state after every epoch; `train_head` goes on from the last one.
    """

    evaluate: Callable[[TrainingModel], float] | None = None
    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[EpochReport], None] | None = None
    save: Callable[[bytes], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome: the best epoch's averaged weights, in evaluation mode."""

    model: TrainingModel
    best_epoch: int
    best_value: float | None  # None without validation, where the last epoch is the best
    reports: tuple[EpochReport, ...]  # of all epochs, those before an interruption too

    @property
    def head(self) -> Head:
        """The decoder."""
        return self.model.head


def train_head(
    config: TrainConfig,
    data: TrainData,
    hooks: Hooks | None = None,
    *,
    tokens_of: nn.Module | None = None,
    device: torch.device | None = None,
    stop_after: int | None = None,
    state: bytes | None = None,
) -> Trained:
    """Train a head, and whatever of `tokens_of` wants gradients, and return the best epoch's weights.

    The same arguments give the same weights on the same machine, interrupted or not; on a GPU up to rounding, as its
    sums are not always in one order. In a group of processes (see
    `distributed.py`) each trains on its share of every batch.

    Args:
        config: the recipe.
        data: annotated images and labels.
        hooks: validation, progress, saving.
        tokens_of: from uint8 pixels to patch tokens (`PixelTokens`), where the inputs are pixels.
        device: where to train; None: the CPU.
        stop_after: an epoch to end with, on the schedule of all `config.epochs`.
        state: what `hooks.save` was given last, to go on from there.

    Raises:
        ConfigError: distillation without a teacher, or a state that was made with other settings.
        ModelError: the state is none, or of another model.
        RunError: a loss or a gradient is not finite. The states saved before are sound.
    """
    if config.distillation and data.teacher is None:
        raise ConfigError(f"distillation = {config.distillation} needs a teacher, and this model has none; set it to 0")
    device = device or torch.device("cpu")
    cuda_devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda_devices):
        torch.manual_seed(config.seed)
        model = _build_model(config, data, tokens_of, device)
        loop = _Loop(config, data, hooks or Hooks(), model, device)
        if state is not None:
            loop.resume(state)
        return loop.run(stop_after or config.epochs)


class _Loop:
    """One training: what changes from step to step, and what is kept of it."""

    def __init__(
        self, config: TrainConfig, data: TrainData, hooks: Hooks, model: TrainingModel, device: torch.device
    ) -> None:
        self.config, self.data, self.hooks, self.model, self.device = config, data, hooks, model, device
        self.process = Process(rank=rank(), world_size=world_size())
        self.steps, self.images_per_step = epoch_rows(data, config, 1, self.process.world_size).shape
        self.wrapped = _wrap(model, config)
        # After the wrapping, which gives all processes the main one's weights.
        average = AveragedModel(model, multi_avg_fn=ramped_average(config.ema_decay)) if config.ema_decay else None
        optimizer = AdamW(parameter_groups(model, config), lr=config.learning_rate, fused=True)
        self.parts = Parts(model, average, optimizer, one_cycle(optimizer, config, self.steps))
        self.progress = Progress()
        self.best: Weights | None = None

    def resume(self, state: bytes) -> None:
        self.progress, self.best = load_state(state, self.parts, self.config)

    def run(self, last_epoch: int) -> Trained:
        while self.progress.epoch < last_epoch and not self._out_of_patience():
            epoch = self.progress.epoch + 1
            tally = self._train_epoch(epoch)
            value = self._validate()
            self._keep_best(epoch, value)
            self.progress.epoch = epoch
            self._report(tally, value)
        if self.best is not None:
            load_weights(self.model, self.best)
        self.model.eval()
        progress = self.progress
        return Trained(
            model=self.model,
            best_epoch=progress.best_epoch,
            best_value=progress.best_value,
            reports=tuple(progress.reports),
        )

    def _train_epoch(self, epoch: int) -> Tally:
        # Of dropout; a resumed epoch draws what it would have drawn.
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, epoch, self.process.rank]).generate_state(1)[0])
        )
        self.wrapped.train()
        tally = Tally(steps=self.steps)
        for step, batch in enumerate(iter_batches(self.data, self.config, epoch, self.process), start=1):
            where = f"epoch {epoch}, step {step} of {self.steps}"
            tally.add(*self._train_step(batch.to(self.device), where))
            if self.hooks.on_step is not None and is_main():
                self.hooks.on_step(step, self.steps)
        return tally

    def _train_step(self, batch: Batch, where: str) -> tuple[Losses, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed_precision()):
            losses: Losses = self.wrapped(batch)
        self.parts.optimizer.zero_grad()
        torch.autograd.backward(losses["loss"])
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        grad_norm = torch.nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        # A NaN in the loss is one in the gradient; either way no weight has moved yet.
        if not torch.isfinite(losses["loss"] + grad_norm):
            raise RunError(self._not_finite(losses, grad_norm, where))
        self.parts.optimizer.step()
        self.parts.scheduler.step()
        if self.parts.average is not None:
            self.parts.average.update_parameters(self.model)
        return {name: loss.detach() for name, loss in losses.items()}, grad_norm

    def _not_finite(self, losses: Losses, grad_norm: Tensor, where: str) -> str:
        parts = ", ".join(f"{name} {value.item():g}" for name, value in (losses | {"gradient": grad_norm}).items())
        done = self.progress.epoch
        kept = f"the state after epoch {done} is kept" if done else "no epoch was finished"
        return (
            f"training stopped in {where}: not a finite number ({parts}); {kept}. Lower learning_rate "
            f"(now {self.config.learning_rate:g}), or look for images whose tokens are not finite"
        )

    def _mixed_precision(self) -> bool:
        if self.config.amp != "auto":
            return self.config.amp == "bf16"
        # On a processor a backbone takes longer in bfloat16 (1.3 times, ViT-B/32), a head half as long.
        worth_it = self.device.type == "cuda" or self.model.tokens_of is None
        return worth_it and multiplies_bfloat16(self.device)

    @property
    def _averaged(self) -> TrainingModel:
        if self.parts.average is None:
            return self.model
        average = self.parts.average.module
        assert isinstance(average, TrainingModel)
        return average

    def _validate(self) -> float | None:
        """Return what validation gives for the averaged model: the same number in every process."""
        if self.hooks.evaluate is None:
            return None
        value = math.nan
        if is_main():
            with torch.no_grad():
                value = float(self.hooks.evaluate(self._averaged.eval()))
        return from_main(value, self.device)

    def _keep_best(self, epoch: int, value: float | None) -> None:
        best = self.progress.best_value
        # A value that is not a number beats nothing, but the first epoch is the best so far whatever it gave.
        if value is None or best is None or value > best:
            self.progress.best_epoch, self.progress.best_value = epoch, value
            self.best = trained_weights(self._averaged)

    def _out_of_patience(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        return self.hooks.evaluate is not None and waited >= self.config.patience

    def _report(self, tally: Tally, value: float | None) -> None:
        joint = self.model.joint
        report = EpochReport(
            epoch=self.progress.epoch,
            epochs=self.config.epochs,
            steps=self.steps,
            losses=tally.losses(),
            learning_rate=self.parts.optimizer.param_groups[0]["lr"],
            grad_norm=tally.grad_norm(),
            temperature=float(joint.logit_scale.detach().exp()) if joint is not None else None,
            seconds=tally.seconds,
            images_per_second=self.steps * self.images_per_step / tally.seconds,
            value=value,
            best_epoch=self.progress.best_epoch,
        )
        self.progress.reports.append(report)
        if self.hooks.save is not None and is_main():
            self.hooks.save(save_state(self.parts, self.progress, self.best, self.config))
        if self.hooks.on_epoch is not None and is_main():
            self.hooks.on_epoch(report)


def _build_model(
    config: TrainConfig, data: TrainData, tokens_of: nn.Module | None, device: torch.device
) -> TrainingModel:
    """Return a new model whose head knows the scale of the tokens and of the queries."""
    sample = np.random.default_rng(config.seed).permutation(data.rows_M)[:STATISTICS_IMAGES]
    # In order, which is how a memory map is read fastest; pixels are costly to encode, and a few say enough.
    rows = np.sort(sample if tokens_of is None else sample[: STATISTICS_IMAGES // 8])
    inputs = torch.from_numpy(np.asarray(data.inputs[rows])).to(device)
    with torch.no_grad():
        x_BTC = inputs if tokens_of is None else tokens_of.to(device).eval()(inputs)
    query_width = data.queries_KQ.shape[1]
    num_labels = len(data.queries_KQ)
    shape = config.head(token_width=x_BTC.shape[-1], query_width=query_width, num_labels=num_labels)
    model = TrainingModel(build_head(shape), config, data.queries_KQ, tokens_of).to(device)
    model.head.fit_statistics(x_BTC, model.queries_KQ)
    return model


def _wrap(model: TrainingModel, config: TrainConfig) -> nn.Module:
    if world_size() == 1:
        return model
    # Weights that no loss reaches: pooling of a backbone, whose tokens are what counts, or a head without its own loss.
    unused = model.tokens_of is not None or not (config.beta or config.distillation)
    return DistributedDataParallel(model, find_unused_parameters=unused)
