"""The gates: numbers that a new model must keep. Pure: from logits, tags and ground truth to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipdecoder.judging.metrics import number_or_none
from clipdecoder.judging.tag_changes import Tags
from flows.retraining.gate_case import GateCase, Tagged
from flows.retraining.ranking_gates import (
    Precisions,
    gained_labels,
    precisions_of,
    ranking_gates,
    unmeasured_ranking,
)
from flows.retraining.tag_gates import tag_gates
from schemas.retraining import Gate, LabelComparison


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gates say."""

    images: int  # that precision was compared on
    left_aside: int  # held-out images that the current model had learned from
    gates: tuple[Gate, ...]
    labels: tuple[LabelComparison, ...]
    gained: tuple[str, ...]  # labels that asked for retraining and gained, beyond chance
    passed: bool


def judge(case: GateCase) -> Judgement:
    """Return every gate with its verdict.

    A gate that cannot be measured does not block, but for two cases: with too few held-out images nothing is known of
    the new model; and a gain that the policy requires must be measured.
    """
    precisions = precisions_of(case)
    images = precisions.images if precisions is not None else 0
    judged = precisions if images >= case.policy.min_held_out else None
    if judged is None:
        ranking = unmeasured_ranking(
            case, f"{images} held-out images, {case.policy.min_held_out} needed: annotate more"
        )
    else:
        ranking = ranking_gates(case, judged)
    gates = (*ranking, *tag_gates(case))
    return Judgement(
        images=images,
        left_aside=precisions.left_aside if precisions is not None else 0,
        gates=gates,
        labels=tuple(_labels(case, precisions, _intervals(case, judged) if judged is not None else {})),
        gained=gained_labels(case, judged) if judged is not None else (),
        passed=judged is not None and all(gate.passed is not False for gate in gates),
    )


def _intervals(case: GateCase, precisions: Precisions) -> dict[int, tuple[float, float] | None]:
    """Return by column where each label's change lies: as one of those that asked, or as one of the others."""
    changes = precisions.label_changes(case.asking_K) | precisions.label_changes(~case.asking_K)
    return {column: change.interval for column, change in changes.items()}


def _labels(
    case: GateCase, precisions: Precisions | None, intervals: Mapping[int, tuple[float, float] | None]
) -> list[LabelComparison]:
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
                asked=label_id in case.asking,
                positives=positives,
                ap_before=number_or_none(precisions.current_K[column]) if precisions is not None else None,
                ap_after=number_or_none(precisions.new_K[column]) if precisions is not None else None,
                ap_interval=intervals.get(column),
                rate_before=_rate(case.tagged, "current_CK", column),
                rate_after=_rate(case.tagged, "new_CK", column),
            )
        )
    return found


def _rate(tagged: Tagged | str, name: str, column: int) -> float | None:
    """Return the share of canary images with a tag; None where there are no tags."""
    tags: Tags | None = None if isinstance(tagged, str) else getattr(tagged, name)
    return None if tags is None or not len(tags) else float(tags[:, column].mean())
