"""What clipdecoder's flows tell each other through Prefect's events: names, and the payload of each, typed."""

from __future__ import annotations

from schemas.record import Record

TAXONOMY_CHANGED = "clipdecoder.taxonomy.changed"
GROUND_TRUTH_CHANGED = "clipdecoder.ground-truth.changed"
MODEL_PROMOTED = "clipdecoder.model.promoted"


class TaxonomyChanged(Record):
    """A taxonomy was applied, or ground truth came in, and this is what was decided on retraining.

    The payload of `clipdecoder.taxonomy.changed` and of `clipdecoder.ground-truth.changed`.
    """

    store: str
    taxonomy: str  # its name
    taxonomy_digest: str
    added: tuple[str, ...]  # label ids
    reworded: tuple[str, ...]
    decision_id: str
    retrain: bool
    reasons: tuple[str, ...]


class ModelPromoted(Record):
    """The views show another model now. The payload of `clipdecoder.model.promoted`."""

    store: str
    model_id: str
    previous: str | None
    reason: str
