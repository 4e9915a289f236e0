"""Decisions on retraining, what came of them, and how new models compared: records in the store."""

from __future__ import annotations

from schemas.retraining import GateReport, RetrainDecision, RetrainOutcome
from storage.files import Folder
from storage.records import find_json, write_json

RETRAINING = "retraining"


def write_decision(folder: Folder, decision: RetrainDecision) -> None:
    """Keep what was decided for a state of the store."""
    write_json(folder, _path(decision.decision_id, "decision"), decision)


def find_decision(folder: Folder, decision_id: str) -> RetrainDecision | None:
    """Return what was decided, or None if nothing was yet."""
    return find_json(folder, _path(decision_id, "decision"), RetrainDecision)


def read_decisions(folder: Folder) -> list[RetrainDecision]:
    """Return all decisions, oldest first."""
    ids = folder.folders(RETRAINING)
    found = (find_decision(folder, decision_id) for decision_id in ids)
    return sorted((decision for decision in found if decision is not None), key=lambda decision: decision.decided_at)


def write_outcome(folder: Folder, outcome: RetrainOutcome) -> None:
    """Mark a decision as carried out: the last thing that a retraining writes."""
    write_json(folder, _path(outcome.decision_id, "outcome"), outcome)


def find_outcome(folder: Folder, decision_id: str) -> RetrainOutcome | None:
    """Return what came of a decision, or None while nothing has."""
    return find_json(folder, _path(decision_id, "outcome"), RetrainOutcome)


def remove_outcome(folder: Folder, decision_id: str) -> None:
    """Make a decision open again."""
    folder.remove(_path(decision_id, "outcome"))


def write_gates(folder: Folder, report: GateReport) -> None:
    """Keep how a new model compared, beside the model."""
    write_json(folder, _gates_path(report.new_model_id), report)


def find_gates(folder: Folder, model_id: str) -> GateReport | None:
    """Return how a model compared with the one that was promoted when it was made; None if nothing was compared."""
    return find_json(folder, _gates_path(model_id), GateReport)


def _path(decision_id: str, name: str) -> str:
    return f"{RETRAINING}/{decision_id}/{name}.json"


def _gates_path(model_id: str) -> str:
    return f"models/{model_id}/gates.json"
