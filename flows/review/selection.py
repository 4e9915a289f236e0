"""Which questions to ask: for each label a mix of unsure, highest and drawn pictures, novel labels first. Pure.

Of a label's questions one in eight is about a picture drawn by lot, which shows what the scores miss. Of a novel
label's, three in eight are about the highest scores below its threshold (without a fitted threshold: the highest of
all), where pictures of a rare label turn up. All others are about the pictures nearest the threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from schemas.review import Reason
from storage.review import Candidate, LabelPool, ReviewLabel, ReviewPool

_RANDOM_SHARE = 1 / 8
_TOP_SHARE = 3 / 8  # of novel labels


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question: is this label on this picture?"""

    label: ReviewLabel
    candidate: Candidate
    reason: Reason


def choose_tasks(labels: Sequence[ReviewLabel], pool: ReviewPool, *, per_label: int, limit: int) -> list[Task]:
    """Return the questions, label by label, so that the eye stays on one: novel labels first, then by name.

    A label's questions begin with its highest score, which shows what it looks like, and end with the pictures that
    have none. Where `limit` is reached, novel labels are served before seen ones, and those of a group evenly.
    """
    ordered = sorted(labels, key=lambda label: (label.seen, label.name.casefold(), label.label_id))
    chosen = {label.label_id: _of_label(label, pool.labels[label.label_id], per_label) for label in ordered}
    rounds = [
        task
        for seen in (False, True)
        for layer in zip_longest(*(chosen[label.label_id] for label in ordered if label.seen == seen))
        for task in layer
        if task is not None
    ]
    places = {label.label_id: place for place, label in enumerate(ordered)}
    return sorted(rounds[:limit], key=lambda task: (places[task.label.label_id], *_highest_first(task.candidate)))


def _highest_first(candidate: Candidate) -> tuple[bool, float, str]:
    return candidate.score is None, -(candidate.score or 0.0), candidate.sha256


def _of_label(label: ReviewLabel, pool: LabelPool, count: int) -> list[Task]:
    """Return a label's questions, each content once, the kinds mixed evenly so that a part of them is a mix as well."""
    kinds: dict[Reason, list[Candidate]] = {"near": _nearest(pool), "top": _highest(pool), "random": pool.drawn}
    num_random = round(count * _RANDOM_SHARE)
    num_top = 0 if label.seen else round(count * _TOP_SHARE)
    quotas: list[tuple[Reason, int]] = [
        ("near", count - num_top - num_random),
        ("top", num_top),
        ("random", num_random),
        *((reason, count) for reason in kinds),  # where a kind has too few, others fill its place
    ]
    taken: dict[str, Task] = {}
    positions: dict[str, float] = {}
    for reason, quota in quotas:
        found = _untaken(kinds[reason], taken, min(quota, count - len(taken)))
        for number, candidate in enumerate(found):
            taken[candidate.sha256] = Task(label=label, candidate=candidate, reason=reason)
            positions[candidate.sha256] = (number + 0.5) / len(found)
    return [taken[content] for content in sorted(taken, key=lambda content: positions[content])]


def _untaken(candidates: Iterable[Candidate], taken: dict[str, Task], count: int) -> list[Candidate]:
    """Return the first so many candidates whose content is not taken, each content once."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        if len(found) >= count:
            break
        if candidate.sha256 not in taken:
            found.setdefault(candidate.sha256, candidate)
    return list(found.values())


def _nearest(pool: LabelPool) -> list[Candidate]:
    """Return the pictures nearest the threshold first.

    Fitted scores are probabilities, and distances of both sides compare. Others are only an order: there the sides take
    turns.
    """
    if all(candidate.judged for candidate in (*pool.above, *pool.below)):
        return sorted((*pool.above, *pool.below), key=lambda each: abs((each.score or 0.0) - each.threshold))
    layers = zip_longest(pool.above, pool.below)
    return [candidate for layer in layers for candidate in layer if candidate is not None]


def _highest(pool: LabelPool) -> list[Candidate]:
    """Return the highest scores that a fitted threshold does not tag: there the model may have missed the label.

    Where no threshold was fitted, the highest of all: there the label is most likely.
    """
    return pool.below if all(candidate.judged for candidate in pool.below) else pool.highest
