"""Where a store stands: its taxonomies in force, what they lack, what was decided on retraining, the model shown.

From records and listings alone: no model is loaded, no shard is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from flows.retraining.summary import decision_lines, gate_rows, outcome_lines
from flows.taxonomies.cost import TaxonomyCost, cost_of
from flows.taxonomies.summary import dataset_line
from flows.taxonomies.untagged import untagged_line
from schemas.commands import store_command
from schemas.counts import counted
from schemas.manifest import ModelRecord, Promotion, TaxonomyInForce
from schemas.record import Record
from schemas.retraining import GateReport, RetrainDecision, RetrainOutcome
from storage.catalog import check_store
from storage.files import Folder
from storage.models import read_models, read_promotion
from storage.retraining import find_gates, find_outcome, read_decisions
from storage.taxonomies import read_taxonomy, taxonomy_records, withdrawn_line


class ModelStatus(Record):
    """The model whose scores the views show."""

    model_id: str
    name: str
    since: datetime
    reason: str
    previous: str | None
    forced: tuple[str, ...]  # gates that were overridden
    seen_labels: int


class TaxonomyStatus(Record):
    """One taxonomy in force."""

    name: str
    digest: str
    since: datetime
    labels: int
    active: int
    seen: int  # active labels that the model was trained on
    novel: int  # the other active ones
    lacking: TaxonomyCost  # labels without scores, by dataset
    decision: RetrainDecision | None  # the newest
    outcome: RetrainOutcome | None  # of that decision
    gates: GateReport | None  # of the model that came of it


class StoreStatus(Record):
    """What `taxonomy status --json` prints."""

    store: str
    model: ModelStatus | None
    taxonomies: tuple[TaxonomyStatus, ...]
    withdrawn: tuple[TaxonomyInForce, ...]

    def lines(self) -> list[str]:
        """Return the status as text."""
        in_force = [line for taxonomy in self.taxonomies for line in _lines(taxonomy, self.store)]
        withdrawn = (withdrawn_line(record, self.store) for record in self.withdrawn)
        return [_model_line(self.model), *in_force, *withdrawn]


def store_status(folder: Folder) -> StoreStatus:
    """Return where a store stands.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    check_store(folder)
    promotion, models = read_promotion(folder), read_models(folder)
    model = models.get(promotion.model_id) if promotion is not None else None
    decisions, records = read_decisions(folder), taxonomy_records(folder)
    return StoreStatus(
        store=folder.url,
        model=_model_status(promotion, model),
        taxonomies=tuple(
            _taxonomy_status(folder, record, model, decisions) for record in records if not record.withdrawn
        ),
        withdrawn=tuple(record for record in records if record.withdrawn),
    )


def _model_status(promotion: Promotion | None, model: ModelRecord | None) -> ModelStatus | None:
    if promotion is None or model is None:
        return None
    return ModelStatus(
        model_id=model.model_id,
        name=model.name,
        since=promotion.since,
        reason=promotion.reason,
        previous=promotion.previous,
        forced=promotion.forced,
        seen_labels=len(model.seen_labels),
    )


def _taxonomy_status(
    folder: Folder, record: TaxonomyInForce, model: ModelRecord | None, decisions: Sequence[RetrainDecision]
) -> TaxonomyStatus:
    taxonomy = read_taxonomy(folder, record.digest)
    active = {label.id for label in taxonomy.active_labels()}
    seen = active & set(model.seen_labels if model is not None else ())
    newest = max(
        (decision for decision in decisions if decision.taxonomy == record.name),
        key=lambda decision: decision.decided_at,
        default=None,
    )
    outcome = find_outcome(folder, newest.decision_id) if newest is not None else None
    return TaxonomyStatus(
        name=record.name,
        digest=record.digest,
        since=record.since,
        labels=len(taxonomy.labels),
        active=len(active),
        seen=len(seen),
        novel=len(active - seen),
        lacking=cost_of(folder, taxonomy),
        decision=newest,
        outcome=outcome,
        gates=find_gates(folder, outcome.model_id) if outcome is not None and outcome.model_id is not None else None,
    )


def _model_line(model: ModelStatus | None) -> str:
    if model is None:
        return "model: none is promoted yet"
    before = f", in place of {model.previous}" if model.previous else ""
    forced = f" (forced: {', '.join(model.forced)})" if model.forced else ""
    return (
        f"model {model.model_id} ({model.name}) since {_time(model.since)}{before}: {model.reason}{forced}; "
        f"{model.seen_labels} seen labels"
    )


def _lines(status: TaxonomyStatus, store: str) -> Iterator[str]:
    yield (
        f"taxonomy {status.name}: version {status.digest} since {_time(status.since)}; "
        f"{counted(status.active, 'active label')}, {status.seen} seen and {status.novel} novel"
    )
    lacking = status.lacking.lacking
    if lacking:
        command = store_command("backfill", store=store)
        yield f"- not scored yet: {counted(len(lacking), 'label')}; `{command}` scores them"
        yield from (f"- {dataset_line(cost)}" for cost in status.lacking.datasets if cost.labels)
    elif not status.lacking.datasets:
        yield f"- {untagged_line(status.name, status.lacking.known)}"
    else:
        yield "- every label is scored on every tagged shard"
    if status.decision is None:
        yield f"- retraining: not decided yet; `{store_command('retrain', store=store)}` decides"
        return
    yield from decision_lines(status.decision)
    if status.decision.taxonomy_digest != status.digest:
        yield f"- this was decided for version {status.decision.taxonomy_digest}"
    if status.gates is not None:
        yield from (
            f"- gate {row['gate']} ({row['limit']}): {row['before']} before, {row['after']} after, {row['verdict']}"
            for row in gate_rows(status.gates)
        )
    if status.outcome is not None:
        yield from outcome_lines(status.outcome)
    elif status.decision.retrain:
        yield f"outcome: not yet; `{store_command('retrain', store=store)}` carries it out"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
