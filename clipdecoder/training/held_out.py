"""What is chosen and fitted on images that no stage trained on: reference, weights of branches, baselines.

Shapes: N images, V to validate on, S reference images, K labels, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.baselines import Examples, label_ridge, ridge_to_text
from clipdecoder.judging.calibration import HeldOut
from clipdecoder.judging.metrics import mean_average_precision, number_or_none
from clipdecoder.scoring.standardised import Fusion, OwnWeights, Reference, Spread, StandardisedScorer
from clipdecoder.training.fusion import choose_own_weights, choose_weights, usual_weights
from clipdecoder.training.inputs import FrozenInputs
from clipdecoder.training.stage import FitData, Stage
from schemas.checkpoint import Branch, Group, Scorer
from schemas.training import TrainConfig
from schemas.training_report import BranchPrecision

REFERENCE_IMAGES = 512
LEAST_REFERENCE = 32
REFERENCE_BYTES = 16 * 2**20  # of patch tokens, in the checkpoint


@dataclass(frozen=True)
class Weights:
    """How much each branch counts: for groups of labels, and for single ones."""

    fusion: Fusion
    own: OwnWeights


def reference_rows(data: FitData, config: TrainConfig) -> NDArray[np.int64]:
    """Return the images that means and deviations are taken over: held-out ones, as new images are new as well.

    Where few are held out, training images fill up: the spread of a handful is chance, that of one image nothing.
    """
    tokens_NTC = data.inputs.frozen().tokens_NTC
    count = min(REFERENCE_IMAGES, max(2, REFERENCE_BYTES // max(1, tokens_NTC[:1].nbytes)))
    rng = np.random.default_rng([config.seed, 2])
    held_out = rng.choice(data.validation_V, min(count, len(data.validation_V)), replace=False)
    missing = max(0, min(count, LEAST_REFERENCE, len(held_out) + len(data.train_M)) - len(held_out))
    return np.sort(np.concatenate([held_out, rng.choice(data.train_M, missing, replace=False)]))


def reference_of(stage: Stage, rows_S: NDArray[np.int64]) -> Reference:
    """Return the reference images as a stage's backbone sees them."""
    return Reference(
        embeddings_SD=stage.inputs.embeddings_ND[rows_S], tokens_STC=np.asarray(stage.inputs.tokens_NTC[rows_S])
    )


def choose_fusion(
    data: FitData, stage: Stage, left_out: NDArray[np.int64], rows_S: NDArray[np.int64]
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


def choose_own(
    data: FitData, final: Stage, fusion: Fusion, rows_S: NDArray[np.int64], seed: int
) -> dict[int, dict[Branch, float]]:
    """Return the weights of labels that have their own, by column: of the last stage, which knows all labels."""
    columns = np.arange(data.targets.num_labels)
    logits = _standardised_branches(data, final, columns, rows_S)
    return choose_own_weights(logits, data.targets.dense(data.validation_V, columns), fusion["seen"], seed)


def _standardised_branches(
    data: FitData, stage: Stage, columns: NDArray[np.int64], rows_S: NDArray[np.int64]
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


def held_out_logits(
    data: FitData,
    stage: Stage,
    columns: NDArray[np.int64],
    scorer: Scorer,
    weights: Weights,
    rows_S: NDArray[np.int64],
) -> HeldOut:
    """Return a scorer's standardised logits of some labels on the validation images, and the truth."""
    queries, reference = stage.queries(data, columns), reference_of(stage, rows_S)
    raw = StandardisedScorer(
        stage.branches, queries, scorer, fusion=weights.fusion, own=weights.own, reference=reference
    )
    logits_VK = raw.standardised(
        stage.inputs.embeddings_ND[data.validation_V], stage.inputs.tokens_NTC[data.validation_V]
    )
    return HeldOut(logits_NK=logits_VK, targets_NK=data.targets.dense(data.validation_V, columns))


def fit_baselines(data: FitData, inputs: FrozenInputs) -> dict[str, NDArray[np.float32]]:
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
