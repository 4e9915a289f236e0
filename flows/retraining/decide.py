"""Whether to retrain: asked and answered once for each state of taxonomy and ground truth.

A decision is named by what it rests on, and not by the current model: a promotion changes the model and not the state,
so that what a decision made cannot ask for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from flows.evaluation.tables import percent
from flows.retraining.evidence import Evidence, read_evidence
from flows.retraining.forgotten import forgotten_labels, forgotten_line
from flows.taxonomies.untagged import untagged_line
from flows.training.plan import read_recipe
from schemas.checkpoint import CheckpointRecord
from schemas.counts import counted
from schemas.digests import digest_of
from schemas.evaluation import Evaluation
from schemas.manifest import ModelRecord
from schemas.retraining import LabelEvidence, RetrainDecision, RetrainOutcome, RetrainPolicy
from schemas.taxonomy import Taxonomy
from schemas.training import TrainConfig
from storage.catalog import check_store
from storage.files import Folder
from storage.labels import current_taxonomies
from storage.models import read_models, read_promotion
from storage.records import read_json
from storage.retraining import find_decision, find_gates, find_outcome, remove_outcome, write_decision
from storage.runs import read_runs

_NAMED = 5  # labels named in a sentence


def decide(folder: Folder, taxonomy: Taxonomy, policy: RetrainPolicy, *, keep: bool = True) -> RetrainDecision:
    """Return whether to retrain, and keep it in the store.

    A yes that was carried out is a no from then on. One that was not stays a yes, whichever model is promoted
    meanwhile, so that a retraining that was killed is found again.

    Args:
        folder: the store.
        taxonomy: the version to decide for; it need not be in force yet.
        policy: when it is worth it.
        keep: whether anything is written: the decision, and side files that nobody had kept.

    Raises:
        RequestError: the policy's recipe cannot be read.
        RunError: a shard cannot be read now.
        StoreError: there is no store, or it cannot be read or written.
    """
    check_store(folder)
    model = current_model(folder)
    recipe = recipe_of(policy, model)
    runs = read_runs(folder)
    evidence = read_evidence(
        folder,
        runs,
        taxonomy,
        missing=recipe.missing,
        held_out_share=policy.held_out_share,
        keep=keep,
    )
    decision_id = _decision_id(taxonomy, evidence, policy)
    stored, outcome = find_decision(folder, decision_id), find_outcome(folder, decision_id)
    if stored is not None and stored.retrain:
        return _settled(stored, outcome, policy)
    case = _Case(
        taxonomy=taxonomy,
        policy=policy,
        evidence=evidence,
        model=model,
        precisions=_precisions(folder, model),
        forgotten=forgotten_labels(folder, taxonomy, model),
        tagged=frozenset(known.name for current in current_taxonomies(folder, runs).values() for known in current),
    )
    made = case.decide(decision_id, folder)
    if stored is not None and made.model_copy(update={"decided_at": stored.decided_at}) == stored:
        return stored
    if keep:
        if made.retrain and outcome is not None:
            remove_outcome(folder, decision_id)  # of the no that was there before; first, or it would answer the yes
        write_decision(folder, made)
    return made


def current_model(folder: Folder) -> ModelRecord | None:
    """Return the record of the promoted model, if there is one."""
    promotion = read_promotion(folder)
    return read_models(folder).get(promotion.model_id) if promotion is not None else None


def recipe_of(policy: RetrainPolicy, model: ModelRecord | None) -> TrainConfig:
    """Return how to train: as the policy says, else as the current model was trained, else the default.

    Raises:
        RequestError: the policy's recipe cannot be read.
    """
    if policy.recipe is not None:
        return read_recipe(policy.recipe, {})
    checkpoint = _checkpoint(model)
    return checkpoint.train if checkpoint is not None and checkpoint.train is not None else TrainConfig()


def held_out_labels(taxonomy: Taxonomy, model: ModelRecord | None) -> tuple[str, ...]:
    """Return the active labels that the current model was asked to hold out: a new one holds them out as well."""
    checkpoint = _checkpoint(model)
    novel = set(checkpoint.novel_labels) if checkpoint is not None else set()
    return tuple(label.id for label in taxonomy.active_labels() if label.id in novel)


def _checkpoint(model: ModelRecord | None) -> CheckpointRecord | None:
    return model.checkpoint if model is not None else None


def _decision_id(taxonomy: Taxonomy, evidence: Evidence, policy: RetrainPolicy) -> str:
    """Return the name of a state. Another recipe or another limit is another question; switching it off is none."""
    recipe = read_recipe(policy.recipe, {}).model_dump(mode="json") if policy.recipe is not None else None
    asked = policy.model_dump(mode="json", exclude={"enabled", "recipe"}) | {"recipe": recipe}
    return digest_of({"taxonomy": taxonomy.digest, "ground_truth": evidence.digest, "policy": asked})


def _settled(stored: RetrainDecision, outcome: RetrainOutcome | None, policy: RetrainPolicy) -> RetrainDecision:
    """Return a yes of before as it stands now."""
    if outcome is not None:
        model = f" model {outcome.model_id}" if outcome.model_id is not None else ""
        why = (
            f"this state of taxonomy and ground truth was retrained on before, on {outcome.finished_at:%Y-%m-%d %H:%M} "
            f"UTC: {outcome.state}{model}"
        )
        return stored.model_copy(update={"retrain": False, "reasons": (why,)})
    if not policy.enabled:
        return stored.model_copy(update={"retrain": False, "reasons": (_OFF, *stored.reasons)})
    return stored


_OFF = "retraining is switched off (enabled = false under [retraining])"


def _precisions(folder: Folder, model: ModelRecord | None) -> dict[str, float]:
    """Return the average precision of a model's labels: as its gates measured it, else its newest evaluation."""
    if model is None:
        return {}
    gates = find_gates(folder, model.model_id)
    if gates is not None:
        return {label.label_id: label.ap_after for label in gates.labels if label.ap_after is not None}
    paths = folder.list(f"models/{model.model_id}/evaluations", "/metrics.json")
    evaluations = [read_json(folder, path, Evaluation) for path in paths]
    newest = max(evaluations, key=lambda evaluation: evaluation.created_at, default=None)
    labels = newest.labels if newest is not None else ()
    return {label.label_id: label.average_precision for label in labels if label.average_precision is not None}


@dataclass(frozen=True, kw_only=True)
class _Case:
    """All that a decision rests on."""

    taxonomy: Taxonomy
    policy: RetrainPolicy
    evidence: Evidence
    model: ModelRecord | None
    precisions: Mapping[str, float]
    forgotten: Mapping[str, str]  # labels of other taxonomies that a new model would not know
    tagged: frozenset[str]  # taxonomies that datasets were tagged with, by name

    def decide(self, decision_id: str, folder: Folder) -> RetrainDecision:
        """Return the decision."""
        fresh = self._is_fresh(folder)
        labels = tuple(
            self._label(label.id, fresh=fresh)
            for label in self.taxonomy.active_labels()
            if self.evidence.positives.get(label.id) or self.evidence.negatives.get(label.id)
        )
        asking = [label for label in labels if label.retrain]
        return RetrainDecision(
            decision_id=decision_id,
            taxonomy=self.taxonomy.name,
            taxonomy_digest=self.taxonomy.digest,
            ground_truth_digest=self.evidence.digest,
            model_id=self.model.model_id if self.model is not None else None,
            retrain=bool(asking) and self.policy.enabled and not self.forgotten and self._is_tagged,
            reasons=tuple(self._reasons(labels, asking)),
            labels=labels,
            policy=self.policy,
            decided_at=datetime.now(UTC),
        )

    @property
    def _is_tagged(self) -> bool:
        return self.taxonomy.name in self.tagged

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(held_out_labels(self.taxonomy, self.model))

    @cached_property
    def _seen(self) -> frozenset[str]:
        return frozenset(self.model.seen_labels if self.model is not None else ())

    def _label(self, label_id: str, *, fresh: bool) -> LabelEvidence:
        asks, reason = self._judge(label_id, fresh=fresh)
        return LabelEvidence(
            label_id=label_id,
            positives=self.evidence.positives.get(label_id, 0),
            negatives=self.evidence.negatives.get(label_id, 0),
            seen=label_id in self._seen,
            average_precision=self.precisions.get(label_id),
            retrain=asks,
            reason=reason,
        )

    def _judge(self, label_id: str, *, fresh: bool) -> tuple[bool, str]:
        """Return whether a label asks for retraining, and why or why not."""
        positives, needed = self.evidence.positives.get(label_id, 0), self.policy.min_positives
        negatives = self.evidence.negatives.get(label_id, 0)
        if label_id in self._held_out:
            return False, "held out on request: what novel labels score is measured on it"
        if label_id in self._seen:
            return self._judge_seen(self.precisions.get(label_id), fresh=fresh)
        if positives < needed:
            return False, f"{counted(positives, 'positive')}, {needed} needed"
        if not negatives:
            return False, f"{counted(positives, 'positive')} and no negative: pictures without it are needed too"
        return (
            True,
            f"{counted(positives, 'positive')} and {counted(negatives, 'negative')}, and the current model "
            "was not trained on it",
        )

    def _judge_seen(self, precision: float | None, *, fresh: bool) -> tuple[bool, str]:
        bar = self.policy.ap_below
        if precision is None:
            return False, "the current model was trained on it"
        if bar is None or precision >= bar:
            return False, f"the current model was trained on it: average precision {percent(precision)} %"
        below = f"average precision {percent(precision)} %, below {percent(bar)} %"
        if not fresh:
            return False, f"{below}, and no ground truth that the current model was not trained with"
        return True, f"{below}, and there is ground truth that the current model was not trained with"

    def _is_fresh(self, folder: Folder) -> bool:
        """Whether there is ground truth beyond what the current model was trained with."""
        checkpoint = _checkpoint(self.model)
        if self.model is None or checkpoint is None or checkpoint.data is None:
            return True
        gates = find_gates(folder, self.model.model_id)
        made_by = find_decision(folder, gates.decision_id) if gates is not None else None
        if made_by is not None:
            return made_by.ground_truth_digest != self.evidence.digest
        positives = sum(self.evidence.positives.get(label_id, 0) for label_id in self.model.seen_labels)
        return self.evidence.images > checkpoint.data.images or positives > checkpoint.data.positives

    def _reasons(self, labels: Sequence[LabelEvidence], asking: Sequence[LabelEvidence]) -> Iterator[str]:
        """Yield why, or why not, in sentences."""
        if not self.policy.enabled:
            yield _OFF
        if not self._is_tagged:
            yield f"there is nothing to train for: {untagged_line(self.taxonomy.name, self.tagged)}"
            return
        if asking and self.forgotten:
            yield forgotten_line(self.forgotten, self.taxonomy)
        most_first = sorted(asking, key=lambda label: (-label.positives, label.label_id))
        yield from (f"{label.label_id}: {label.reason}" for label in most_first[:_NAMED])
        if len(asking) > _NAMED:
            yield f"and {len(asking) - _NAMED} more labels ask for it"
        if not asking:
            yield self._why_not(labels)
        elif self.evidence.held_out < self.policy.min_held_out:
            yield (
                f"only {self.evidence.held_out} of {self.evidence.images} annotated images are held out, and "
                f"{self.policy.min_held_out} are needed to compare models: the new one could not be judged, and would "
                "wait for `clipdecoder models promote --force`"
            )
        if self.evidence.unread:
            yield (
                f"{len(self.evidence.unread)} tagged shards are gone or have changed, and what their side files say is "
                f"not known, such as {'/'.join(self.evidence.unread[0])}; tag them again"
            )

    def _why_not(self, labels: Sequence[LabelEvidence]) -> str:
        if not self.evidence.images:
            return (
                "there is no ground truth yet: `clipdecoder annotations import` and `clipdecoder review export` make "
                "some, and so do .json side files in the shards"
            )
        known = {label.label_id: label for label in labels}
        unseen = [label.id for label in self.taxonomy.active_labels() if label.id not in self._seen]
        if not unseen:
            return f"the current model was trained on all {len(labels)} labels that have ground truth"
        waiting = sorted(
            (label_id for label_id in unseen if label_id not in self._held_out),
            key=lambda label_id: (-self.evidence.positives.get(label_id, 0), label_id),
        )
        parts = [
            f"{label_id}: {known[label_id].reason if label_id in known else 'no answers yet'}"
            for label_id in waiting[:_NAMED]
        ]
        if len(waiting) > _NAMED:
            parts.append(f"and {len(waiting) - _NAMED} more")
        if len(unseen) > len(waiting):
            parts.append(f"{len(unseen) - len(waiting)} labels are held out on request")
        return f"no label asks for it ({'; '.join(parts)})"
