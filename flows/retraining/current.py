"""The current model as the next one sees it: how it was trained, what it held out, what is known of its labels."""

from __future__ import annotations

from flows.retraining.evidence import Evidence
from flows.training.plan import read_recipe
from schemas.checkpoint import CheckpointRecord
from schemas.evaluation import Evaluation
from schemas.manifest import ModelRecord
from schemas.retraining import RetrainPolicy
from schemas.taxonomy import Taxonomy
from schemas.training import TrainConfig
from storage.files import Folder
from storage.models import read_models, read_promotion
from storage.records import read_json
from storage.retraining import find_decision, find_gates


def current_model(folder: Folder) -> ModelRecord | None:
    """Return the record of the promoted model, if there is one."""
    promotion = read_promotion(folder)
    return read_models(folder).get(promotion.model_id) if promotion is not None else None


def recipe_of(policy: RetrainPolicy, model: ModelRecord | None) -> TrainConfig:
    """Return how to train: as the policy says, else as the current model was trained, else the default.

    Raises:
        RequestError: the policy's recipe cannot be read.
    """
    if policy.recipe is not None:
        return read_recipe(policy.recipe, {})
    checkpoint = _checkpoint(model)
    return checkpoint.train if checkpoint is not None and checkpoint.train is not None else TrainConfig()


def held_out_labels(taxonomy: Taxonomy, model: ModelRecord | None) -> tuple[str, ...]:
    """Return the active labels that the current model was asked to hold out: a new one holds them out as well."""
    checkpoint = _checkpoint(model)
    novel = set(checkpoint.novel_labels) if checkpoint is not None else set()
    return tuple(label.id for label in taxonomy.active_labels() if label.id in novel)


def precisions_of(folder: Folder, model: ModelRecord | None) -> dict[str, float]:
    """Return the average precision of a model's labels: as its gates measured it, else its newest evaluation."""
    if model is None:
        return {}
    gates = find_gates(folder, model.model_id)
    if gates is not None:
        return {label.label_id: label.ap_after for label in gates.labels if label.ap_after is not None}
    paths = folder.list(f"models/{model.model_id}/evaluations", "/metrics.json")
    evaluations = [read_json(folder, path, Evaluation) for path in paths]
    newest = max(evaluations, key=lambda evaluation: evaluation.created_at, default=None)
    labels = newest.labels if newest is not None else ()
    return {label.label_id: label.average_precision for label in labels if label.average_precision is not None}


def has_news(folder: Folder, model: ModelRecord | None, evidence: Evidence) -> bool:
    """Whether there is ground truth beyond what the current model was trained with."""
    checkpoint = _checkpoint(model)
    if model is None or checkpoint is None or checkpoint.data is None:
        return True
    gates = find_gates(folder, model.model_id)
    made_by = find_decision(folder, gates.decision_id) if gates is not None else None
    if made_by is not None:
        return made_by.ground_truth_digest != evidence.digest
    positives = sum(evidence.positives.get(label_id, 0) for label_id in model.seen_labels)
    return evidence.images > checkpoint.data.images or positives > checkpoint.data.positives


def _checkpoint(model: ModelRecord | None) -> CheckpointRecord | None:
    return model.checkpoint if model is not None else None
