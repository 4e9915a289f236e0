"""What people read in Prefect of decisions on retraining: Markdown, one page for each decision, newest state on top."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from flows.retraining.summary import markdown
from storage.files import Folder
from storage.retraining import find_decision, find_gates, find_outcome


def publish_decision(folder: Folder, decision_id: str) -> None:
    """Show a decision with its evidence, and, as far as it was carried out, gates and outcome."""
    decision, outcome = find_decision(folder, decision_id), find_outcome(folder, decision_id)
    if decision is None:
        return
    model_id = outcome.model_id if outcome is not None else None
    gates = find_gates(folder, model_id) if model_id is not None else None
    create_markdown_artifact(
        key=f"retraining-{decision_id}", markdown=markdown(decision, gates, outcome), description="Retraining"
    )
