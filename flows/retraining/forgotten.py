"""What a retraining would forget: a store shows one model, and a model is trained on one taxonomy."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.manifest import ModelRecord
from schemas.taxonomy import Taxonomy
from storage.files import Folder
from storage.taxonomies import read_taxonomy, taxonomies_in_force

_NAMED = 5


def forgotten_labels(folder: Folder, taxonomy: Taxonomy, model: ModelRecord | None) -> dict[str, str]:
    """Return, with its name, the labels of another taxonomy in force that the current model was trained on.

    Labels that this taxonomy has too are left out. A model that is trained on this taxonomy knows none of them, and no
    gate looks at them.
    """
    seen = set(model.seen_labels if model is not None else ()) - {label.id for label in taxonomy.labels}
    if not seen:
        return {}
    others = (read_taxonomy(folder, each.digest) for each in taxonomies_in_force(folder) if each.name != taxonomy.name)
    return {label.id: other.name for other in others for label in other.active_labels() if label.id in seen}


def forgotten_line(forgotten: Mapping[str, str], taxonomy: Taxonomy) -> str:
    """Say why there is no retraining, and what to do."""
    more = f" and {len(forgotten) - _NAMED} more" * (len(forgotten) > _NAMED)
    labels, names = ", ".join(sorted(forgotten)[:_NAMED]), ", ".join(sorted(set(forgotten.values())))
    return (
        f"not done: the current model was trained on {len(forgotten)} labels of taxonomy {names} ({labels}{more}), "
        f"which a model trained on {taxonomy.name} would not know; put all labels into one taxonomy, or train and "
        "promote by hand (`clipdecoder train`, `clipdecoder models promote`)"
    )
