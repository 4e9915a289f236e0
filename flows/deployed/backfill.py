"""The `backfill` flow: score what the promoted model has not scored yet."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.utilities.annotations import quote

from flows.backfill import BackfillOutcome, BackfillPlan, plan_backfill, run_backfill
from flows.handover import planned
from flows.tag import RUNNER, execute_with_prefect
from flows.tagging.backfill_summary import BackfillSummary, summarise_backfill
from flows.tagging.progress import watcher
from schemas.config import BackfillRequest
from schemas.events import ModelPromoted
from storage.files import Folder
from storage.taxonomies import read_taxonomy

# Prefect searches what a flow returns for futures, item by item, unless it is quoted.
_Outcome = Any


@flow(name="backfill", task_runner=RUNNER, persist_result=False)
def backfill(
    request: BackfillRequest, event: ModelPromoted | None = None, taxonomy_digest: str | None = None
) -> _Outcome | State[_Outcome]:
    """Score from stored features what the promoted model has not scored. The same call goes on after a kill.

    Args:
        request: which store, and how.
        event: what triggered the run; its store counts.
        taxonomy_digest: a version that the store keeps and that is not in force yet; None: what is in force.

    Returns the `BackfillOutcome`, quoted; as a failed state, if there were shards that could not be scored.
    """
    if event is not None:
        request = request.model_copy(update={"store": event.store})
    outcome = run_backfill(
        planned(request, BackfillPlan, lambda: _plan(request, taxonomy_digest)), execute_with_prefect, watcher.get()
    )
    summary = summarise_backfill(outcome)
    publish_backfill(summary)
    text = "\n".join(summary.lines())
    return quote(outcome) if outcome.complete else Failed(message=text, data=quote(outcome))


def _plan(request: BackfillRequest, taxonomy_digest: str | None) -> BackfillPlan:
    folder = Folder(request.store)
    return plan_backfill(request, read_taxonomy(folder, taxonomy_digest) if taxonomy_digest is not None else None)


def backfill_as_subflow(request: BackfillRequest, taxonomy_digest: str | None) -> BackfillOutcome:
    """Run the flow within another one, and return what became of it, well or not."""
    state: Any = backfill(request, taxonomy_digest=taxonomy_digest, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, Exception):
        raise result
    outcome: BackfillOutcome = result.unquote()
    return outcome


def publish_backfill(summary: BackfillSummary) -> None:
    """Show a backfill in Prefect."""
    create_markdown_artifact(
        key=f"backfill-{summary.model_id or 'none'}", markdown="\n".join(summary.lines()), description="Backfill"
    )
