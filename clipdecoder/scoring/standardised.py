"""Logits that can be compared between labels and added between branches: standardised over a reference sample.

The sample is part of the checkpoint, so any label, new ones too, gets a mean and a deviation of its own, and an image's
score depends on no other image of its batch.

Shapes: S reference images, R images, K labels, D embedding width, T patch tokens, C token width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.scoring.branches import TOKEN_BRANCHES, Branches, Queries
from clipdecoder.scoring.scores import tensor_of
from schemas.checkpoint import Branch, Group, Scorer

Fusion = Mapping[Group, Mapping[Branch, float]]
OwnWeights = Mapping[int, Mapping[Branch, float]]  # of single seen labels, by their column in training

MIN_DEVIATION = 1e-6  # a branch that says the same of every image says nothing


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Held-out images, as the model sees them."""

    embeddings_SD: NDArray[np.float16]
    tokens_STC: NDArray[np.float16] | None


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of each label's logits over the reference sample."""

    mean_K: NDArray[np.float64]
    deviation_K: NDArray[np.float64]

    @classmethod
    def of(cls, logits_SK: NDArray[np.float32]) -> Spread:
        """Return the spread of logits of the reference images."""
        wide_SK = logits_SK.astype(np.float64)
        return cls(wide_SK.mean(axis=0), np.maximum(wide_SK.std(axis=0), MIN_DEVIATION))

    def standardise(self, logits_RK: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how many deviations above the mean each logit is."""
        return ((logits_RK - self.mean_K) / self.deviation_K).astype(np.float32)

    def on(self, device: torch.device) -> DeviceSpread:
        """Return the spread as tensors."""
        return DeviceSpread(tensor_of(self.mean_K, device), tensor_of(self.deviation_K, device))


class DeviceSpread(NamedTuple):
    """A spread on a device."""

    mean_K: Tensor
    deviation_K: Tensor

    def standardise(self, logits_RK: Tensor) -> Tensor:
        """Do as `Spread.standardise`, to the same numbers."""
        return ((logits_RK.double() - self.mean_K) / self.deviation_K).float()


def branches_of(scorer: Scorer, available: tuple[Branch, ...]) -> tuple[Branch, ...]:
    """Return the branches whose logits a scorer takes. Without a joint space `clip` is the regression to the texts."""
    if scorer == "fused":
        return available
    if scorer == "decoder":
        return ("decoder",)
    pooled: Branch = "clip" if "clip" in available else "linear"
    return (pooled, "local") if scorer == "clip+local" else (pooled,)


def scorers_of(available: tuple[Branch, ...]) -> tuple[Scorer, ...]:
    """Return the scorers that a model of these branches has, the one to use by default first."""
    known: list[Scorer] = ["fused", "decoder"] if "decoder" in available else []
    if {"clip", "local"} <= set(available):
        known.append("clip+local")
    return (*known, "clip")


class StandardisedScorer:
    """One scorer of a trained model for one vocabulary, before calibration.

    `spread` is that of its logits over the reference sample.
    """

    def __init__(
        self,
        branches: Branches,
        queries: Queries,
        scorer: Scorer,
        *,
        fusion: Fusion,
        reference: Reference,
        own: OwnWeights = MappingProxyType({}),
    ) -> None:
        self.branches, self.queries, self.scorer = branches, queries, scorer
        self.kinds = branches_of(scorer, branches.kinds)
        self.weights_K = {kind: _weights(kind, branches, queries, fusion, own) for kind in self.kinds}
        if scorer == "fused" and len(queries):
            self.kinds = tuple(kind for kind in self.kinds if self.weights_K[kind].any())
        self.needs_tokens = not TOKEN_BRANCHES.isdisjoint(self.kinds)
        known = {
            kind: branches.logits(kind, queries, reference.embeddings_SD, reference.tokens_STC) for kind in self.kinds
        }
        self._spreads = {kind: Spread.of(logits_SK).on(self.device) for kind, logits_SK in known.items()}
        self._weights_K = {kind: tensor_of(weights_K, self.device) for kind, weights_K in self.weights_K.items()}
        self._placed = branches.place(queries)
        combined_SK = self._combine({kind: tensor_of(logits_SK, self.device) for kind, logits_SK in known.items()})
        self.spread = Spread.of(combined_SK.cpu().numpy())

    @property
    def device(self) -> torch.device:
        """Where logits are computed."""
        return self.branches.device

    def logits(self, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None) -> NDArray[np.float32]:
        """Return logits_RK of arrays: see `device_logits`."""
        tokens = tensor_of(tokens_RTC, self.device) if self.needs_tokens and tokens_RTC is not None else None
        with torch.inference_mode():
            return np.asarray(self.device_logits(tensor_of(embeddings_RD, self.device), tokens).cpu().numpy())

    def device_logits(self, embeddings_RD: Tensor, tokens_RTC: Tensor | None) -> Tensor:
        """Return logits_RK: of `fused` the weighted sum of standardised ones, else the branch's own."""
        return self._combine(
            {kind: self.branches.device_logits(kind, self._placed, embeddings_RD, tokens_RTC) for kind in self.kinds}
        )

    def standardised(
        self, embeddings_RD: NDArray[np.float16], tokens_RTC: NDArray[np.float16] | None
    ) -> NDArray[np.float32]:
        """Return the logits in deviations from each label's mean: what calibration maps to scores."""
        return self.spread.standardise(self.logits(embeddings_RD, tokens_RTC))

    def _combine(self, logits: Mapping[Branch, Tensor]) -> Tensor:
        parts = list(logits.values())
        if self.scorer == "fused":
            parts = [self._weights_K[kind] * self._spreads[kind].standardise(x_RK) for kind, x_RK in logits.items()]
        total_RK = functools.reduce(torch.add, parts)
        return total_RK.float() if self.scorer == "fused" else total_RK / len(parts)


def _weights(
    kind: Branch, branches: Branches, queries: Queries, fusion: Fusion, own: OwnWeights
) -> NDArray[np.float64]:
    """Return each label's weight of one branch: its own, else its group's; 0 where the branch knows it not."""
    weights_K = np.where(queries.novel_K, fusion["novel"].get(kind, 0.0), fusion["seen"].get(kind, 0.0))
    for place, column in enumerate(queries.seen_K.tolist()):
        if column in own:
            weights_K[place] = own[column].get(kind, 0.0)
    return np.asarray(weights_K * branches.knows(kind, queries))
