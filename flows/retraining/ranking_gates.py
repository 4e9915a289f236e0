"""The gates on how well a new model ranks: mAP on labels that the old model saw, on novel ones, on those that asked.

A loss counts if it is over the limit and more than chance. What is chance is told by the held-out images themselves,
drawn again and again (clipdecoder/judging/chance.py): both models are compared on the same images, so what makes a
picture hard for both is no noise.

Shapes: N held-out images, K labels, R draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.chance import DRAWS, LEAST_POSITIVES, Change, draw_counts, drawn_precisions, mean_change
from clipdecoder.judging.metrics import average_precisions, mean_or_nan
from flows.evaluation.tables import decimal
from flows.retraining.gate_case import ROUNDING, GateCase, measured, unmeasured
from schemas.counts import counted
from schemas.retraining import Gate, GateName

_SEED = 0  # of the draws: the same pictures give the same gates
_REQUIRED = "a gain is required (require_gain)"


@dataclass(frozen=True, kw_only=True)
class Precisions:
    """The average precision of each label under both models, NaN where it has none; and what to know of it."""

    current_K: NDArray[np.float64]
    new_K: NDArray[np.float64]
    drawn_RK: NDArray[np.float64]  # how it changes, from the current model to the new one, in each draw
    positives_K: NDArray[np.int64]
    images: int
    left_aside: int  # held-out images that the current model had learned from
    note: str

    @property
    def rankable_K(self) -> NDArray[np.bool_]:
        """Which labels have an average precision."""
        return ~np.isnan(self.current_K)

    def change(self, group_K: NDArray[np.bool_]) -> Change:
        """Return how the mAP of some labels changes."""
        change_K = (self.new_K - self.current_K)[group_K]
        return mean_change(change_K, self.drawn_RK[:, group_K], int(self.positives_K[group_K].sum()))

    def label_changes(self, group_K: NDArray[np.bool_]) -> dict[int, Change]:
        """Return by column how the average precision of each of some labels changes, as one of so many changes."""
        columns = np.flatnonzero(group_K & self.rankable_K).tolist()
        changes = {column: self.change(np.arange(len(group_K)) == column) for column in columns}
        looked_at = sum(change.interval is not None for change in changes.values())  # of the others nothing can be told
        return {column: change.among(looked_at) for column, change in changes.items()}


def precisions_of(case: GateCase) -> Precisions | None:
    """Return the average precisions on held-out images that the current model has not learned from, if they suffice."""
    if case.held is None:
        return None
    unlearned_N = ~np.isin(case.held.fingerprints_N, case.learned_from)
    held, left_aside, note = case.held.rows(unlearned_N), int((~unlearned_N).sum()), ""
    if len(held.targets_NK) < case.policy.min_held_out <= len(case.held.targets_NK):
        note = f"; the old model learned from {left_aside} of these images, which flatters it"
        held, left_aside = case.held, 0
    counts_RN = draw_counts(len(held.targets_NK), DRAWS, _SEED)
    new_RK, current_RK = (drawn_precisions(each, held.targets_NK, counts_RN) for each in (held.new_NK, held.current_NK))
    return Precisions(
        current_K=average_precisions(held.current_NK, held.targets_NK),
        new_K=average_precisions(held.new_NK, held.targets_NK),
        drawn_RK=new_RK - current_RK,
        positives_K=(held.targets_NK == 1).sum(axis=0),
        images=len(held.targets_NK),
        left_aside=left_aside,
        note=note,
    )


def unmeasured_ranking(case: GateCase, why: str) -> tuple[Gate, ...]:
    """Return the gates where there are too few images."""
    policy = case.policy
    limits: tuple[tuple[GateName, float], ...] = (
        ("seen_map", policy.max_seen_drop),
        ("novel_map", policy.max_novel_drop),
        ("asked_map", 0.0),
    )
    return tuple(unmeasured(name, limit, why) for name, limit in limits)


def ranking_gates(case: GateCase, precisions: Precisions) -> tuple[Gate, ...]:
    """Return the gates on mAP, with what asked for retraining last."""
    current_K, new_K = case.seen_K(case.current), case.seen_K(case.new)
    # A model that was trained on nothing has to be beaten, or equalled, on what the new one learned.
    seen_K, whose = (current_K, "of the old model") if current_K.any() else (new_K, "that the new model learned")
    policy, neither_K = case.policy, ~(current_K | new_K)
    return (
        _gate("seen_map", policy.max_seen_drop, precisions, seen_K, whose),
        _gate("novel_map", policy.max_novel_drop, precisions, neither_K, "that neither model was trained on"),
        _asked_gate(case, precisions),
    )


def gained_labels(case: GateCase, precisions: Precisions) -> tuple[str, ...]:
    """Return the labels that asked for retraining and gained, each beyond chance as one of so many."""
    changes = precisions.label_changes(case.asking_K)
    return tuple(case.label_ids[column] for column, change in changes.items() if change.is_gain())


def _gate(name: GateName, limit: float, precisions: Precisions, group_K: NDArray[np.bool_], whose: str) -> Gate:
    found = precisions.rankable_K & group_K
    if not found.any():
        return unmeasured(name, limit, f"no label {whose} has positives and negatives among the held-out images")
    change, over = precisions.change(found), _over(precisions, found, limit)
    return measured(
        name,
        limit,
        *_maps(precisions, found),
        over=over,
        sure=change.is_sure(),
        why=f"{_told(precisions, found, whose)}{_chance(change, limit, over=over)}",
        change=change,
    )


def _asked_gate(case: GateCase, precisions: Precisions) -> Gate:
    """Return the gate on the labels that asked: they may not lose, and, if the policy says so, they must gain.

    They gained if one of them did, beyond chance among so many, or if all did together.
    Few of them have many held-out pictures, so that most gains are real and within noise; hence no gain is the usual
    answer, and refuses nothing by itself.
    """
    found, whose = precisions.rankable_K & case.asking_K, "that asked for retraining"
    if not found.any():
        return _unknown_gain(case, f"no label {whose} has positives and negatives among the held-out images")
    change, over = precisions.change(found), _over(precisions, found, 0.0)
    gained = change.is_gain() or gained_labels(case, precisions)
    gate = measured(
        "asked_map",
        0.0,
        *_maps(precisions, found),
        over=over,
        sure=change.is_sure(),
        why=f"{_told(precisions, found, whose)}{_chance(change, 0.0, over=over)}",
        change=change,
    )
    if gained or not gate.passed:
        return gate
    several = ", neither of one of them nor of all together" if found.sum() > 1 else ""
    why = f"{gate.why}; no gain beyond chance{several}"
    if case.policy.require_gain:
        return gate.model_copy(update={"passed": False, "within_noise": False, "why": f"{why}; {_REQUIRED}"})
    return gate.model_copy(update={"why": why})


def _unknown_gain(case: GateCase, why: str) -> Gate:
    gate = unmeasured("asked_map", 0.0, why)
    if not case.policy.require_gain or not case.asking_K.any():
        return gate
    return gate.model_copy(update={"passed": False, "why": f"{gate.why}; {_REQUIRED}"})


def _maps(precisions: Precisions, group_K: NDArray[np.bool_]) -> tuple[float, float]:
    return mean_or_nan(precisions.current_K[group_K]), mean_or_nan(precisions.new_K[group_K])


def _over(precisions: Precisions, group_K: NDArray[np.bool_], limit: float) -> bool:
    before, after = _maps(precisions, group_K)
    return before - after > limit + ROUNDING


def _told(precisions: Precisions, group_K: NDArray[np.bool_], whose: str) -> str:
    before, after = _maps(precisions, group_K)
    return (
        f"mAP {decimal(before)} -> {decimal(after)} on {counted(int(group_K.sum()), 'label')} {whose}, "
        f"{precisions.images} held-out images{precisions.note}"
    )


def _chance(change: Change, limit: float, *, over: bool) -> str:
    """Say what chance has to do with it, where it has: that a fall may be chance, or that a worse one may be hidden."""
    if change.interval is None:
        return f"; fewer than {LEAST_POSITIVES} positives, too few to tell it from chance"
    if over:
        return "" if change.is_sure() else "; within noise, on so few images"
    lowest = -change.interval[0]
    hidden = lowest > limit + ROUNDING
    return f"; on so few images a fall of up to {decimal(lowest)} cannot be excluded" if hidden else ""
