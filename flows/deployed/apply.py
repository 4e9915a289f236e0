"""The `apply-taxonomy` flow: the whole loop in one run, for the command line. Its long steps are subflows.

Deployments take it apart: `sync-taxonomy` applies and decides, and events start `retrain` and `backfill`.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.apply import ApplyPlan, ApplySteps, plan_apply, run_apply
from flows.backfill import BackfillOutcome, BackfillPlan
from flows.deployed.artifacts import publish_decision, publish_taxonomy
from flows.deployed.backfill import backfill_as_subflow
from flows.deployed.retrain import retrain as retrain_flow
from flows.handover import handed_over, planned
from flows.taxonomies.apply_summary import ApplySummary, summarise_apply
from schemas.config import ApplyRequest
from storage.files import Folder
from storage.taxonomies import digest_in_force


@flow(name="apply-taxonomy", persist_result=False)
def apply_taxonomy(request: ApplyRequest, retrain: bool = True) -> ApplySummary | State[ApplySummary]:
    """Apply a taxonomy file, score what is new, decide, and, if it is worth it, retrain and score again.

    Args:
        request: which file and store.
        retrain: false: decide only.

    Returns the summary; as a failed state, if something failed that the same call can finish.
    """
    plan = planned(request, ApplyPlan, lambda: plan_apply(request))
    return ended(apply_and_report(plan, retrain=retrain))


def apply_and_report(plan: ApplyPlan, *, retrain: bool) -> ApplySummary:
    """Apply within a flow run, and leave what was done and decided as artifacts."""
    outcome = run_apply(plan, steps_as_subflows(plan, retrain=retrain))
    summary = summarise_apply(outcome)
    publish_taxonomy(summary.taxonomy, summary.taxonomy_digest, summary.lines())
    publish_decision(Folder(summary.store), summary.decision.decision_id)
    return summary


def ended(summary: ApplySummary) -> ApplySummary | State[ApplySummary]:
    """Return how a run ends with this summary."""
    return summary if summary.ok else Failed(message="\n".join(summary.lines()), data=summary)


def steps_as_subflows(plan: ApplyPlan, *, retrain: bool) -> ApplySteps:
    """Return the long steps, each a run of its own that Prefect shows below this one."""
    folder, taxonomy = Folder(plan.request.store), plan.taxonomy

    def backfill(part: BackfillPlan) -> BackfillOutcome:
        """Score for the version that is about to be in force; once it is, for all that are."""
        in_force = digest_in_force(folder, taxonomy.name) == taxonomy.digest
        with handed_over(part):
            return backfill_as_subflow(part.request, None if in_force else taxonomy.digest)

    return ApplySteps(backfill=backfill, retrain=retrain_flow if retrain else None)
