"""Evaluations of drawn scores: calibrated by construction, of a chosen strength on seen and on novel labels.

Shapes: N images, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.evaluation import Facts, GroundTruth, ScorerOutput, evaluate_scores
from schemas.evaluation import Evaluation, Protocol, ScorerName
from schemas.sample import SampleRow, SampleStatus

SHARD_IMAGES = 50
# How far the evidence for positives stands above that for negatives, in deviations, for seen and for novel labels.
STRENGTHS: dict[ScorerName, tuple[float, float]] = {"fused": (4.0, 2.6), "clip": (2.0, 2.2), "ridge": (2.4, 1.6)}


def make_evaluation(
    names: Sequence[str],
    targets_NK: NDArray[np.int8],
    *,
    keys: Sequence[str] | None = None,
    novel: bool = True,
    protocol: Protocol = "A",
    calibrated: bool = True,
) -> Evaluation:
    """Return the evaluation of `fused` beside `clip`, `ridge`, `constant` and `chance`; every fourth label is novel.

    Image i is sample i % SHARD_IMAGES of shard i // SHARD_IMAGES.
    """
    random = np.random.default_rng(7)
    seen_K = np.arange(len(names)) % 4 != 3 if novel else np.ones(len(names), np.bool_)
    ease_K = random.uniform(0.3, 1.4, len(names))
    outputs = [
        _output(name, targets_NK, ease_K * np.where(seen_K, *strengths), random)
        for name, strengths in STRENGTHS.items()
    ]
    rates_NK = np.broadcast_to(_rates(targets_NK), targets_NK.shape)
    outputs.append(ScorerOutput(scorer="constant", logits_NK=rates_NK, scores_NK=rates_NK))
    keys = keys or [f"picture-{row:04d}" for row in range(len(targets_NK))]
    truth = GroundTruth(
        targets_NK=targets_NK,
        images=[_image(row, key) for row, key in enumerate(keys)],
        label_ids=[f"id-{column}" for column in range(len(names))],
        names=names,
        seen_K=seen_K,
    )
    return evaluate_scores(_facts(protocol, calibrated), truth, outputs, np.full(len(names), 0.3))


def draw_targets(images: int, labels: int) -> NDArray[np.int8]:
    """Return ground truth of labels of different frequency."""
    random = np.random.default_rng(3)
    return (random.random((images, labels)) < random.uniform(0.02, 0.15, labels)).astype(np.int8)


def _facts(protocol: Protocol, calibrated: bool) -> Facts:
    return Facts(
        model_id="4fa1c09e77d2b013",
        protocol=protocol,
        taxonomy_digest="c0ffee" * 10,
        dataset="scenes",
        patterns=("shards/test-{00000..00002}.tar",),
        num_failed=2,
        calibrated=calibrated,
        created_at=datetime(2026, 11, 21, 10, 30, tzinfo=UTC),
        versions={"clipdecoder": "0.2.0"},
    )


def _rates(targets_NK: NDArray[np.int8]) -> NDArray[np.float64]:
    return np.clip((targets_NK == 1).mean(axis=0), 1e-3, 1 - 1e-3)


def _output(
    name: ScorerName, targets_NK: NDArray[np.int8], strength_K: NDArray[np.float64], random: np.random.Generator
) -> ScorerOutput:
    """Draw normal evidence and return the log odds that it gives for a label of this frequency."""
    rate_K = _rates(targets_NK)
    evidence_NK = random.normal(size=targets_NK.shape) + (targets_NK == 1) * strength_K
    logits_NK = strength_K * (evidence_NK - strength_K / 2) + np.log(rate_K / (1 - rate_K))
    return ScorerOutput(scorer=name, logits_NK=logits_NK, scores_NK=1 / (1 + np.exp(-logits_NK)))


def _image(row: int, key: str) -> SampleRow:
    return SampleRow(
        key=key,
        shard=f"{row // SHARD_IMAGES:05d}",
        sample=row % SHARD_IMAGES,
        status=SampleStatus.OK,
        error=None,
        width=48,
        height=32,
        bytes=1000,
        sha256=None,
    )
