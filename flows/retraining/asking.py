"""Which labels ask for retraining: what is known of each, beside what the policy wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from flows.evaluation.tables import percent
from flows.retraining.current import held_out_labels
from flows.retraining.evidence import Evidence
from schemas.counts import counted
from schemas.manifest import ModelRecord
from schemas.retraining import LabelEvidence, RetrainPolicy
from schemas.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that a decision rests on."""

    taxonomy: Taxonomy
    policy: RetrainPolicy
    evidence: Evidence
    model: ModelRecord | None  # the current one
    precisions: Mapping[str, float]  # of its labels
    news: bool  # whether there is ground truth that it was not trained with
    forgotten: Mapping[str, str]  # labels of other taxonomies that a new model would not know
    tagged: frozenset[str]  # taxonomies that datasets were tagged with, by name

    @property
    def is_tagged(self) -> bool:
        """Whether there are images to train for."""
        return self.taxonomy.name in self.tagged

    @cached_property
    def held_out(self) -> frozenset[str]:
        """Labels that a new model holds out as the current one does."""
        return frozenset(held_out_labels(self.taxonomy, self.model))

    @cached_property
    def seen(self) -> frozenset[str]:
        """Labels that the current model was trained on."""
        return frozenset(self.model.seen_labels if self.model is not None else ())

    def labels(self) -> tuple[LabelEvidence, ...]:
        """Return the active labels of which anything is known, in the order of the taxonomy."""
        return tuple(
            self._label(label.id)
            for label in self.taxonomy.active_labels()
            if self.evidence.positives.get(label.id) or self.evidence.negatives.get(label.id)
        )

    def _label(self, label_id: str) -> LabelEvidence:
        asks, reason = self._judge(label_id)
        return LabelEvidence(
            label_id=label_id,
            positives=self.evidence.positives.get(label_id, 0),
            negatives=self.evidence.negatives.get(label_id, 0),
            seen=label_id in self.seen,
            average_precision=self.precisions.get(label_id),
            retrain=asks,
            reason=reason,
        )

    def _judge(self, label_id: str) -> tuple[bool, str]:
        """Return whether a label asks for retraining, and why or why not."""
        positives, needed = self.evidence.positives.get(label_id, 0), self.policy.min_positives
        negatives = self.evidence.negatives.get(label_id, 0)
        if label_id in self.held_out:
            return False, "held out on request: what novel labels score is measured on it"
        if label_id in self.seen:
            return self._judge_seen(self.precisions.get(label_id))
        if positives < needed:
            return False, f"{counted(positives, 'positive')}, {needed} needed"
        if not negatives:
            return False, f"{counted(positives, 'positive')} and no negative: pictures without it are needed too"
        return (
            True,
            f"{counted(positives, 'positive')} and {counted(negatives, 'negative')}, and the current model "
            "was not trained on it",
        )

    def _judge_seen(self, precision: float | None) -> tuple[bool, str]:
        bar = self.policy.ap_below
        if precision is None:
            return False, "the current model was trained on it"
        if bar is None or precision >= bar:
            return False, f"the current model was trained on it: average precision {percent(precision)} %"
        below = f"average precision {percent(precision)} %, below {percent(bar)} %"
        if not self.news:
            return False, f"{below}, and no ground truth that the current model was not trained with"
        return True, f"{below}, and there is ground truth that the current model was not trained with"
