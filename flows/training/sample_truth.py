"""What is known of one sample's labels: its side file and the answers about it, joined.

Of what is said about one label of a sample the newest counts; a side file is as old as its shard. Labels that were
merged into one are joined afterwards: a yes for any of them is a yes for the label that answers for them, and a no
counts before a doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from schemas.label_words import LabelWords
from schemas.taxonomy import Taxonomy
from storage.annotations import Answers
from storage.ground_truth import SampleLabels, ShardLabels

_YES, _NO, _UNSURE = 1, 0, -1  # of what was said at one time the highest counts


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTruth:
    """Ids of active labels, by what is known of them."""

    there: tuple[str, ...]
    absent: tuple[str, ...]
    unsure: tuple[str, ...]  # somebody looked and could not tell
    described: bool  # a side file describes the sample: it would name other labels too, if it knew them

    @property
    def annotated(self) -> bool:
        """Whether anything is known."""
        return self.described or bool(self.there or self.absent)


@dataclass(kw_only=True)
class TruthFinder:
    """Joins side files and answers under one taxonomy, and counts what means no label of it."""

    taxonomy: Taxonomy
    answers: Answers
    words: LabelWords = field(init=False)
    asked: dict[str, set[str]] = field(default_factory=dict)  # by dataset: the labels that its side files name

    def __post_init__(self) -> None:
        self.words = LabelWords(self.taxonomy)
        self._target = {label.id: self.taxonomy.resolve(label.id) for label in self.taxonomy.scored_labels()}

    def of(self, dataset: str, shard: str, sample: int, key: str, labels: ShardLabels) -> SampleTruth:
        """Return what is known of a sample, given what the side files of its shard say."""
        said = labels.samples.get(sample)
        newest: dict[str, tuple[datetime, int]] = {}
        if said is not None:
            asked = self.asked.setdefault(dataset, set())
            for label_id, value in self._side(said):
                asked.add(self._target[label_id])
                newest[label_id] = max(newest.get(label_id, (labels.changed_at, value)), (labels.changed_at, value))
        for label_id, answer in self.answers.of(dataset, shard, key).items():
            if label_id in self._target:
                value = _UNSURE if answer.value is None else answer.value
                newest[label_id] = max(newest.get(label_id, (answer.at, value)), (answer.at, value))
        return self._joined(newest, described=said is not None)

    def _side(self, said: SampleLabels) -> Iterator[tuple[str, int]]:
        yield from ((label_id, _YES) for label_id in self.words.named(said.labels))
        yield from ((label_id, _NO) for label_id in self.words.named(said.absent))

    def _joined(self, newest: dict[str, tuple[datetime, int]], *, described: bool) -> SampleTruth:
        best: dict[str, int] = {}
        for label_id, (_, value) in newest.items():
            target = self._target[label_id]
            best[target] = max(best.get(target, value), value)
        there, absent, unsure = (
            tuple(label_id for label_id, found in best.items() if found == value) for value in (_YES, _NO, _UNSURE)
        )
        return SampleTruth(there=there, absent=absent, unsure=unsure, described=described)
