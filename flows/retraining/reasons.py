"""Why there is a retraining, or why not, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.retraining.asking import Case
from flows.retraining.forgotten import forgotten_line
from flows.taxonomies.untagged import untagged_line
from schemas.counts import counted
from schemas.retraining import LabelEvidence

OFF = "retraining is switched off (enabled = false under [retraining])"

_NAMED = 5  # labels named in a sentence


def iter_reasons(case: Case, labels: Sequence[LabelEvidence]) -> Iterator[str]:
    """Yield why, or why not, in sentences.

    Args:
        case: all that the decision rests on.
        labels: what is known of its labels.
    """
    if not case.policy.enabled:
        yield OFF
    if not case.is_tagged:
        yield f"there is nothing to train for: {untagged_line(case.taxonomy.name, case.tagged)}"
        return
    asking = sorted((label for label in labels if label.retrain), key=lambda label: (-label.positives, label.label_id))
    if asking and case.forgotten:
        yield forgotten_line(case.forgotten, case.taxonomy)
    yield from (f"{label.label_id}: {label.reason}" for label in asking[:_NAMED])
    if len(asking) > _NAMED:
        yield f"and {counted(len(asking) - _NAMED, 'more label', 'ask')} for it"
    if not asking:
        yield _why_not(case, labels)
    elif case.evidence.held_out < case.policy.min_held_out:
        yield (
            f"{case.evidence.held_out} held-out images of {case.evidence.images} annotated ones are fewer than the "
            f"{case.policy.min_held_out} that it takes to compare models: the new one could not be judged, and would "
            "wait for `clipdecoder models promote --force`"
        )
    if case.evidence.unread:
        yield (
            "gone or changed since, and what their side files say is not known: "
            f"{counted(len(case.evidence.unread), 'tagged shard')}, such as "
            f"{'/'.join(case.evidence.unread[0])}; tag them again"
        )


def _why_not(case: Case, labels: Sequence[LabelEvidence]) -> str:
    """Say of the labels that the current model does not know what each lacks."""
    if not case.evidence.images:
        return (
            "there is no ground truth yet: `clipdecoder annotations import` and `clipdecoder review export` make "
            "some, and so do .json side files in the shards"
        )
    known = {label.label_id: label for label in labels}
    unseen = [label.id for label in case.taxonomy.active_labels() if label.id not in case.seen]
    if not unseen:
        return f"the current model was trained on all labels that have ground truth ({len(labels)})"
    waiting = sorted(
        (label_id for label_id in unseen if label_id not in case.held_out),
        key=lambda label_id: (-case.evidence.positives.get(label_id, 0), label_id),
    )
    parts = [
        f"{label_id}: {known[label_id].reason if label_id in known else 'no answers yet'}"
        for label_id in waiting[:_NAMED]
    ]
    if len(waiting) > _NAMED:
        parts.append(f"and {len(waiting) - _NAMED} more")
    if len(unseen) > len(waiting):
        parts.append(f"{counted(len(unseen) - len(waiting), 'label', 'are')} held out on request")
    return f"no label asks for it ({'; '.join(parts)})"
