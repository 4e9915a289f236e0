"""What a catalog knows before it reads any Parquet, and the small tables that are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.manifest import ModelRecord
from schemas.taxonomy import Taxonomy
from storage.compacted import Compacted
from storage.curation_paths import duplicates_path
from storage.labels import CurrentLabel
from storage.runs import StoredRun
from storage.visibility import VisibleParts, shown_labels

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")
_LABELS = pa.schema(
    [(name, pa.string()) for name in ("dataset", "label_id", "name", "parent", "merged_into", "target", "description")]
    + [(name, pa.bool_()) for name in ("retired", "active", "seen", "combined")]
    + [("synonyms", _TEXTS)]
)
_SCORERS = pa.schema([("model_id", pa.string()), ("scorer", pa.string())])
_KNOWN = pa.schema([("label_id", pa.string())])
_RUNS = pa.schema(
    [(name, pa.string()) for name in ("run_id", "dataset", "model_id", "scorer", "taxonomy_digest")]
    + [(name, pa.int64()) for name in ("labels", "shards", "samples", "failed")]
    + [("floor", pa.float64()), ("top_k", pa.int32()), ("calibration", pa.string()), ("complete", pa.bool_())]
    + [("created_at", _TIME), ("finished_at", _TIME)]
)
_MODELS = pa.schema(
    [(name, pa.string()) for name in ("model_id", "name", "kind", "architecture", "encoder_id", "text_encoder_id")]
    + [("scorers", _TEXTS), ("calibration", pa.string()), ("slope", pa.float64()), ("intercept", pa.float64())]
    + [("seen_labels", _TEXTS), ("promoted", pa.bool_())]
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was read from the store, apart from Parquet."""

    runs: Sequence[StoredRun]
    compacted: Compacted
    models: dict[str, ModelRecord]
    taxonomies: dict[str, list[Taxonomy]]  # by dataset
    labels: Sequence[CurrentLabel]
    model_id: str | None  # whose scores the views show
    promoted: str | None
    annotations: dict[str, int]  # path -> bytes
    side_labels: dict[str, int]
    calibrations: dict[str, int]
    statistics: dict[str, int]  # of the pictures of each shard's newest bytes
    duplicates: dict[str, int]

    @property
    def scorer(self) -> str:
        """What the shown model scores with where nothing else is asked for."""
        model = self.models.get(self.model_id or "")
        return model.scorers[0] if model else "clip"

    @property
    def duplicates_path(self) -> str | None:
        """Where the groups of duplicates by the shown model's embeddings stand, if there are any."""
        model = self.models.get(self.model_id or "")
        return duplicates_path(model.encoder_id) if model else None

    @property
    def seen_labels(self) -> frozenset[str]:
        """Labels that the shown model was trained on."""
        model = self.models.get(self.model_id or "")
        return frozenset(model.seen_labels if model else ())


def small_tables(facts: Facts, scores: Sequence[VisibleParts]) -> Iterable[tuple[str, pa.Table]]:
    """Yield the small tables: everything that is not in Parquet."""
    yield "labels", pa.Table.from_pylist(list(_label_rows(facts, scores)), schema=_LABELS)
    yield "scorers", pa.Table.from_pylist(list(_scorer_rows(facts)), schema=_SCORERS)
    yield "known", pa.Table.from_pydict({"label_id": sorted(_known_labels(facts))}, schema=_KNOWN)
    yield "runs", pa.Table.from_pylist([_run_row(run) for run in facts.runs], schema=_RUNS)
    rows = [_model_row(model, facts.promoted) for model in facts.models.values()]
    yield "models", pa.Table.from_pylist(rows, schema=_MODELS)


def combined_targets(facts: Facts, scores: Sequence[VisibleParts]) -> set[tuple[str, str]]:
    """Return dataset and label of those that scores of other labels are shown under."""
    shown = shown_labels(scores, facts.runs)
    return {
        (current.dataset, current.target)
        for current in facts.labels
        if current.target != current.label.id and current.label.id in shown.get(current.dataset, ())
    }


def _label_rows(facts: Facts, scores: Sequence[VisibleParts]) -> Iterable[dict[str, Any]]:
    combined = combined_targets(facts, scores)
    for current in facts.labels:
        label = current.label
        yield label.model_dump(include={"name", "parent", "merged_into", "retired", "description", "synonyms"}) | {
            "dataset": current.dataset,
            "label_id": label.id,
            "target": current.target,
            "active": label.active,
            "seen": label.id in facts.seen_labels,
            "combined": (current.dataset, current.target) in combined,
        }


def _scorer_rows(facts: Facts) -> Iterable[dict[str, str]]:
    """Yield every model with each scorer that it has or that a run scored with."""
    scorers = {(run.record.model_id, run.record.scorer) for run in facts.runs}
    scorers |= {(model.model_id, scorer) for model in facts.models.values() for scorer in model.scorers}
    for model_id, scorer in sorted(scorers):
        yield {"model_id": model_id, "scorer": scorer}


def _known_labels(facts: Facts) -> set[str]:
    """Return the labels that any model could score: those of the taxonomies and of all runs."""
    known = {current.label.id for current in facts.labels}
    return known.union(label.label_id for run in facts.runs for label in run.record.vocabulary)


def _run_row(run: StoredRun) -> dict[str, Any]:
    record, manifest = run.record, run.manifest
    return record.model_dump(include={*_RUNS.names} - {"labels", "samples", "failed", "shards"}) | {
        "labels": len(record.vocabulary),
        "shards": len(run.reports),
        "samples": sum(report.num_samples for report in run.reports),
        "failed": sum(report.num_failed for report in run.reports),
        "complete": manifest is not None,
        "finished_at": manifest.finished_at if manifest else None,
    }


def _model_row(model: ModelRecord, promoted: str | None) -> dict[str, Any]:
    return model.model_dump(include={*_MODELS.names}) | {"promoted": model.model_id == promoted}
