"""The `evaluate` flow: what a model is worth on annotated shards, with its tables as an artifact."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.evaluate import EvaluationOutcome, plan_evaluation, run_evaluation
from flows.evaluation.tables import draw_tables, statement
from schemas.config import EvaluateRequest
from schemas.evaluation import Evaluation


@flow(name="evaluate", persist_result=False)
def evaluate(request: EvaluateRequest) -> Evaluation:
    """Measure a model on seen and on novel labels. The store gets metrics.json and one HTML page."""
    outcome = run_evaluation(plan_evaluation(request))
    publish_evaluation(outcome)
    return outcome.evaluation


def publish_evaluation(outcome: EvaluationOutcome) -> None:
    """Show an evaluation in Prefect, as the terminal would."""
    tables = "\n\n".join(draw_tables(outcome.evaluation, None))
    markdown = "\n\n".join((*statement(outcome.evaluation), f"```\n{tables}\n```", f"report: {outcome.report}"))
    create_markdown_artifact(
        key=f"evaluation-{outcome.evaluation.model_id}", markdown=markdown, description="Evaluation"
    )
