"""From annotated images to a trained model, in two stages.

The first stage does without some of the labels. On images that neither stage trains on it chooses what cannot be
learned from the training images themselves: how many epochs, how much each branch counts, and, on the labels left out,
what a novel label's logit means. The second stage trains on all labels, and the map of each seen label is fitted.

Shapes: N images, K seen labels, D embedding width, T patch tokens, C token width, Q query width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.calibration import Calibrated, calibrate
from clipdecoder.regression.image_kernel import ImageSpace
from clipdecoder.scoring.parts import Parts
from clipdecoder.scoring.standardised import Fusion, scorers_of
from clipdecoder.training.held_out import (
    Weights,
    choose_fusion,
    choose_own,
    fit_baselines,
    held_out_logits,
    reference_of,
    reference_rows,
)
from clipdecoder.training.stage import FitData, FitHooks, Stage, train_stage
from clipdecoder.training.targets import Targets
from schemas.checkpoint import Branch, CalibrationRow, Scorer
from schemas.training import TrainConfig
from schemas.training_report import TrainingReport

ENOUGH = 3  # positives to validate on
MIN_LEFT_OUT = 3  # fewer labels say nothing about novel ones


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model, before it has a name."""

    parts: Parts
    kinds: tuple[Branch, ...]
    fusion: Fusion
    scorers: tuple[Scorer, ...]
    calibration: tuple[CalibrationRow, ...]
    report: TrainingReport


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
    reference_R = reference_rows(data, config)
    left_out = choose_left_out(data.targets, data.validation_V, config)
    everything = np.arange(data.targets.num_labels)
    space = ImageSpace.of(data.inputs.frozen().embeddings_ND, data.train_M)
    first = None
    if len(left_out):
        first = train_stage(data, config, np.setdiff1d(everything, left_out), left_out, "choose", hooks, space)
    epochs = first.best_epoch if first is not None else None
    final = train_stage(data, config, everything, everything[:0], "final", hooks, space, epochs=epochs)
    chosen = first or final
    fusion, precisions = choose_fusion(data, chosen, left_out, reference_R)
    weights = Weights(fusion, choose_own(data, final, fusion, reference_R, config.seed))
    judged = _Judged(data=data, first=first, final=final, left_out=left_out, weights=weights, reference_R=reference_R)
    calibrated = _calibrate(judged, target_precision, config.seed)
    report = TrainingReport(
        left_out=tuple(data.label_ids[column] for column in left_out),
        epochs=final.best_epoch,
        branches=precisions,
        fusion={group: dict(chosen) for group, chosen in fusion.items()},
        own_fusion={data.label_ids[column]: dict(chosen) for column, chosen in weights.own.items()},
        calibration={scorer: done.checks for scorer, done in calibrated.items()},
        unreached={scorer: done.unreached for scorer, done in calibrated.items()},
        history=(*(first.history if first is not None else ()), *final.history),
        seconds={"fit": round(time.perf_counter() - started, 3)},
    )
    return Fitted(
        parts=Parts(
            head=final.branches.head,
            linear=final.linear,
            reference=reference_of(final, reference_R),
            baselines=fit_baselines(data, final.inputs),
            learned_from=np.unique(data.fingerprints_N[np.concatenate([data.train_M, data.validation_V])]),
            backbone=final.backbone,
        ),
        kinds=final.branches.kinds,
        fusion=fusion,
        scorers=scorers_of(final.branches.kinds),
        calibration=tuple(row for done in calibrated.values() for row in done.calibration.records()),
        report=report,
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Both stages, and what was chosen: all that calibration rests on."""

    data: FitData
    first: Stage | None  # None where no label could be left out
    final: Stage
    left_out: NDArray[np.int64]
    weights: Weights
    reference_R: NDArray[np.int64]


def _calibrate(judged: _Judged, target_precision: float | None, seed: int) -> dict[Scorer, Calibrated]:
    """Fit each scorer's maps: seen labels on the final stage's logits, novel ones on the first stage's."""
    data, final, first = judged.data, judged.final, judged.first
    everything = np.arange(data.targets.num_labels)
    done: dict[Scorer, Calibrated] = {}
    for scorer in scorers_of(final.branches.kinds):
        seen = held_out_logits(data, final, everything, scorer, judged.weights, judged.reference_R)
        novel = None
        # A head with groups knows no label that was left out.
        if first is not None and (scorer != "decoder" or final.branches.knows_novel):
            novel = held_out_logits(data, first, judged.left_out, scorer, judged.weights, judged.reference_R)
        done[scorer] = calibrate(scorer, data.label_ids, seen, novel, target_precision=target_precision, seed=seed)
    return done


def choose_left_out(targets: Targets, validation_V: NDArray[np.int64], config: TrainConfig) -> NDArray[np.int64]:
    """Return the columns of the labels that the first stage does without: a share of those that validation can judge.

    None where too few labels would be left out to say anything, or to be trained on.
    """
    judges = targets.subset(validation_V)
    counts_K = np.where(judges.negatives_K() > 0, judges.positives_K(), 0)
    count = round(config.holdout_label_share * int((counts_K > 0).sum()))
    # Labels that people ask for later are not the rarest ones: where there is a choice, those with some evidence.
    judged = np.flatnonzero(counts_K >= (ENOUGH if (counts_K >= ENOUGH).sum() >= 2 * count else 1))
    if count < MIN_LEFT_OUT or targets.num_labels - count < MIN_LEFT_OUT:
        return judged[:0]
    return np.sort(np.random.default_rng([config.seed, 1]).choice(judged, count, replace=False))
