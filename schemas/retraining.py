"""Retraining: when it is worth while, what it decided, and by which numbers a new model may take the old one's place.

`retraining/<decision_id>/decision.json`   RetrainDecision: asked and answered once for each state of the store
`retraining/<decision_id>/outcome.json`    RetrainOutcome: what came of it, written last
`models/<model_id>/gates.json`             GateReport: how a new model compared with the one that was promoted then

A decision is named by the taxonomy, the ground truth and the policy that it rests on, so a repeated event, a second
schedule or a command that was killed finds the same decision, and one state of the store is never trained on twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.record import Record


class RetrainPolicy(BaseModel):
    """When to retrain and what a new model must not lose: `[retraining]` of clipdecoder.toml.

    Every number of average precision or of share lies between 0 and 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="false: decide, say why, train nothing")
    min_positives: int = Field(
        default=20,
        ge=1,
        description="images that a label needs before it is worth learning",
    )
    ap_below: float | None = Field(
        default=None, ge=0, le=1, description="also relearn a seen label whose average precision is below; None: never"
    )
    base: str | None = Field(default=None, description="image backbone; None: the current model's")
    text: str | None = Field(default=None, description="text encoder; None: the current model's")
    recipe: str | None = Field(default=None, description="TOML file of training settings; None: the current model's")
    held_out_share: float = Field(
        default=0.2,
        gt=0,
        lt=0.9,
        description="share of annotated images that no retraining learns from",
    )
    min_held_out: int = Field(default=20, ge=1, description="held-out images below which no gate can be judged")
    max_seen_drop: float = Field(default=0.01, ge=0, le=1, description="of the mAP on labels that the old model saw")
    max_novel_drop: float = Field(default=0.02, ge=0, le=1, description="of the mAP on labels that neither model saw")
    max_rate_change: float = Field(
        default=0.1, ge=0, le=1, description="of a seen label's share of tagged canary images, in either direction"
    )
    max_flip_rate: float = Field(
        default=0.5, ge=0, le=1, description="share of the tags that one of the two models gives the canary alone"
    )
    require_gain: bool = Field(
        default=False,
        description="refuse a new model under which the labels that asked for retraining do not gain beyond chance: "
        "one of them, judged as one of so many, or all together",
    )
    canary: str | None = Field(default=None, description="shard to compare tags on; None: the first of the store")


class LabelEvidence(Record):
    """What is known of one label's ground truth, and whether it asks for retraining."""

    label_id: str
    positives: int
    negatives: int  # answered no, or left unnamed by side files that speak of the label
    seen: bool  # by the current model
    average_precision: float | None  # of the current model on held-out images, where it is known
    retrain: bool
    reason: str


class RetrainDecision(Record):
    """Whether to retrain in one state of the store, and why."""

    decision_id: str
    taxonomy: str
    taxonomy_digest: str
    ground_truth_digest: str
    model_id: str | None  # the current model
    retrain: bool
    reasons: tuple[str, ...]  # sentences; why not, where it is no
    labels: tuple[LabelEvidence, ...]  # active labels that have any evidence
    policy: RetrainPolicy
    decided_at: datetime

    @property
    def asking(self) -> tuple[str, ...]:
        """Labels that ask for retraining."""
        return tuple(label.label_id for label in self.labels if label.retrain)


GateName = Literal["seen_map", "novel_map", "asked_map", "positive_rate", "flip_rate"]


class Gate(Record):
    """One number that a new model must keep. `passed` is None where it cannot be measured, and `why` says so.

    Gates of before chance was told from change have no interval.
    """

    name: GateName
    limit: float
    before: float | None  # of the current model
    after: float | None  # of the new one
    passed: bool | None
    within_noise: bool = False  # over the limit, and no more than chance: it passes
    # Of `after - before`: two standard errors to either side; more for `positive_rate`, the largest of several changes.
    interval: tuple[float, float] | None = None
    why: str


class LabelComparison(Record):
    """One label under both models, on the same held-out images and the same canary."""

    label_id: str
    group: Literal["seen", "learned", "novel"]  # seen by both; learned by the new one; seen by neither
    asked: bool = False  # for retraining
    positives: int  # among the held-out images
    ap_before: float | None
    ap_after: float | None
    # Of `ap_after - ap_before`: two standard errors to either side, and more if several labels are looked at together,
    # which are those that asked, and the others. None if too few pictures tell.
    ap_interval: tuple[float, float] | None = None
    rate_before: float | None  # share of canary images that are tagged with it
    rate_after: float | None


class GateReport(Record):
    """A new model beside the one that was promoted when it was made."""

    decision_id: str
    current_model_id: str
    new_model_id: str
    held_out_images: int
    learned_by_current: int  # held-out images left aside, since the current model had learned from them
    canary: str | None  # dataset/shard
    canary_images: int
    gates: tuple[Gate, ...]
    labels: tuple[LabelComparison, ...]
    gained: tuple[str, ...] = ()  # labels that asked, and whose `ap_interval` is above 0
    passed: bool
    at: datetime

    @property
    def asked(self) -> tuple[LabelComparison, ...]:
        """Labels that asked for retraining and can be compared."""
        return tuple(label for label in self.labels if label.asked and label.ap_before is not None)

    @property
    def gained_together(self) -> bool:
        """Whether the labels that asked for retraining gained beyond chance, all taken together."""
        intervals = (gate.interval for gate in self.gates if gate.name == "asked_map")
        return any(interval is not None and interval[0] > 0 for interval in intervals)

    @property
    def holding(self) -> tuple[str, ...]:
        """Gates that keep the old model: those that failed; if none did, those that could not be measured."""
        if self.passed:
            return ()
        failed = tuple(gate.name for gate in self.gates if gate.passed is False)
        return failed or tuple(gate.name for gate in self.gates if gate.passed is None)


class RetrainOutcome(Record):
    """What became of a decision. `declined` trained nothing; `refused` trained, and a gate kept the old model."""

    decision_id: str
    state: Literal["declined", "promoted", "refused"]
    model_id: str | None  # the new model
    reasons: tuple[str, ...]
    finished_at: datetime
