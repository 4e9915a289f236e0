"""`duplicates`: groups of samples that are nearly the same, over all datasets of a store. Loads no model.

Samples come in the order of preference (storage/duplicates.py). Those of the same bytes are one to begin with; what is
left is compared by stored embeddings, and by perceptual hashes where that is asked for.

Shapes: N samples in the order of dataset, shard and ordinal; U different contents in the order of preference; D
embedding width; E samples in groups.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.scratch import Room
from schemas.curation import SAME_PICTURE, DuplicatesFacts, DuplicatesRecord, DuplicatesRequest, DuplicatesSummary
from schemas.errors import StoreError
from schemas.manifest import ModelRecord
from storage.catalog import check_store, open_catalog, shown_model
from storage.duplicates import (
    GroupCounts,
    Groups,
    Rows,
    StoreSamples,
    count_groups,
    count_samples,
    read_duplicates_record,
    read_samples,
    state_digest,
    write_duplicates,
)
from storage.embeddings import EmbeddedShard, embedded_shards, iter_embeddings
from storage.files import Folder
from storage.models import read_model, read_promotion
from storage.runs import StoredRun, read_runs

Watch = Callable[[int, int], None]  # contents compared, of how many

SAME_BYTES, SAME, NEAR = "same bytes", "same picture", "near"


class _Gathered(NamedTuple):
    """What became of gathering embeddings."""

    has_vector_U: NDArray[np.bool_]
    unreadable: tuple[str, ...]


def run_duplicates(request: DuplicatesRequest, watch: Watch = lambda done, total: None) -> DuplicatesSummary:
    """Find the groups and write them, unless those that are there are of the same samples.

    Raises:
        StoreError: there is no store, no run in it, or it cannot be read or written.
        ModelError: the store has no such model.
        RunError: the disk has no room for the embeddings.
    """
    folder = Folder(request.store)
    check_store(folder)
    runs = read_runs(folder)
    model = _model(folder, runs, request.model)
    record = read_duplicates_record(folder, model.encoder_id)
    with open_catalog(folder, model_id=model.model_id) as connection:
        facts = DuplicatesFacts(
            encoder_id=model.encoder_id,
            min_cosine=request.min_cosine,
            max_phash=request.max_phash,
            samples=count_samples(connection),
            digest=state_digest(folder, runs, model.encoder_id),
        )
        if record is not None and record.facts == facts and not record.unreadable:
            return _summary(model, record, count_groups(connection), computed=False)
        samples = read_samples(connection)
    record = _compute(folder, embedded_shards(runs), model, facts, samples, watch)
    with open_catalog(folder, model_id=model.model_id) as connection:  # one that shows the new groups
        return _summary(model, record, count_groups(connection), computed=True)


def _model(folder: Folder, runs: Sequence[StoredRun], asked: str | None) -> ModelRecord:
    model_id = shown_model(runs, read_promotion(folder)) if asked in (None, "current") else asked
    if model_id is None:
        raise StoreError(f"nothing was tagged in {folder.url!r} yet; `clipdecoder tag` makes embeddings")
    return read_model(folder, model_id)


def _compute(
    folder: Folder,
    shards: Sequence[EmbeddedShard],
    model: ModelRecord,
    facts: DuplicatesFacts,
    samples: StoreSamples,
    watch: Watch,
) -> DuplicatesRecord:
    with tempfile.TemporaryDirectory(prefix="clipdecoder-") as scratch:
        vectors_UD = Room(Path(scratch)).zeros("embeddings", np.float16, (model.embedding_width,), len(samples.rows_U))
        gathered = _gather(folder, shards, model.encoder_id, samples, vectors_UD)
        groups = _groups(vectors_UD, samples, facts, watch)
    record = DuplicatesRecord(
        facts=facts,
        embedded=int(gathered.has_vector_U[samples.contents_N].sum()),
        hashed=int(samples.has_hash_N.sum()),
        unreadable=gathered.unreadable,
    )
    write_duplicates(folder, record, samples, groups)
    return record


def _gather(
    folder: Folder,
    shards: Sequence[EmbeddedShard],
    encoder_id: str,
    samples: StoreSamples,
    vectors_UD: NDArray[np.float16],
) -> _Gathered:
    """Fill in the embeddings that the store has."""
    has_vector_U, unreadable = np.zeros(len(vectors_UD), np.bool_), list[str]()
    for shard in shards:
        rows = samples.shards.get((shard.dataset, shard.shard))
        if rows is None:  # of a shard without a good picture
            continue
        ordinals, contents = samples.ordinals_N[rows], samples.contents_N[rows]
        try:
            for chunk in iter_embeddings(folder, encoder_id, shard):
                known = np.isin(chunk.samples_N, ordinals)
                places = np.searchsorted(ordinals, chunk.samples_N[known])
                vectors_UD[contents[places]] = chunk.embeddings_ND[known]
                has_vector_U[contents[places]] = True
        except StoreError as error:  # a bad shard costs its own rows
            unreadable.append(str(error))
    return _Gathered(has_vector_U, tuple(unreadable))


def _groups(vectors_UD: NDArray[np.float16], samples: StoreSamples, facts: DuplicatesFacts, watch: Watch) -> Groups:
    from clipdecoder.curation.leaders import cosines, find_leaders, hash_space, make_space

    spaces = [make_space(vectors_UD, facts.min_cosine)]
    if facts.max_phash is not None:
        rows_U = samples.rows_U
        spaces.append(hash_space(samples.hashes_N[rows_U], samples.has_hash_N[rows_U], facts.max_phash))
    leaders_U = find_leaders(spaces, watch)
    leaders_N = leaders_U[samples.contents_N]
    rows_E = np.flatnonzero(np.bincount(leaders_N, minlength=len(leaders_U))[leaders_N] > 1)
    contents_E, leaders_E = samples.contents_N[rows_E], leaders_N[rows_E]
    cosines_E = cosines(vectors_UD, contents_E, leaders_E)
    cosines_E[contents_E == leaders_E] = 1.0
    representatives_E = samples.rows_U[leaders_E]
    return Groups(
        rows_E=rows_E,
        representatives_E=representatives_E,
        reasons_E=_reasons(samples, rows_E, representatives_E, facts.max_phash),
        cosines_E=cosines_E.astype(np.float32),
    )


def _reasons(samples: StoreSamples, rows_E: Rows, representatives_E: Rows, max_phash: int | None) -> list[str | None]:
    same_bytes_E = samples.contents_N[rows_E] == samples.contents_N[representatives_E]
    differing_E = np.bitwise_count(samples.hashes_N[rows_E] ^ samples.hashes_N[representatives_E])
    hashed_E = samples.has_hash_N[rows_E] & samples.has_hash_N[representatives_E]
    same_E = hashed_E & (differing_E <= (SAME_PICTURE if max_phash is None else max_phash))
    reasons_E = np.where(same_bytes_E, SAME_BYTES, np.where(same_E, SAME, NEAR)).tolist()
    return [
        None if row == own else reason for row, own, reason in zip(rows_E, representatives_E, reasons_E, strict=True)
    ]


def _summary(model: ModelRecord, record: DuplicatesRecord, counts: GroupCounts, *, computed: bool) -> DuplicatesSummary:
    return DuplicatesSummary(model_id=model.model_id, record=record, computed=computed, **counts._asdict())
