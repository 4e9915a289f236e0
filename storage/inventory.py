"""What a store must have so that its rows can be understood: run records, taxonomies, models, ground truth.

Part of the audit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import pyarrow as pa

from schemas.commands import store_command
from schemas.errors import ModelError, StoreError
from schemas.manifest import ModelRecord, Promotion
from schemas.tables import DUPLICATES as DUPLICATES_SCHEMA
from schemas.tables import IMAGE_STATISTICS, SIDE_LABELS
from schemas.taxonomy import Taxonomy
from storage.annotations import annotation_files, read_annotations
from storage.checkpoints import check_id, read_calibration, read_weights
from storage.curation_paths import DUPLICATES, QUALITY, current_statistics, duplicates_path
from storage.duplicates import read_duplicates_record, state_digest
from storage.files import Folder
from storage.findings import Finding, FindingCode
from storage.models import CURRENT, WEIGHTS, model_path
from storage.parquet import read_parquet, read_parquet_of
from storage.records import read_json
from storage.runs import StoredRun, begun, list_runs, read_run
from storage.sandbox import mend_of
from storage.taxonomies import find_record, taxonomy_path

_Readable = type[ModelRecord] | type[Promotion] | type[Taxonomy]


def read_sound_runs(folder: Folder) -> tuple[list[StoredRun], list[Finding]]:
    """Return the runs that can be read, and a finding for each folder of a run that cannot."""
    runs, findings = [], []
    for run_id in list_runs(folder):
        try:
            runs.append(read_run(folder, run_id))
        except FileNotFoundError:
            message = "its run.json is lost, so nothing of it is shown; the same `clipdecoder tag` command writes it"
            findings.append(Finding(code=FindingCode.RECORD, run_id=run_id, message=message))
        except StoreError as error:
            findings.append(Finding(code=FindingCode.RECORD, run_id=run_id, message=str(error)))
    return sorted(runs, key=begun), findings


def _mend(folder: Folder, path: str, again: str) -> str:
    """Say what to do about a record that cannot be read. That of a checkpoint nothing writes again."""
    weights = f"{path.rpartition('/')[0]}/{WEIGHTS}"
    if folder.exists(weights):
        return "put it back: it belongs to a trained model, and without it the model is lost"
    return f"remove it, and {again}"


def _unsound_checkpoint(folder: Folder, record: ModelRecord) -> Iterator[Finding]:
    """Yield a finding where a checkpoint's files are not those that it was written with."""
    try:
        read_weights(folder, record)
        check_id(record, read_calibration(folder, record.model_id))
    except ModelError as error:
        yield Finding(code=FindingCode.RECORD, run_id=None, message=str(error))


def iter_missing(folder: Folder, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Yield a finding for every taxonomy and model that the runs need, and that is not there or cannot be read."""
    again = "the `clipdecoder tag` command that used it writes it again"
    needed: dict[str, _Readable] = {CURRENT: Promotion} if folder.exists(CURRENT) else {}
    for run in runs:
        needed[taxonomy_path(run.record.taxonomy_digest)] = Taxonomy
        needed[model_path(run.record.model_id)] = ModelRecord
    unread = []
    for path, kind in needed.items():
        try:
            record = read_json(folder, path, kind)
            if isinstance(record, ModelRecord) and record.checkpoint is not None:
                yield from _unsound_checkpoint(folder, record)
            if isinstance(record, Taxonomy) and (in_force := find_record(folder, record.name)) is not None:
                unread.append(taxonomy_path(in_force.digest))
        except FileNotFoundError:
            yield Finding(
                code=FindingCode.RECORD, run_id=None, message=f"{path} is not there; {_mend(folder, path, again)}"
            )
        except StoreError as error:
            yield Finding(code=FindingCode.RECORD, run_id=None, message=f"{error}; {_mend(folder, path, again)}")
    for path in sorted(set(unread) - needed.keys()):
        if not folder.exists(path):
            yield Finding(code=FindingCode.RECORD, run_id=None, message=f"{path} is in force and not there; {again}")


def iter_unsound_ground_truth(folder: Folder) -> Iterator[Finding]:
    """Yield a finding for every file of answers, or of what side files say, that the views cannot read."""
    for path in annotation_files(folder):
        try:
            read_annotations(folder, path)
        except StoreError as error:
            yield Finding(code=FindingCode.GROUND_TRUTH, run_id=None, message=str(error))
    for path in folder.list("side_labels", ".parquet"):
        try:
            _check_side_labels(folder.read_bytes(path))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            message = f"{path} cannot be read ({error}); remove it: it is read from its shard again when it is needed"
            yield Finding(code=FindingCode.GROUND_TRUTH, run_id=None, message=message)


def iter_unsound_curation(folder: Folder, runs: Sequence[StoredRun], model_id: str | None) -> Iterator[Finding]:
    """Yield a finding for every file of statistics or of duplicates that cannot be read, or is out of date.

    Args:
        folder: the store.
        runs: all of it.
        model_id: the one whose duplicates the views show.
    """
    read = {run.record.encoder_id for run in runs if run.record.model_id == model_id}
    # Views of another model, or of a run of one, show the groups by its encoder.
    shown = {*current_statistics(folder, runs), *(duplicates_path(run.record.encoder_id) for run in runs)}
    for prefix, schema in ((QUALITY, IMAGE_STATISTICS), (DUPLICATES, DUPLICATES_SCHEMA)):
        for path in folder.list(prefix, ".parquet"):
            try:
                read_parquet_of(folder.read_bytes(path), schema)
            except (pa.ArrowException, OSError, ValueError) as error:
                yield _unsound_curation(path, error, is_shown=path in shown)
    for encoder_id in read:
        record = read_duplicates_record(folder, encoder_id)
        if record is not None and record.facts.digest != state_digest(folder, runs, encoder_id):
            again = store_command("duplicates", store=folder.url)
            message = f"{duplicates_path(encoder_id)} is of other samples; `{again}` computes it again"
            yield Finding(code=FindingCode.STALE, run_id=None, message=message)


def _unsound_curation(path: str, error: Exception, *, is_shown: bool) -> Finding:
    if is_shown:
        message = f"{path} cannot be read ({error}); {mend_of(path)}"
        return Finding(code=FindingCode.CURATION, run_id=None, message=message)
    message = f"{path} cannot be read ({error}), and no view reads it; it may be removed"
    return Finding(code=FindingCode.LEFTOVER, run_id=None, message=message)


def _check_side_labels(data: bytes) -> None:
    table = read_parquet(data)
    datetime.fromisoformat((table.schema.metadata or {})[b"changed_at"].decode())
    table.select(SIDE_LABELS.names)
