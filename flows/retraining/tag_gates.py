"""The gates on tags: how often each label is given to the canary's images, and how many tags one model gives alone.

Shapes: C canary images, S labels that both models learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipdecoder.judging.chance import Change
from clipdecoder.judging.tag_changes import Tags, flip_rate, rate_change_errors, rate_changes
from flows.evaluation.tables import decimal
from flows.retraining.gate_case import ROUNDING, GateCase, measured, unmeasured
from schemas.counts import counted
from schemas.retraining import Gate

# A label that neither model tags on so many canary images says nothing of how common it is.
MIN_TAGGED = 5


def tag_gates(case: GateCase) -> tuple[Gate, ...]:
    """Return the gates on the tags of labels that both models learned."""
    rate, flips = case.policy.max_rate_change, case.policy.max_flip_rate
    both = np.flatnonzero(case.seen_K(case.current) & case.seen_K(case.new))
    if isinstance(case.tagged, str):
        return unmeasured("positive_rate", rate, case.tagged), unmeasured("flip_rate", flips, case.tagged)
    if not len(both):
        why = "no label was learned by both models"
        return unmeasured("positive_rate", rate, why), unmeasured("flip_rate", flips, why)
    current, new = case.tagged.current_CK[:, both], case.tagged.new_CK[:, both]
    return _rate_gate(rate, [case.label_ids[k] for k in both.tolist()], current, new), _flip_gate(flips, current, new)


def _rate_gate(limit: float, label_ids: Sequence[str], current: Tags, new: Tags) -> Gate:
    """Return the gate on the label that changes most; of those over the limit, the one that is least chance."""
    changes_S, errors_S = rate_changes(current, new, MIN_TAGGED), rate_change_errors(current, new)
    looked_at = np.flatnonzero(~np.isnan(changes_S)).tolist()
    if not looked_at:
        return unmeasured("positive_rate", limit, f"no label is tagged on {MIN_TAGGED} canary images or more")
    found = {
        label: Change(value=float(changes_S[label]), error=float(errors_S[label]), comparisons=len(looked_at))
        for label in looked_at
    }

    def failing(label: int) -> tuple[bool, float]:
        size = abs(found[label].value)
        return size > limit + ROUNDING and found[label].is_sure(), size

    worst = max(looked_at, key=failing)
    sure, size = failing(worst)
    over = size > limit + ROUNDING
    before, after = float(current[:, worst].mean()), float(new[:, worst].mean())
    why = (
        f"{label_ids[worst]} changes most: tagged on {decimal(before)} -> {decimal(after)} of {len(current)} canary "
        f"images; {counted(len(looked_at), 'label')} with {MIN_TAGGED} tags or more looked at"
        f"{'; within noise, on so few images' if over and not sure else ''}"
    )
    return measured("positive_rate", limit, before, after, over=over, sure=sure, why=why, change=found[worst])


def _flip_gate(limit: float, current: Tags, new: Tags) -> Gate:
    """Return the gate on tags that one model alone gives: a count on the canary itself, in which chance has no part."""
    rate = flip_rate(current, new)
    if np.isnan(rate):
        return unmeasured("flip_rate", limit, "neither model tags a canary image with a label that both learned")
    either, alone = int((current | new).sum()), int((current ^ new).sum())
    why = f"of {counted(either, 'tag')} on the canary one of the two models alone gives {alone}"
    return Gate(name="flip_rate", limit=limit, before=None, after=rate, passed=rate <= limit + ROUNDING, why=why)
