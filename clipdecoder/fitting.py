"""From annotated images to a trained model, in two stages.

The first stage does without some of the labels. On images that neither stage trains on it chooses what cannot be
learned from the training images themselves: how many epochs, how much each branch counts, and, on the labels left out,
what a novel label's logit means. The second stage trains on all labels, and the map of each seen label is fitted.

Shapes: N images, K seen labels, D embedding width, T patch tokens, C token width, Q query width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipdecoder.baselines import Examples, label_ridge, ridge_to_text
from clipdecoder.branches import Branches, Queries
from clipdecoder.calibration import HeldOut, calibrate
from clipdecoder.cosine import best_patch
from clipdecoder.fusion import choose_weights, usual_weights
from clipdecoder.image_kernel import ImageSpace
from clipdecoder.inputs import FrozenInputs, PixelInputs
from clipdecoder.linear import LinearBranch, fit_linear
from clipdecoder.metrics import harmonic_mean, mean_average_precision, number_or_none
from clipdecoder.parts import Parts
from clipdecoder.standardised import Fusion, Reference, Spread, StandardisedScorer, scorers_of
from clipdecoder.targets import Targets
from clipdecoder.training import Hooks, train_head
from clipdecoder.training_batches import Teacher, TrainData
from clipdecoder.training_model import TrainingModel
from clipdecoder.training_report import EpochReport
from schemas.checkpoint import Branch, CalibrationRow, Group, Scorer
from schemas.evaluation import CalibrationCheck
from schemas.training import TrainConfig
from schemas.training_report import BranchPrecision, EpochRecord, TrainingReport

REFERENCE_IMAGES = 512
LEAST_REFERENCE = 32
REFERENCE_BYTES = 16 * 2**20  # of patch tokens, in the checkpoint
ENOUGH = 3  # positives to validate on
MIN_LEFT_OUT = 3  # fewer labels say nothing about novel ones

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
class Fitted:
    """A trained model, before it has a name."""

    parts: Parts
    kinds: tuple[Branch, ...]
    fusion: Fusion
    scorers: tuple[Scorer, ...]
    calibration: tuple[CalibrationRow, ...]
    report: TrainingReport


@dataclass(frozen=True, kw_only=True)
class _Stage:
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


def fit(data: FitData, config: TrainConfig, hooks: FitHooks, *, target_precision: float | None = None) -> Fitted:
    """Train, choose, calibrate.

    Args:
        data: annotated images of seen labels.
        config: the recipe.
        hooks: progress, and the states that a killed training goes on from.
        target_precision: of the thresholds; None: best F1.

    Raises:
        RunError: a loss is not finite.
        ConfigError: the recipe does not fit the model.
    """
    started = time.perf_counter()
    reference_R = _reference_rows(data, config)
    left_out = choose_left_out(data.targets, data.train_M, data.validation_V, config)
    everything = np.arange(data.targets.num_labels)
    space = ImageSpace.of(data.inputs.frozen().embeddings_ND, data.train_M)
    first = None
    if len(left_out):
        first = _train_stage(data, config, np.setdiff1d(everything, left_out), left_out, "choose", hooks, space)
    epochs = first.best_epoch if first is not None else None
    final = _train_stage(data, config, everything, everything[:0], "final", hooks, space, epochs=epochs)
    chosen = first or final
    fusion, precisions = _choose_fusion(data, chosen, left_out, reference_R)
    calibration: list[CalibrationRow] = []
    checks: dict[Scorer, tuple[CalibrationCheck, ...]] = {}
    unreached: dict[Scorer, tuple[str, ...]] = {}
    for scorer in scorers_of(final.branches.kinds):
        seen = _held_out(data, final, everything, scorer, fusion, reference_R)
        novel = _held_out(data, first, left_out, scorer, fusion, reference_R) if first is not None else None
        # A head with groups knows no label that was left out.
        if scorer == "decoder" and not final.branches.knows_novel:
            novel = None
        done = calibrate(scorer, data.label_ids, seen, novel, target_precision=target_precision, seed=config.seed)
        calibration += done.calibration.records()
        checks[scorer], unreached[scorer] = done.checks, done.unreached
    report = TrainingReport(
        left_out=tuple(data.label_ids[column] for column in left_out),
        epochs=final.best_epoch,
        branches=precisions,
        fusion={group: dict(weights) for group, weights in fusion.items()},
        calibration=checks,
        unreached=unreached,
        history=(*(first.history if first is not None else ()), *final.history),
        seconds={"fit": round(time.perf_counter() - started, 3)},
    )
    return Fitted(
        parts=Parts(
            head=final.branches.head,
            linear=final.linear,
            reference=_reference(final, reference_R),
            baselines=_baselines(data, final.inputs),
            learned_from=np.unique(data.fingerprints_N),
            backbone=final.backbone,
        ),
        kinds=final.branches.kinds,
        fusion=fusion,
        scorers=scorers_of(final.branches.kinds),
        calibration=tuple(calibration),
        report=report,
    )


def choose_left_out(
    targets: Targets, train_M: NDArray[np.int64], validation_V: NDArray[np.int64], config: TrainConfig
) -> NDArray[np.int64]:
    """Return the columns of the labels that the first stage does without: a share of those that validation can judge.

    None where too few labels would be left out to say anything, or to be trained on.
    """
    counts_K = targets.subset(validation_V).positives_K()
    count = round(config.holdout_label_share * int((counts_K > 0).sum()))
    # Labels that people ask for later are not the rarest ones: where there is a choice, those with some evidence.
    judged = np.flatnonzero(counts_K >= (ENOUGH if (counts_K >= ENOUGH).sum() >= 2 * count else 1))
    if count < MIN_LEFT_OUT or targets.num_labels - count < MIN_LEFT_OUT:
        return judged[:0]
    return np.sort(np.random.default_rng([config.seed, 1]).choice(judged, count, replace=False))


def _train_stage(
    data: FitData,
    config: TrainConfig,
    columns: NDArray[np.int64],
    left_out: NDArray[np.int64],
    stage: str,
    hooks: FitHooks,
    space: ImageSpace,
    *,
    epochs: int | None = None,
) -> _Stage:
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
    history: list[EpochRecord] = []

    def on_epoch(report: EpochReport) -> None:
        history.append(_epoch_record(stage, report))
        hooks.on_epoch(stage, report)

    trained = train_head(
        config,
        train_data,
        Hooks(
            evaluate=_validation(data, columns, left_out) if epochs is None else None,
            on_step=partial(hooks.on_step, stage),
            on_epoch=on_epoch,
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
    return _Stage(
        columns=columns,
        branches=branches,
        inputs=inputs,
        linear=linear,
        backbone=backbone,
        best_epoch=trained.best_epoch,
        history=tuple(history),
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


def _reference_rows(data: FitData, config: TrainConfig) -> NDArray[np.int64]:
    """Return the images that means and deviations are taken over: held-out ones, as new images are new as well.

    Where few are held out, training images fill up: the spread of a handful is chance, that of one image nothing.
    """
    tokens_NTC = data.inputs.frozen().tokens_NTC
    count = min(REFERENCE_IMAGES, max(2, REFERENCE_BYTES // max(1, tokens_NTC[:1].nbytes)))
    rng = np.random.default_rng([config.seed, 2])
    held_out = rng.choice(data.validation_V, min(count, len(data.validation_V)), replace=False)
    missing = max(0, min(count, LEAST_REFERENCE, len(held_out) + len(data.train_M)) - len(held_out))
    return np.sort(np.concatenate([held_out, rng.choice(data.train_M, missing, replace=False)]))


def _reference(stage: _Stage, rows_S: NDArray[np.int64]) -> Reference:
    return Reference(
        embeddings_SD=stage.inputs.embeddings_ND[rows_S], tokens_STC=np.asarray(stage.inputs.tokens_NTC[rows_S])
    )


def _choose_fusion(
    data: FitData, stage: _Stage, left_out: NDArray[np.int64], rows_S: NDArray[np.int64]
) -> tuple[Fusion, tuple[BranchPrecision, ...]]:
    """Return the weights of each group of labels, and what each branch and their sum are worth."""
    kinds = stage.branches.kinds
    groups: dict[Group, NDArray[np.int64]] = {"seen": stage.columns, "novel": left_out}
    fusion: dict[Group, dict[Branch, float]] = {}
    values: dict[Group, dict[str, float | None]] = {}
    for group, columns in groups.items():
        targets_VK = data.targets.dense(data.validation_V, columns)
        logits = _standardised_branches(data, stage, columns, rows_S)
        known = [kind for kind in kinds if group == "seen" or kind != "decoder" or stage.branches.knows_novel]
        usual = usual_weights(group, kinds)
        fusion[group] = usual | choose_weights({kind: logits[kind] for kind in known}, targets_VK, usual)
        fused_VK = np.sum([fusion[group][kind] * logits[kind] for kind in known], axis=0)
        values[group] = {
            kind: number_or_none(mean_average_precision(x_VK, targets_VK)[0])
            for kind, x_VK in ({kind: logits[kind] for kind in known} | {"fused": fused_VK}).items()
        }
    precisions = [
        BranchPrecision(branch=kind, seen=values["seen"].get(kind), novel=values["novel"].get(kind))
        for kind in (*kinds, "fused")
    ]
    return fusion, tuple(precisions)


def _standardised_branches(
    data: FitData, stage: _Stage, columns: NDArray[np.int64], rows_S: NDArray[np.int64]
) -> dict[Branch, NDArray[np.float32]]:
    """Return each branch's logits_VK of some labels on the validation images, standardised over the reference."""
    queries = stage.queries(data, columns)
    rows = np.concatenate([rows_S, data.validation_V])
    embeddings, tokens = stage.inputs.embeddings_ND[rows], stage.inputs.tokens_NTC[rows]
    found = {}
    for kind in stage.branches.kinds:
        logits = stage.branches.logits(kind, queries, embeddings, tokens)
        found[kind] = Spread.of(logits[: len(rows_S)]).standardise(logits[len(rows_S) :])
    return found


def _held_out(
    data: FitData,
    stage: _Stage,
    columns: NDArray[np.int64],
    scorer: Scorer,
    fusion: Fusion,
    rows_S: NDArray[np.int64],
) -> HeldOut:
    """Return a scorer's standardised logits of some labels on the validation images, and the truth."""
    raw = StandardisedScorer(
        stage.branches, stage.queries(data, columns), scorer, fusion=fusion, reference=_reference(stage, rows_S)
    )
    logits_VK = raw.standardised(
        stage.inputs.embeddings_ND[data.validation_V], stage.inputs.tokens_NTC[data.validation_V]
    )
    return HeldOut(logits_NK=logits_VK, targets_NK=data.targets.dense(data.validation_V, columns))


def _baselines(data: FitData, inputs: FrozenInputs) -> dict[str, NDArray[np.float32]]:
    """Return what an evaluation sets the model beside: both ridges, and how frequent each label is in training."""
    train, validation = (
        Examples(embeddings_ND=inputs.embeddings_ND[rows], targets_NK=data.targets.dense(rows))
        for rows in (data.train_M, data.validation_V)
    )
    known_K = np.maximum((train.targets_NK >= 0).sum(axis=0), 1)
    arrays = {"frequency": ((train.targets_NK == 1).sum(axis=0) / known_K).astype(np.float32)}
    for name, ridge in (
        ("ridge", ridge_to_text(train, validation, data.queries_KQ)),
        ("label_ridge", label_ridge(train, validation)),
    ):
        arrays |= {f"{name}.{part}": value for part, value in ridge.arrays().items()}
    return arrays
