"""Which labels shards lack: those that the views show no scores of, or others than are asked for.

Other ones are scores for texts that the label does not have any more, or by another scorer where one is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from schemas.checkpoint import Scorer
from schemas.taxonomy import ScoredLabel, VocabularyLabel
from storage.patterns import ShardRef
from storage.runs import StoredRun
from storage.visibility import visible_labels

ShownLabels = dict[str, Mapping[str, ScoredLabel]]  # by shard, by label id
Vocabulary = tuple[VocabularyLabel, ...]


def lacking_groups(
    vocabulary: Vocabulary, shown: ShownLabels, shards: Iterable[ShardRef]
) -> Iterator[tuple[Vocabulary, tuple[ShardRef, ...]]]:
    """Yield the shards that lack some labels, together with those that lack the same; the most labels come first.

    One that was never tagged lacks all of them, and so does one that is not there: a run says so.
    """
    groups: dict[Vocabulary, list[ShardRef]] = {}
    # Thousands of shards were visited by the same runs, and share what the views show of them: look at that once.
    group_of: dict[int, list[ShardRef]] = {}
    nothing: Mapping[str, ScoredLabel] = {}
    for ref in shards:
        scored = shown.get(ref.shard, nothing) if ref.fingerprint is not None else nothing
        if id(scored) not in group_of:
            group_of[id(scored)] = groups.setdefault(_lacking(vocabulary, scored), [])
        group_of[id(scored)].append(ref)
    groups.pop((), None)
    for lacking, refs in sorted(groups.items(), key=lambda group: -len(group[0])):
        yield lacking, tuple(refs)


def _lacking(vocabulary: Vocabulary, scored: Mapping[str, ScoredLabel]) -> Vocabulary:
    digests = {label_id: label.query_digest for label_id, label in scored.items()}
    return tuple(label for label in vocabulary if digests.get(label.label_id) != label.query_digest)


def shown_labels(
    runs: Iterable[StoredRun], dataset: str, model_id: str, scorer: Scorer | None, shards: Iterable[ShardRef]
) -> ShownLabels:
    """Return by shard the labels that the views show of a model, for shards whose bytes are still those scored.

    Where a scorer is asked for, labels that the views show by another one are left out.
    """
    fingerprints = {ref.shard: ref.fingerprint for ref in shards}
    current = [
        replace(run, reports=tuple(r for r in run.reports if r.fingerprint == fingerprints.get(r.shard)))
        for run in runs
        if run.record.dataset == dataset
    ]
    return {shard: labels for (_, shard), labels in visible_labels(current, model_id, scorer).items()}
