"""SQL over a store: a DuckDB connection with the views, nothing copied from Parquet.

    with open_catalog("store") as connection:
        dogs = connection.sql("SELECT key, score FROM tags WHERE label_id = 'dog' ORDER BY score DESC").fetchall()

Facts stay in Parquet. What is judged (thresholds, merges, which run counts) is in the views. Which files there are is
decided when the catalog is opened: open it anew to see what was written since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import duckdb
import pyarrow as pa
from pydantic import ValidationError

from schemas.errors import StoreError
from schemas.manifest import ModelRecord, Promotion
from schemas.taxonomy import Taxonomy
from storage.files import Folder, transport_errors
from storage.ground_truth_views import ground_truth_sql, ground_truth_tables
from storage.labels import CurrentLabel, current_taxonomies, labels_of
from storage.models import read_model, read_models, read_promotion
from storage.runs import StoredRun, last_asked, read_runs
from storage.sandbox import StoreFiles, connect, file_error, lock, unreadable
from storage.taxonomies import read_taxonomy, taxonomies_in_force
from storage.views import samples_sql, scores_sql, views_sql
from storage.visibility import VisibleParts, all_parts, shown_labels, visible_samples, visible_scores

STORE_FOLDERS = (
    "annotations",
    "features",
    "models",
    "retraining",
    "runs",
    "side_labels",
    "taxonomies",
    "tokens",
    "training",
)

_TEXTS = pa.list_(pa.string())
_TIME = pa.timestamp("us", tz="UTC")
_LABELS = pa.schema(
    [(name, pa.string()) for name in ("dataset", "label_id", "name", "parent", "merged_into", "target", "description")]
    + [(name, pa.bool_()) for name in ("retired", "active", "seen", "combined")]
    + [("synonyms", _TEXTS)]
)
_SCORABLE = pa.schema([("model_id", pa.string()), ("scorer", pa.string()), ("label_id", pa.string())])
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
class _Facts:
    """What was read from the store, apart from Parquet."""

    runs: Sequence[StoredRun]
    models: dict[str, ModelRecord]
    taxonomies: dict[str, list[Taxonomy]]  # by dataset
    labels: Sequence[CurrentLabel]
    model_id: str | None  # whose scores the views show
    promoted: str | None
    annotations: dict[str, int]  # path -> bytes
    side_labels: dict[str, int]
    calibrations: dict[str, int]

    @property
    def scorer(self) -> str:
        """What the shown model scores with where nothing else is asked for."""
        model = self.models.get(self.model_id or "")
        return model.scorers[0] if model else "clip"

    @property
    def seen_labels(self) -> frozenset[str]:
        """Labels that the shown model was trained on."""
        model = self.models.get(self.model_id or "")
        return frozenset(model.seen_labels if model else ())


def open_catalog(store: str | Folder, *, model_id: str | None = None) -> duckdb.DuckDBPyConnection:
    """Return an in-memory connection with the views of a store. Close it, or use it in a `with` statement.

    It reads the Parquet files that the store's runs report, and no other file, writes none, and takes no settings.

    Args:
        store: the store, or its URL.
        model_id: show the scores of this model; None: of the promoted one, or if none is, of the newest run's.

    Raises:
        StoreError: there is no store at this URL, or what is in it cannot be read.
        ModelError: the store has no model of this id.
    """
    folder = Folder(store) if isinstance(store, str) else store
    try:
        check_store(folder)
        facts = _read_facts(folder, model_id)
    except transport_errors() as error:
        raise StoreError(f"the store {folder.url!r} cannot be read: {error}") from error
    except ValidationError as error:
        raise StoreError(
            f"the store {folder.url!r} has a {error.title} that this version cannot read ({error.errors()[0]['msg']}): "
            "was it written by a newer clipdecoder, or edited?"
        ) from None
    _check_thresholds(facts)
    connection = connect()
    try:
        _build(connection, folder, facts)
    except duckdb.Error as error:
        connection.close()
        raise file_error(error) or unreadable(str(error)) from None
    except transport_errors() as error:
        connection.close()
        raise unreadable(str(error)) from error
    return connection


def check_store(folder: Folder) -> None:
    """Refuse a folder that no run can have written: an empty one may become a store, one of other things is none.

    Raises:
        StoreError: there is no such folder, or it is no store.
    """
    folder.fs.invalidate_cache()  # another process may just have made it
    if not folder.fs.isdir(folder.root):
        raise StoreError(
            f"there is no store at {folder.url!r}; "
            f"`clipdecoder tag SHARDS --taxonomy FILE --store {folder.url}` makes one"
        )
    names = {path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.root, detail=False)}
    visible = {name for name in names if not name.startswith(".")}
    if visible and not visible & set(STORE_FOLDERS):
        raise StoreError(
            f"{folder.url!r} is not a store: it has none of {', '.join(STORE_FOLDERS)}; "
            "give the folder that `clipdecoder tag --store` was given"
        )


def _check_thresholds(facts: _Facts) -> None:
    """Refuse to show a calibrated model whose calibration is lost: tags by the default threshold would be wrong.

    Raises:
        StoreError: naming the file.
    """
    model = facts.models.get(facts.model_id or "")
    path = f"models/{facts.model_id}/calibration.parquet"
    if model is not None and model.calibration == "fitted" and path not in facts.calibrations:
        raise StoreError(f"{path!r} is not there, and the model's thresholds with it; put it back, or train again")


def shown_model(runs: Sequence[StoredRun], promotion: Promotion | None) -> str | None:
    """Return the model whose scores the views show: the promoted one, or if none is, the newest run's."""
    if promotion is not None:
        return promotion.model_id
    return max(runs, key=last_asked).record.model_id if runs else None


def _read_facts(folder: Folder, model_id: str | None) -> _Facts:
    runs, models, promotion = read_runs(folder), read_models(folder), read_promotion(folder)
    if model_id is not None:
        model_id = read_model(folder, model_id).model_id
    taxonomies = current_taxonomies(folder, runs)
    return _Facts(
        runs=runs,
        models=models,
        taxonomies=taxonomies,
        labels=labels_of(taxonomies),
        model_id=model_id or shown_model(runs, promotion),
        promoted=promotion.model_id if promotion else None,
        annotations=_sizes(folder, "annotations", "annotations/*.parquet"),
        side_labels=_sizes(folder, "side_labels", "side_labels/*/*.parquet"),
        calibrations=_sizes(folder, "models", "models/*/calibration.parquet"),
    )


def _sizes(folder: Folder, prefix: str, pattern: str) -> dict[str, int]:
    return {name: size for name, size in folder.sizes(prefix).items() if fnmatchcase(name, pattern)}


def _build(connection: duckdb.DuckDBPyConnection, folder: Folder, facts: _Facts) -> None:
    reported = {part.path: part.bytes for run in facts.runs for report in run.reports for part in report.parts.values()}
    listed = facts.annotations | facts.side_labels | facts.calibrations
    connection.register_filesystem(StoreFiles(folder, reported | listed))
    scores = visible_scores(facts.runs, facts.model_id) if facts.model_id else []
    connection.execute("CREATE SCHEMA internal")
    for name, table in (*_tables(facts, scores), *_words(folder, facts)):
        connection.register("read", table)
        connection.execute(f"CREATE TABLE internal.{name} AS SELECT * FROM read")
        connection.unregister("read")
    for name, query in _views(facts, scores):
        connection.execute(f"CREATE VIEW {name} AS {query}")
    lock(connection)


def _tables(facts: _Facts, scores: Sequence[VisibleParts]) -> Iterable[tuple[str, pa.Table]]:
    """Yield the small tables: everything that is not in Parquet."""
    yield "labels", pa.Table.from_pylist(list(_label_rows(facts, scores)), schema=_LABELS)
    yield "scorable", pa.Table.from_pylist(list(_scorable_rows(facts)), schema=_SCORABLE)
    yield "runs", pa.Table.from_pylist([_run_row(run) for run in facts.runs], schema=_RUNS)
    rows = [_model_row(model, facts.promoted) for model in facts.models.values()]
    yield "models", pa.Table.from_pylist(rows, schema=_MODELS)


def _words(folder: Folder, facts: _Facts) -> Iterable[tuple[str, pa.Table]]:
    """Yield what is needed to know the words of side files; datasets that nothing scored go by what is in force."""
    strange = {path.split("/")[1] for path in facts.side_labels} - facts.taxonomies.keys()
    in_force = [read_taxonomy(folder, record.digest) for record in taxonomies_in_force(folder)] if strange else []
    return ground_truth_tables(facts.side_labels, facts.taxonomies, in_force)


def _views(facts: _Facts, scores: Sequence[VisibleParts]) -> Iterable[tuple[str, str]]:
    yield "samples", samples_sql(visible_samples(facts.runs))
    yield "internal.all_samples", samples_sql(all_parts(facts.runs, "samples"))
    yield "internal.scores", scores_sql(scores)
    yield "internal.all_scores", scores_sql(all_parts(facts.runs, "scores"))
    yield from ground_truth_sql(annotations=list(facts.annotations), side_labels=list(facts.side_labels))
    yield from views_sql(
        model_id=facts.model_id,
        scorer=facts.scorer,
        combined=bool(_combined_targets(facts, scores)),
        calibrations={path.split("/")[1]: path for path in facts.calibrations},
    )


def _combined_targets(facts: _Facts, scores: Sequence[VisibleParts]) -> set[tuple[str, str]]:
    """Return dataset and label of those that scores of other labels are shown under."""
    shown = shown_labels(scores, facts.runs)
    return {
        (current.dataset, current.target)
        for current in facts.labels
        if current.target != current.label.id and current.label.id in shown.get(current.dataset, ())
    }


def _label_rows(facts: _Facts, scores: Sequence[VisibleParts]) -> Iterable[dict[str, Any]]:
    combined = _combined_targets(facts, scores)
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


def _scorable_rows(facts: _Facts) -> Iterable[dict[str, Any]]:
    """Yield every model and scorer with every label that it scored or could score."""
    known = {current.label.id for current in facts.labels}
    known |= {label.label_id for run in facts.runs for label in run.record.vocabulary}
    scorers = {(run.record.model_id, run.record.scorer) for run in facts.runs}
    scorers |= {(model.model_id, scorer) for model in facts.models.values() for scorer in model.scorers}
    for model_id, scorer in sorted(scorers):
        seen = facts.models[model_id].seen_labels if model_id in facts.models else ()
        for label_id in sorted(known.union(seen)):
            yield {"model_id": model_id, "scorer": scorer, "label_id": label_id}


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
