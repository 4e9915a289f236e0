"""What gates rest on, and what they are made of.

Shapes: N held-out images, K labels, C canary images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.chance import Change
from clipdecoder.judging.tag_changes import Tags
from schemas.manifest import ModelRecord
from schemas.retraining import Gate, GateName, RetrainPolicy

# A difference at a limit passes: floating point must not decide.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What both models say of the same held-out images."""

    targets_NK: NDArray[np.int8]
    fingerprints_N: NDArray[np.uint64]
    current_NK: NDArray[np.float32]
    new_NK: NDArray[np.float32]

    def once(self) -> HeldOut:
        """Return each picture once, which has what any copy of it is said to have: copies are no further evidence."""
        fingerprints_U, first_U, picture_N = np.unique(self.fingerprints_N, return_index=True, return_inverse=True)
        targets_UK = np.full((len(fingerprints_U), self.targets_NK.shape[1]), -1, np.int8)
        np.maximum.at(targets_UK, picture_N, self.targets_NK)
        return HeldOut(
            targets_NK=targets_UK,
            fingerprints_N=fingerprints_U,
            current_NK=self.current_NK[first_U],
            new_NK=self.new_NK[first_U],
        )

    def rows(self, wanted_N: NDArray[np.bool_]) -> HeldOut:
        """Return some of the images."""
        return HeldOut(
            targets_NK=self.targets_NK[wanted_N],
            fingerprints_N=self.fingerprints_N[wanted_N],
            current_NK=self.current_NK[wanted_N],
            new_NK=self.new_NK[wanted_N],
        )


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The tags of both models on the canary."""

    current_CK: Tags
    new_CK: Tags


@dataclass(frozen=True, kw_only=True)
class GateCase:
    """All that the gates rest on. `held` is None without images; `tagged` says why where there are no tags."""

    policy: RetrainPolicy
    label_ids: Sequence[str]
    current: ModelRecord
    new: ModelRecord
    held: HeldOut | None
    learned_from: NDArray[np.uint64]  # by the current model
    tagged: Tagged | str
    asking: frozenset[str] = frozenset()  # labels for which the new model was trained

    @property
    def asking_K(self) -> NDArray[np.bool_]:
        """Which labels asked for retraining."""
        return np.array([label_id in self.asking for label_id in self.label_ids], np.bool_)

    def seen_K(self, record: ModelRecord) -> NDArray[np.bool_]:
        """Return which labels a model was trained on."""
        seen = frozenset(record.seen_labels)
        return np.array([label_id in seen for label_id in self.label_ids], np.bool_)


def measured(
    name: GateName,
    limit: float,
    before: float | None,
    after: float,
    *,
    over: bool,
    sure: bool,
    why: str,
    change: Change,
) -> Gate:
    """Return a gate that was measured: it fails if the new model is over the limit, and that is more than chance."""
    return Gate(
        name=name,
        limit=limit,
        before=before,
        after=after,
        passed=not (over and sure),
        within_noise=over and not sure,
        interval=change.interval,
        why=why,
    )


def unmeasured(name: GateName, limit: float, why: str) -> Gate:
    """Return a gate that could not be measured."""
    return Gate(name=name, limit=limit, before=None, after=None, passed=None, why=f"not measured: {why}")
