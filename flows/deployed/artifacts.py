"""What people read in Prefect of taxonomies and decisions on retraining: Markdown, a page each, newest state on top."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from flows.retraining.summary import markdown
from storage.files import Folder
from storage.retraining import find_decision, find_gates, find_outcome


def publish_taxonomy(name: str, digest: str, lines: Sequence[str]) -> None:
    """Show what became of a taxonomy: one page for each name, which says what was done with it last."""
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or digest
    create_markdown_artifact(key=f"taxonomy-{key}", markdown="\n".join(lines), description="Taxonomy")


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
