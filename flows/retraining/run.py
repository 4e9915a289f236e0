"""Retraining from decision to promotion. Killed anywhere, the same call goes on.

What is there is found again: the decision by the state of the store, the training by its id, the comparison beside the
new model, the promotion as one small file. The outcome is written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from flows.evaluation.tables import percent
from flows.retraining.card import tell_on_card
from flows.retraining.compare import Comparison, compare
from flows.retraining.current import held_out_labels, recipe_of
from flows.retraining.decide import decide
from flows.retraining.evidence import ShardKey
from flows.retraining.sources import Canary, Needs, annotated_reports, datasets_of, find_canary, usable
from flows.retraining.summary import asked_line, some, trained_for
from flows.train import TrainWatch, run_train
from flows.training.plan import TrainPlan, plan_train
from schemas.config import DEFAULT_MODEL, EncodeOptions, RetrainRequest, TrainRequest
from schemas.counts import counted
from schemas.errors import ConfigError, ModelError, RequestError, RunError, StoreError, TaxonomyError
from schemas.manifest import ModelRecord
from schemas.retraining import GateReport, RetrainDecision, RetrainOutcome, RetrainPolicy
from schemas.taxonomy import Taxonomy
from storage.annotations import read_answers
from storage.files import Folder
from storage.models import promote, read_model, read_models, read_promotion
from storage.retraining import find_decision, find_gates, find_outcome, write_gates, write_outcome
from storage.runs import StoredRun, read_runs
from storage.taxonomies import applied_taxonomy

_FIRST = "the first model of this store"


def run_retrain(request: RetrainRequest, watch: TrainWatch | None = None) -> RetrainOutcome:
    """Decide; if it is worth it train, compare with the current model, and promote the new one unless a gate fails.

    Returns the outcome; of a state that was decided before, the outcome of then. A training that cannot be done, as
    there is too little to learn from, is declined.

    Raises:
        RequestError: no taxonomy is applied, or the policy names what is not there.
        RunError: a shard cannot be read; the same call goes on.
    """
    folder = Folder(request.store)
    taxonomy = applied_taxonomy(folder, request.taxonomy)
    runs = read_runs(folder)
    canary = find_canary(runs, request.policy.canary)  # what is wrong with it is found before hours of training
    decision = decide(folder, taxonomy, request.policy)
    if not decision.retrain:
        return _declined(folder, decision)
    retraining = _Retraining(
        request=request, folder=folder, taxonomy=taxonomy, runs=runs, canary=canary, decision=decision
    )
    return retraining.carry_out(watch or TrainWatch())


def _declined(folder: Folder, decision: RetrainDecision) -> RetrainOutcome:
    """Return what came of a state that is not to be retrained on: what was before, else this decision."""
    before, stored = find_outcome(folder, decision.decision_id), find_decision(folder, decision.decision_id)
    outcome = _outcome(decision, "declined", None, decision.reasons)
    if stored is not None and stored.retrain:  # carried out before; or switched off meanwhile, which settles nothing
        return before or outcome
    if before is not None and before.reasons == decision.reasons:
        return before
    write_outcome(folder, outcome)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Retraining:
    """A decision that is a yes, to be carried out."""

    request: RetrainRequest
    folder: Folder
    taxonomy: Taxonomy
    runs: Sequence[StoredRun]
    canary: Canary | None
    decision: RetrainDecision

    def carry_out(self, watch: TrainWatch) -> RetrainOutcome:
        """Train, compare, promote; write the outcome."""
        plan, left_out = self._plan()
        try:
            summary = run_train(plan, watch)
        except (StoreError, ModelError, ConfigError, TaxonomyError):
            raise
        except RequestError as error:  # what there is cannot be learned from: that will not change with another try
            return self._finish("declined", None, (f"the training cannot be done: {error}",))
        assert summary is not None, "retraining is one process"
        outcome = self._judge(read_model(self.folder, summary.model_id), watch)
        return self._finish(outcome.state, outcome.model_id, (*outcome.reasons, *_left_out(left_out)))

    def _judge(self, new: ModelRecord, watch: TrainWatch) -> RetrainOutcome:
        """Compare the new model, and promote it if no gate fails."""
        promotion = read_promotion(self.folder) or promote(self.folder, new.model_id, _FIRST)
        report = find_gates(self.folder, new.model_id)
        if report is not None and report.decision_id != self.decision.decision_id:
            report = None  # under another policy
        if promotion.model_id == new.model_id and report is None:
            return self._is_current(new)
        if report is None or promotion.model_id not in (report.current_model_id, new.model_id):
            report = self._compare(read_model(self.folder, promotion.model_id), new, watch)
        tell_on_card(self.folder, report)
        if not report.passed:
            reasons = [f"{gate.name}: {gate.why}" for gate in report.gates if gate.name in report.holding]
            reasons += [asked_line(report)] if report.asked else []
            return _outcome(self.decision, "refused", new.model_id, tuple(reasons))
        why = f"retraining {self.decision.decision_id} {trained_for(report, self.decision.asking)}"
        promote(self.folder, new.model_id, why)
        return _outcome(self.decision, "promoted", new.model_id, tuple(_praise(report)))

    def _is_current(self, new: ModelRecord) -> RetrainOutcome:
        """Return the outcome where the new model is shown already, and was not compared for this decision."""
        if self.decision.model_id is None:
            return _outcome(self.decision, "promoted", new.model_id, (_FIRST,))
        reason = f"training on this ground truth gives the current model {new.model_id} again"
        return _outcome(self.decision, "declined", None, (reason,))

    def _compare(self, current: ModelRecord, new: ModelRecord, watch: TrainWatch) -> GateReport:
        case = Comparison(
            request=self.request,
            decision_id=self.decision.decision_id,
            asking=frozenset(self.decision.asking),
            taxonomy=self.taxonomy,
            runs=self.runs,
            canary=self.canary,
            current=current,
            new=new,
        )
        report = compare(case, watch.on_progress)
        write_gates(self.folder, report)
        return report

    def _plan(self) -> tuple[TrainPlan, tuple[ShardKey, ...]]:
        """Return the training, and the annotated shards that are gone.

        It rests on the model of the decision: after a promotion, that is not the current one any more.

        Raises:
            RequestError: the base, the text encoder or the recipe is wrong.
            RunError: no annotated shard can be used.
        """
        policy, model = self.request.policy, read_models(self.folder).get(self.decision.model_id or "")
        recipe = recipe_of(policy, model)
        base, text = _encoders(policy, model)
        request = TrainRequest(
            shards=self._patterns(),
            taxonomy=self.taxonomy.digest,
            store=self.request.store,
            base=base,
            text=text,
            recipe=recipe,
            held_out_share=policy.held_out_share,
            **self.request.model_dump(include=set(EncodeOptions.model_fields)),
        )
        plan = plan_train(request, datasets=())
        frozen = recipe.finetune == "none"
        needs = Needs(encoder_id=plan.encoders.image.encoder_id, tokens=frozen, pixels=not frozen)
        annotated = annotated_reports(self.folder, self.runs, read_answers(self.folder))
        reports, left_out = usable(self.folder, annotated, needs)
        if not reports:
            raise RunError(
                f"none of the {len(annotated)} annotated shards has stored features of this backbone, and all are gone "
                "or have changed since they were tagged; put them back, or tag them again, and run the same command"
            )
        novel = held_out_labels(self.taxonomy, model)
        return replace(plan, datasets=datasets_of(self.runs, reports), novel=novel), left_out

    def _patterns(self) -> tuple[str, ...]:
        return tuple(sorted({pattern for run in self.runs for pattern in run.record.patterns}))

    def _finish(
        self, state: Literal["declined", "promoted", "refused"], model_id: str | None, reasons: tuple[str, ...]
    ) -> RetrainOutcome:
        outcome = _outcome(self.decision, state, model_id, reasons)
        write_outcome(self.folder, outcome)
        return outcome


def _encoders(policy: RetrainPolicy, model: ModelRecord | None) -> tuple[str, str | None]:
    """Return image backbone and text encoder: as the policy says, else the current model's."""
    if policy.base is not None or model is None:
        return policy.base or DEFAULT_MODEL, policy.text
    if model.checkpoint is None:
        return model.name, policy.text
    return model.checkpoint.base, policy.text or model.checkpoint.text


def _outcome(
    decision: RetrainDecision,
    state: Literal["declined", "promoted", "refused"],
    model_id: str | None,
    reasons: tuple[str, ...],
) -> RetrainOutcome:
    return RetrainOutcome(
        decision_id=decision.decision_id,
        state=state,
        model_id=model_id,
        reasons=reasons,
        finished_at=datetime.now(UTC),
    )


def _praise(report: GateReport) -> Iterator[str]:
    """Say what a promoted model is worth: first what those labels gained for which it was made."""
    if report.asked:
        yield asked_line(report)
    learned = [label for label in report.labels if label.group == "learned" and not label.asked]
    learned = [label for label in learned if label.ap_before is not None]
    if learned:
        gains = some(f"{label.label_id} {percent(label.ap_before)} -> {percent(label.ap_after)} %" for label in learned)
        yield f"also trained on {counted(len(learned), 'label')}, with average precision before and after: {gains}"
    passed, unmeasured = (
        [f"{gate.name} ({gate.why})" for gate in report.gates if gate.passed is verdict] for verdict in (True, None)
    )
    yield f"passed {', '.join(passed) or 'nothing'}"
    if unmeasured:
        yield ", ".join(unmeasured)


def _left_out(shards: Sequence[ShardKey]) -> tuple[str, ...]:
    if not shards:
        return ()
    return (
        f"left out, as gone or changed since: {counted(len(shards), 'annotated shard')}: {some(map('/'.join, shards))}",
    )
