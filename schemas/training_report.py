"""What a training found out about itself: the `metrics.json` of a checkpoint.

All numbers are of images that no weight was fitted on. They chose the number of epochs and the weights of `fused`, so
they are a little too good for that; what a model is worth, `evaluate` says, on images of its own.
"""

from __future__ import annotations

from pydantic import Field

from schemas.checkpoint import Branch, Group, Scorer
from schemas.evaluation import CalibrationCheck
from schemas.record import Record


class BranchPrecision(Record):
    """One branch, trained without the left-out labels, on the validation images."""

    branch: Branch | Scorer
    seen: float | None  # mAP of the labels it was trained on
    novel: float | None  # mAP of the labels that were left out


class EpochRecord(Record):
    """One epoch of one stage."""

    stage: str
    epoch: int  # from 1
    losses: dict[str, float]
    validation: float | None  # what chooses the epoch: the harmonic mean of both mAPs, or of one where there is one
    seconds: float
    images_per_second: float


class TrainingReport(Record):
    """A training, whole."""

    left_out: tuple[str, ...]  # labels that the first stage did without
    epochs: int
    branches: tuple[BranchPrecision, ...]  # each by itself, and `fused` with the chosen weights
    fusion: dict[Group, dict[Branch, float]]
    own_fusion: dict[str, dict[Branch, float]] = Field(
        default_factory=dict
    )  # of single labels, in place of those of seen ones
    calibration: dict[Scorer, tuple[CalibrationCheck, ...]]
    unreached: dict[Scorer, tuple[str, ...]]  # labels whose threshold could not reach the target precision
    history: tuple[EpochRecord, ...]
    seconds: dict[str, float]
