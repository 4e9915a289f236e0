"""The `sync-taxonomy` flow: look at the taxonomy file and the ground truth, do what follows at once, tell of the rest.

Nothing is remembered between two runs but what the store has. So an event that was lost, or a retraining that was
killed, is asked for again by the next run: a decision for retraining stays open until its outcome is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow
from prefect.client.schemas.objects import State

from flows.apply import plan_apply
from flows.deployed.apply import apply_and_report, ended
from flows.deployed.events import change_event, tell
from flows.taxonomies.apply_summary import ApplySummary
from schemas.config import ApplyRequest
from schemas.events import GROUND_TRUTH_CHANGED, TAXONOMY_CHANGED, TaxonomyChanged
from schemas.retraining import RetrainDecision
from storage.files import Folder
from storage.retraining import read_decisions


@flow(name="sync-taxonomy", persist_result=False)
def sync_taxonomy(request: ApplyRequest) -> ApplySummary | State[ApplySummary]:
    """Apply the taxonomy file if it changed, score what is new, decide on retraining; tell if there is something new.

    Retraining itself is another flow's: the events that this one sends trigger it.
    """
    before = read_decisions(Folder(request.store))
    summary = apply_and_report(plan_apply(request), retrain=False)
    if is_news(summary, before):
        tell(change_event(which_event(summary, before), change_of(summary)))
    return ended(summary)


def is_news(summary: ApplySummary, before: Sequence[RetrainDecision]) -> bool:
    """Whether others are to be told: another version is in force, a decision is new, or one waits to be carried out."""
    known = {decision.decision_id for decision in before}
    return summary.put_in_force or summary.decision.retrain or summary.decision.decision_id not in known


def which_event(summary: ApplySummary, before: Sequence[RetrainDecision]) -> str:
    """Return the event's name: the taxonomy changed since the last decision on it, or only the ground truth did."""
    decision = summary.decision
    others = [
        other for other in before if other.taxonomy == decision.taxonomy and other.decision_id != decision.decision_id
    ]
    last = max(others, key=lambda other: other.decided_at, default=None)
    same = last is not None and last.taxonomy_digest == decision.taxonomy_digest
    return GROUND_TRUTH_CHANGED if same and not summary.put_in_force else TAXONOMY_CHANGED


def change_of(summary: ApplySummary) -> TaxonomyChanged:
    """Return what the event says."""
    return TaxonomyChanged(
        store=summary.store,
        taxonomy=summary.taxonomy,
        taxonomy_digest=summary.taxonomy_digest,
        added=summary.diff.labels("added"),
        reworded=summary.diff.labels("reworded"),
        decision_id=summary.decision.decision_id,
        retrain=summary.decision.retrain,
        reasons=summary.decision.reasons,
    )
