"""One training: head and regression on some of the labels, judged on images and labels that they did not learn.

Shapes: N images, M to train on, V to validate on, K labels, B images of a step, Q query width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.judging.metrics import harmonic_mean, mean_average_precision
from clipdecoder.regression.image_kernel import ImageSpace
from clipdecoder.regression.linear import LinearBranch, fit_linear
from clipdecoder.scoring.branches import Branches, Queries
from clipdecoder.scoring.cosine import best_patch
from clipdecoder.training.batches import Teacher, TrainData
from clipdecoder.training.inputs import FrozenInputs, PixelInputs
from clipdecoder.training.loop import Hooks, train_head
from clipdecoder.training.model import TrainingModel
from clipdecoder.training.report import EpochReport
from clipdecoder.training.targets import Targets
from schemas.checkpoint import Branch
from schemas.training import TrainConfig
from schemas.training_report import EpochRecord

Inputs = FrozenInputs | PixelInputs


@dataclass(frozen=True, kw_only=True)
class FitData:
    """Annotated images, and the labels to be trained on: nothing of a novel label is in here."""

    inputs: Inputs
    targets: Targets  # of N images and K labels
    queries_KQ: NDArray[np.float32]
    label_ids: Sequence[str]
    fingerprints_N: NDArray[np.uint64]  # what tells the pictures apart
    train_M: NDArray[np.int64]  # rows to train on
    validation_V: NDArray[np.int64]  # rows to choose and to calibrate on
    joint: bool  # whether embeddings lie in the space of the queries
    local: bool  # whether patch tokens do
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class FitHooks:
    """What a fit calls; `stage` is `choose` (some labels left out) or `final`."""

    on_step: Callable[[str, int, int], None] = lambda stage, done, steps: None
    on_epoch: Callable[[str, EpochReport], None] = lambda stage, report: None
    load: Callable[[str], bytes | None] = lambda stage: None
    save: Callable[[str, bytes], None] = lambda stage, state: None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Branches trained on some of the labels, and the images as their backbone sees them."""

    columns: NDArray[np.int64]  # of all seen labels, those trained on
    branches: Branches
    inputs: FrozenInputs
    linear: LinearBranch
    backbone: Mapping[str, torch.Tensor]
    best_epoch: int
    history: tuple[EpochRecord, ...]

    def queries(self, data: FitData, columns: NDArray[np.int64]) -> Queries:
        """Return some of the labels as this stage sees them: those it was not trained on are novel."""
        place = {int(column): row for row, column in enumerate(self.columns)}
        seen = np.array([place.get(int(column), -1) for column in columns], np.int64)
        return Queries(queries_KQ=data.queries_KQ[columns], seen_K=seen)


def train_stage(
    data: FitData,
    config: TrainConfig,
    columns: NDArray[np.int64],
    left_out: NDArray[np.int64],
    stage: str,
    hooks: FitHooks,
    space: ImageSpace,
    *,
    epochs: int | None = None,
) -> Stage:
    """Train head and regression on some labels. Without `epochs`, validation chooses how many."""
    targets, queries_KQ = data.targets.select(columns), data.queries_KQ[columns]
    linear = _fit_linear(data, data.inputs.frozen(), targets, queries_KQ, space)
    train_data = TrainData(
        inputs=data.inputs.arrays,
        rows_M=data.train_M,
        targets=targets,
        queries_KQ=queries_KQ,
        teacher=_teacher(data, linear, queries_KQ) if config.distillation else None,
    )
    trained = train_head(
        config,
        train_data,
        Hooks(
            evaluate=_validation(data, columns, left_out) if epochs is None else None,
            on_step=partial(hooks.on_step, stage),
            on_epoch=partial(hooks.on_epoch, stage),
            save=partial(hooks.save, stage),
        ),
        tokens_of=data.inputs.tokens_of(config),
        device=data.device,
        stop_after=epochs,
        state=hooks.load(stage),
    )
    backbone = data.inputs.trained_weights(trained.model)
    inputs = data.inputs.frozen(backbone)
    if backbone:
        linear = _fit_linear(data, inputs, targets, queries_KQ, None)
    has: dict[Branch, bool] = {"clip": data.joint, "local": data.local, "linear": True, "decoder": True}
    kinds = [kind for kind, there in has.items() if there]
    branches = Branches(kinds, linear=linear, head=trained.head, device=data.device)
    return Stage(
        columns=columns,
        branches=branches,
        inputs=inputs,
        linear=linear,
        backbone=backbone,
        best_epoch=trained.best_epoch,
        history=tuple(_epoch_record(stage, report) for report in trained.reports),
    )


def _fit_linear(
    data: FitData, inputs: FrozenInputs, targets: Targets, queries_KQ: NDArray[np.float32], space: ImageSpace | None
) -> LinearBranch:
    return fit_linear(inputs.embeddings_ND, targets, queries_KQ, data.train_M, data.validation_V, space=space)


def _validation(
    data: FitData, columns: NDArray[np.int64], left_out: NDArray[np.int64]
) -> Callable[[TrainingModel], float]:
    """Return what judges an epoch: the decoder's mAP on the validation images.

    The harmonic mean of the labels trained on and those left out, so that an epoch which learns the former by heart
    does not win.
    """
    targets_VK = data.targets.dense(data.validation_V)
    place_K = np.full(data.targets.num_labels, -1, np.int64)
    place_K[columns] = np.arange(len(columns))

    def evaluate(model: TrainingModel) -> float:
        branches = Branches(("decoder",), linear=None, head=model.head, device=data.device)
        tokens_VTC = data.inputs.validation_tokens(model, data.validation_V)
        values = []
        for group in (columns, left_out) if branches.knows_novel and len(left_out) else (columns,):
            queries = Queries(queries_KQ=data.queries_KQ[group], seen_K=place_K[group])
            logits_VK = branches.decode(queries, tokens_VTC)
            values.append(mean_average_precision(logits_VK, targets_VK[:, group])[0])
        return values[0] if len(values) == 1 else harmonic_mean(*values)

    return evaluate


def _epoch_record(stage: str, report: EpochReport) -> EpochRecord:
    return EpochRecord(
        stage=stage,
        epoch=report.epoch,
        losses=report.losses,
        validation=report.value,
        seconds=round(report.seconds, 3),
        images_per_second=round(report.images_per_second, 1),
    )


def _teacher(data: FitData, linear: LinearBranch, queries_KQ: NDArray[np.float32]) -> Teacher:
    """Return what distillation learns from: the best patch's cosine, else the picture's, else the regression.

    The regression answers as for novel labels, from their texts alone: what it knows by heart would teach nothing.
    """
    frozen = data.inputs.frozen()
    embeddings_ND = frozen.embeddings_ND

    def teach(rows_B: NDArray[np.int64], columns_K: NDArray[np.int64]) -> NDArray[np.float32]:
        if data.local:
            return best_patch(frozen.tokens_NTC[rows_B], queries_KQ[columns_K], data.device)
        if data.joint:
            return np.asarray(embeddings_ND[rows_B].astype(np.float32) @ queries_KQ[columns_K].T)
        return linear.logits(embeddings_ND[rows_B], queries_KQ[columns_K], np.full(len(columns_K), -1))

    return teach
