"""The `retrain` flow: carry out what was decided on retraining, and tell of a promotion.

Who asks twice is told what came of it the first time: a decision is known by the state of the store that it rests on.
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, runtime

from flows.deployed.artifacts import publish_decision
from flows.deployed.events import promotion_event, tell
from flows.retraining.run import run_retrain
from flows.training.progress import training_watcher
from schemas.config import RetrainRequest
from schemas.events import ModelPromoted, TaxonomyChanged
from schemas.retraining import RetrainOutcome
from storage.files import Folder
from storage.models import read_promotion


@flow(name="retrain", persist_result=False)
def retrain(request: RetrainRequest, event: TaxonomyChanged | None = None) -> RetrainOutcome:
    """Train, judge and promote if it is worth it, and say so in an event.

    Args:
        request: policy and options; also the store and the taxonomy, where no event names them.
        event: what triggered the run.
    """
    if event is not None:
        request = request.model_copy(update={"store": event.store, "taxonomy": event.taxonomy})
    started, folder = datetime.now(UTC), Folder(request.store)
    outcome = run_retrain(request, training_watcher.get())
    publish_decision(folder, outcome.decision_id)
    promotion = read_promotion(folder)
    fresh = outcome.state == "promoted" and outcome.finished_at >= started
    if fresh and promotion is not None and not _within_another_flow():
        promoted = ModelPromoted(
            store=request.store,
            model_id=promotion.model_id,
            previous=promotion.previous,
            reason=promotion.reason,
        )
        tell(promotion_event(promoted))
    return outcome


def _within_another_flow() -> bool:
    """Whether the run is a subflow: what follows a promotion is then the other flow's next step, and nobody else's."""
    return runtime.flow_run.parent_flow_run_id is not None
