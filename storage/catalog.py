"""SQL over a store: a DuckDB connection with the views, nothing copied from Parquet.

    with open_catalog("store") as connection:
        dogs = connection.sql("SELECT key, score FROM tags WHERE label_id = 'dog' ORDER BY score DESC").fetchall()

Facts stay in Parquet. What is judged (thresholds, merges, which run counts) is in the views. Which files there are is
decided when the catalog is opened: open it anew to see what was written since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

import duckdb
import pyarrow as pa
from pydantic import ValidationError

from schemas.commands import store_command
from schemas.compaction import Kind
from schemas.errors import StoreError
from schemas.manifest import Promotion
from storage.catalog_tables import Facts, combined_targets, small_tables
from storage.compacted import in_large_files, read_compacted
from storage.curation_paths import by_dataset, current_statistics
from storage.files import Folder, transport_errors
from storage.ground_truth_views import ground_truth_sql, ground_truth_tables
from storage.keyless import SCHEMA as KEYLESS
from storage.labels import current_taxonomies, labels_of
from storage.locations import SANDBOX, Location
from storage.models import read_model, read_models, read_promotion
from storage.quality_views import DISPENSABLE, quality_sql, refusing_sql
from storage.runs import StoredRun, chosen_run, last_asked, read_runs
from storage.sandbox import StoreFiles, connect, file_error, lock, unreadable
from storage.taxonomies import read_taxonomy, taxonomies_in_force
from storage.views import KEPT_READY, samples_sql, scores_sql, views_sql
from storage.visibility import VisibleParts, all_parts, visible_samples, visible_scores

STORE_FOLDERS = (
    "annotations",
    "duplicates",
    "features",
    "models",
    "quality",
    "retraining",
    "runs",
    "side_labels",
    "taxonomies",
    "tokens",
    "training",
)


def open_catalog(
    store: str | Folder, *, model_id: str | None = None, run_id: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Return an in-memory connection with the views of a store. Close it, or use it in a `with` statement.

    It reads the Parquet files that the store's runs report, and no other file, writes none, and takes no settings.

    Args:
        store: the store, or its URL.
        model_id: show the scores of this model; None: of the promoted one, or if none is, of the newest run's.
        run_id: show what this run wrote and nothing else, named as in `chosen_run`; its own model is the one shown.

    Raises:
        StoreError: there is no store at this URL, or no such run in it, or what is in it cannot be read.
        ModelError: the store has no model of this id.
    """
    folder = Folder(store) if isinstance(store, str) else store
    facts = read_facts(folder, model_id=model_id, run_id=run_id)
    connection = connect()
    try:
        with build_errors():
            connection.register_filesystem(StoreFiles(folder, _readable(facts)))
            build_views(connection, folder, facts, SANDBOX)
            lock(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def read_facts(folder: Folder, *, model_id: str | None = None, run_id: str | None = None) -> Facts:
    """Return what a catalog needs to know of a store before it reads any Parquet; arguments as for `open_catalog`.

    Raises:
        StoreError: there is no store at this URL, or no such run in it, or what is in it cannot be read.
        ModelError: the store has no model of this id.
    """
    try:
        check_store(folder)
        facts = _read_facts(folder, model_id, run_id)
    except transport_errors() as error:
        raise StoreError(f"the store {folder.url!r} cannot be read: {error}") from error
    except ValidationError as error:
        raise StoreError(
            f"the store {folder.url!r} has a {error.title} that this version cannot read ({error.errors()[0]['msg']}): "
            "was it written by a newer clipdecoder, or edited?"
        ) from None
    _check_thresholds(facts)
    return facts


@contextmanager
def build_errors() -> Iterator[None]:
    """Turn what `build_views` may raise into a StoreError.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    try:
        yield
    except duckdb.Error as error:
        raise file_error(error) or unreadable(_first_line(error)) from None
    except transport_errors() as error:
        raise unreadable(str(error)) from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]


def check_store(folder: Folder) -> None:
    """Refuse a folder that no run can have written: an empty one may become a store, one of other things is none.

    Raises:
        StoreError: there is no such folder, or it is no store.
    """
    folder.fs.invalidate_cache()  # another process may just have made it
    if not folder.fs.isdir(folder.root):
        raise StoreError(
            f"there is no store at {folder.url!r}; "
            f"`{store_command('tag', 'SHARDS', '--taxonomy', 'FILE', store=folder.url)}` makes one"
        )
    names = {path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.root, detail=False)}
    visible = {name for name in names if not name.startswith(".")}
    if visible and not visible & set(STORE_FOLDERS):
        raise StoreError(
            f"{folder.url!r} is not a store: it has none of {', '.join(STORE_FOLDERS)}; "
            "give the folder that `clipdecoder tag --store` was given"
        )


def _check_thresholds(facts: Facts) -> None:
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


def _read_facts(folder: Folder, model_id: str | None, run_id: str | None) -> Facts:
    runs, models, promotion = read_runs(folder), read_models(folder), read_promotion(folder)
    if run_id is not None:
        runs = [chosen_run(runs, run_id)]
        model_id = runs[0].record.model_id
    if model_id is not None:
        model_id = read_model(folder, model_id).model_id
    taxonomies = current_taxonomies(folder, runs)
    return Facts(
        runs=runs,
        compacted=read_compacted(folder, runs),
        models=models,
        taxonomies=taxonomies,
        labels=labels_of(taxonomies),
        model_id=model_id or shown_model(runs, promotion),
        promoted=promotion.model_id if promotion else None,
        annotations=_sizes(folder, "annotations", "annotations/*.parquet"),
        side_labels=_sizes(folder, "side_labels", "side_labels/*/*.parquet"),
        calibrations=_sizes(folder, "models", "models/*/calibration.parquet"),
        statistics=current_statistics(folder, runs),
        duplicates=_sizes(folder, "duplicates", "duplicates/*.parquet"),
    )


def _sizes(folder: Folder, prefix: str, pattern: str) -> dict[str, int]:
    return {name: size for name, size in folder.sizes(prefix).items() if fnmatchcase(name, pattern)}


def _readable(facts: Facts) -> dict[str, int]:
    """Return the files that the views may read, with their sizes in bytes."""
    reported = {part.path: part.bytes for run in facts.runs for report in run.reports for part in report.parts.values()}
    large = {each.file.path: each.file.bytes for files in facts.compacted.values() for each in files}
    ground_truth = facts.annotations | facts.side_labels
    return reported | large | ground_truth | facts.calibrations | facts.statistics | facts.duplicates


def build_views(connection: duckdb.DuckDBPyConnection, folder: Folder, facts: Facts, location: Location) -> None:
    """Make the small tables and the views in the connection's current database.

    Args:
        connection: one that can read the store's files there.
        folder: the store.
        facts: what was read of it.
        location: how the connection finds the store's files.
    """
    scores = visible_scores(facts.runs, facts.model_id) if facts.model_id else []
    connection.execute(f"CREATE SCHEMA internal; CREATE SCHEMA {KEYLESS}")
    for name, table in (*small_tables(facts, scores), *_words(folder, facts, location)):
        connection.register("read", table)
        connection.execute(f"CREATE TABLE internal.{name} AS SELECT * FROM read")
        connection.unregister("read")
    for name, query in _views(facts, scores, location):
        kind = "TABLE" if name in KEPT_READY else "VIEW"
        try:
            connection.execute(f"CREATE {kind} {name} AS {query}")
        except duckdb.Error as error:
            if name not in DISPENSABLE:
                raise
            reason = file_error(error) or unreadable(f"{DISPENSABLE[name]}/: {_first_line(error)}")
            connection.execute(f"CREATE VIEW {name} AS {refusing_sql(name, str(reason))}")


def _words(folder: Folder, facts: Facts, location: Location) -> Iterable[tuple[str, pa.Table]]:
    """Yield what is needed to know the words of side files; datasets that nothing scored go by what is in force."""
    strange = {path.split("/")[1] for path in facts.side_labels} - facts.taxonomies.keys()
    in_force = [read_taxonomy(folder, record.digest) for record in taxonomies_in_force(folder)] if strange else []
    return ground_truth_tables(facts.side_labels, facts.taxonomies, in_force, location)


def _views(facts: Facts, scores: Sequence[VisibleParts], location: Location) -> Iterable[tuple[str, str]]:
    def large(kind: Kind, parts: Iterable[VisibleParts]) -> list[VisibleParts]:
        groups = in_large_files(kind, parts, facts.runs, facts.compacted)
        return [replace(group, paths=location.all(group.paths)) for group in groups]

    yield "samples", samples_sql(large("samples", visible_samples(facts.runs)))
    yield "internal.all_samples", samples_sql(large("samples", all_parts(facts.runs, "samples")))
    yield "internal.scores", scores_sql(large("scores", scores))
    yield "internal.all_scores", scores_sql(large("scores", all_parts(facts.runs, "scores")))
    yield from ground_truth_sql(
        annotations=location.all(facts.annotations), side_labels=location.all(facts.side_labels)
    )
    yield from quality_sql(
        {dataset: location.all(paths) for dataset, paths in by_dataset(facts.statistics).items()},
        location.all(path for path in facts.duplicates if path == facts.duplicates_path),
    )
    yield from views_sql(
        model_id=facts.model_id,
        scorer=facts.scorer,
        combined=bool(combined_targets(facts, scores)),
        calibrations={path.split("/")[1]: location.pattern(path) for path in facts.calibrations},
    )
