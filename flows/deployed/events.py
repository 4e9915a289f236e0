"""What the flows tell each other: Prefect events about a store, which `prefect.yaml` has triggers on.

An event is a messenger and no memory. What it says is in the store already, so a lost one is told again by the next
`sync-taxonomy`, and one that comes twice finds that its work is done.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from schemas.events import MODEL_PROMOTED, ModelPromoted, TaxonomyChanged

STORE = "clipdecoder.store"  # the label that triggers compare with their own store
RETRAIN = "clipdecoder.retrain"

# Prefect refuses events of more than 1.5 MB and parameters of more than 512 KB; the whole list is in the store.
MAX_NAMED = 1000

Event = dict[str, Any]  # what `emit_event` is given


def change_event(event: str, change: TaxonomyChanged) -> Event:
    """Return the event that says what changed and what was decided. At most `MAX_NAMED` labels are named."""
    lists = ("added", "reworded", "reasons")
    short = change.model_copy(update={name: getattr(change, name)[:MAX_NAMED] for name in lists})
    return _event(event, short, {RETRAIN: str(change.retrain).lower()})


def promotion_event(promotion: ModelPromoted) -> Event:
    """Return the event that says that the views show another model."""
    return _event(MODEL_PROMOTED, promotion, {})


def tell(event: Event) -> None:
    """Send an event to the server that this run belongs to."""
    emit_event(**event)


def _event(name: str, payload: TaxonomyChanged | ModelPromoted, labels: dict[str, str]) -> Event:
    store = payload.store
    resource = {"prefect.resource.id": f"{STORE}.{store}", "prefect.resource.name": store, STORE: store, **labels}
    return {"event": name, "resource": resource, "payload": payload.model_dump(mode="json")}
