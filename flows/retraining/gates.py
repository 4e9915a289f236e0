"""The gates: numbers that a new model must keep. Pure: from logits, tags and ground truth to a verdict.

Shapes: N held-out images, K labels, C canary images, S labels of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdecoder.judging.metrics import average_precisions, mean_or_nan, number_or_none
from clipdecoder.judging.tag_changes import Tags, flip_rate, rate_changes
from flows.evaluation.tables import decimal
from schemas.counts import counted
from schemas.manifest import ModelRecord
from schemas.retraining import Gate, LabelComparison, RetrainPolicy

# A label that neither model tags on so many canary images says nothing of how common it is.
MIN_TAGGED = 5


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What both models say of the same held-out images."""

    targets_NK: NDArray[np.int8]
    fingerprints_N: NDArray[np.uint64]
    current_NK: NDArray[np.float32]
    new_NK: NDArray[np.float32]

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

    def seen_K(self, record: ModelRecord) -> NDArray[np.bool_]:
        """Return which labels a model was trained on."""
        seen = frozenset(record.seen_labels)
        return np.array([label_id in seen for label_id in self.label_ids], np.bool_)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gates say."""

    images: int  # that precision was compared on
    left_aside: int  # held-out images that the current model had learned from
    gates: tuple[Gate, ...]
    labels: tuple[LabelComparison, ...]
    passed: bool


@dataclass(frozen=True, kw_only=True)
class _Precisions:
    """The average precision of each label under both models, NaN where it has none; and what to know of it."""

    current_K: NDArray[np.float64]
    new_K: NDArray[np.float64]
    positives_K: NDArray[np.int64]
    images: int
    left_aside: int
    note: str


def judge(case: GateCase) -> Judgement:
    """Return every gate with its verdict.

    A gate that cannot be measured does not block, but for one case: with too few held-out images nothing is known of
    the new model.
    """
    precisions = _precisions(case)
    enough = precisions is not None and precisions.images >= case.policy.min_held_out
    if precisions is None or not enough:
        images = precisions.images if precisions is not None else 0
        why = f"{images} held-out images, {case.policy.min_held_out} needed: annotate more"
        limits = (("seen_map", case.policy.max_seen_drop), ("novel_map", case.policy.max_novel_drop))
        ranking = tuple(_unmeasured(name, limit, why) for name, limit in limits)
    else:
        ranking = _ranking_gates(case, precisions)
    gates = (*ranking, *_tag_gates(case))
    return Judgement(
        images=precisions.images if precisions is not None else 0,
        left_aside=precisions.left_aside if precisions is not None else 0,
        gates=gates,
        labels=tuple(_labels(case, precisions)),
        passed=enough and all(gate.passed is not False for gate in gates),
    )


def _precisions(case: GateCase) -> _Precisions | None:
    """Return the average precisions on held-out images that the current model has not learned from, if they suffice."""
    if case.held is None:
        return None
    unlearned_N = ~np.isin(case.held.fingerprints_N, case.learned_from)
    held, left_aside, note = case.held.rows(unlearned_N), int((~unlearned_N).sum()), ""
    if len(held.targets_NK) < case.policy.min_held_out <= len(case.held.targets_NK):
        note = f"; the old model learned from {left_aside} of these images, which flatters it"
        held, left_aside = case.held, 0
    return _Precisions(
        current_K=average_precisions(held.current_NK, held.targets_NK),
        new_K=average_precisions(held.new_NK, held.targets_NK),
        positives_K=(held.targets_NK == 1).sum(axis=0),
        images=len(held.targets_NK),
        left_aside=left_aside,
        note=note,
    )


def _ranking_gates(case: GateCase, precisions: _Precisions) -> tuple[Gate, ...]:
    current_K, new_K = case.seen_K(case.current), case.seen_K(case.new)
    # A model that was trained on nothing has to be beaten, or equalled, on what the new one learned.
    seen_K, whose = (current_K, "of the old model") if current_K.any() else (new_K, "that the new model learned")
    policy = case.policy
    return (
        _ranking_gate("seen_map", policy.max_seen_drop, precisions, seen_K, whose),
        _ranking_gate(
            "novel_map", policy.max_novel_drop, precisions, ~(current_K | new_K), "that neither model was trained on"
        ),
    )


def _ranking_gate(name: str, limit: float, precisions: _Precisions, group_K: NDArray[np.bool_], whose: str) -> Gate:
    before, after = (mean_or_nan(values[group_K]) for values in (precisions.current_K, precisions.new_K))
    labels = int((~np.isnan(precisions.current_K[group_K])).sum())
    if not labels:
        return _unmeasured(name, limit, f"no label {whose} has positives and negatives among the held-out images")
    why = (
        f"mAP {decimal(before)} -> {decimal(after)} on {counted(labels, 'label')} {whose}, "
        f"{precisions.images} held-out images"
        f"{precisions.note}"
    )
    # A difference at the limit passes: floating point must not decide.
    return _gate(name, limit, before, after, passed=before - after <= limit + 1e-9, why=why)


def _tag_gates(case: GateCase) -> tuple[Gate, ...]:
    rate, flips = case.policy.max_rate_change, case.policy.max_flip_rate
    both = np.flatnonzero(case.seen_K(case.current) & case.seen_K(case.new))
    if isinstance(case.tagged, str):
        return _unmeasured("positive_rate", rate, case.tagged), _unmeasured("flip_rate", flips, case.tagged)
    if not len(both):
        why = "no label was learned by both models"
        return _unmeasured("positive_rate", rate, why), _unmeasured("flip_rate", flips, why)
    current, new = case.tagged.current_CK[:, both], case.tagged.new_CK[:, both]
    return _rate_gate(rate, [case.label_ids[k] for k in both.tolist()], current, new), _flip_gate(flips, current, new)


def _rate_gate(limit: float, label_ids: Sequence[str], current: Tags, new: Tags) -> Gate:
    changes_S = rate_changes(current, new, MIN_TAGGED)
    measured = int((~np.isnan(changes_S)).sum())
    if not measured:
        return _unmeasured("positive_rate", limit, f"no label is tagged on {MIN_TAGGED} canary images or more")
    worst = int(np.nanargmax(np.abs(changes_S)))
    before, after = float(current[:, worst].mean()), float(new[:, worst].mean())
    why = (
        f"{label_ids[worst]} changes most: tagged on {decimal(before)} -> {decimal(after)} of {len(current)} canary "
        f"images; {measured} labels with {MIN_TAGGED} tags or more were looked at"
    )
    return _gate("positive_rate", limit, before, after, passed=abs(after - before) <= limit + 1e-9, why=why)


def _flip_gate(limit: float, current: Tags, new: Tags) -> Gate:
    rate = flip_rate(current, new)
    if np.isnan(rate):
        return _unmeasured("flip_rate", limit, "neither model tags a canary image with a label that both learned")
    either, alone = int((current | new).sum()), int((current ^ new).sum())
    why = f"{alone} of {either} tags on the canary are given by one of the two models alone"
    return _gate("flip_rate", limit, None, rate, passed=rate <= limit + 1e-9, why=why)


def _gate(name: str, limit: float, before: float | None, after: float | None, *, passed: bool | None, why: str) -> Gate:
    return Gate.model_validate(
        {"name": name, "limit": limit, "before": before, "after": after, "passed": passed, "why": why}
    )


def _unmeasured(name: str, limit: float, why: str) -> Gate:
    return _gate(name, limit, None, None, passed=None, why=f"not measured: {why}")


def _labels(case: GateCase, precisions: _Precisions | None) -> list[LabelComparison]:
    """Return the labels that a model was trained on or that have positives here, in the order of the taxonomy."""
    current_K, new_K = case.seen_K(case.current), case.seen_K(case.new)
    found = []
    for column, label_id in enumerate(case.label_ids):
        positives = int(precisions.positives_K[column]) if precisions is not None else 0
        if not (positives or current_K[column] or new_K[column]):
            continue
        found.append(
            LabelComparison(
                label_id=label_id,
                group="seen" if current_K[column] else "learned" if new_K[column] else "novel",
                positives=positives,
                ap_before=number_or_none(precisions.current_K[column]) if precisions is not None else None,
                ap_after=number_or_none(precisions.new_K[column]) if precisions is not None else None,
                rate_before=_rate(case.tagged, "current_CK", column),
                rate_after=_rate(case.tagged, "new_CK", column),
            )
        )
    return found


def _rate(tagged: Tagged | str, name: str, column: int) -> float | None:
    """Return the share of canary images with a tag; None where there are no tags."""
    tags: Tags | None = None if isinstance(tagged, str) else getattr(tagged, name)
    return None if tags is None or not len(tags) else float(tags[:, column].mean())
