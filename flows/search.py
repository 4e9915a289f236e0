"""`search`: the samples of a store whose stored embeddings are nearest to a text, to another sample, to a picture.

A search like another sample loads no model: its embedding is stored as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdecoder.scoring.nearest import Nearest, nearest
from flows.models import load_model, load_recorded
from flows.searching.query import Place, embed_picture, embed_texts, find_like, place_of
from schemas.commands import store_command
from schemas.errors import ConfigError, StoreError, one_of
from schemas.manifest import ModelRecord
from schemas.search import FoundTag, SearchHit, SearchRequest, SearchResult
from storage.catalog import check_store, open_catalog, shown_model
from storage.embeddings import EmbeddedShard, embedded_shards, iter_embeddings
from storage.files import Folder
from storage.models import read_model, read_models, read_promotion
from storage.query import run_query
from storage.runs import StoredRun, read_runs

_TAGS = 3  # shown of each sample

_DESCRIBED = f"""
WITH hits AS (SELECT unnest($ranks) AS rank, unnest($datasets) AS dataset, unnest($shards) AS shard,
    unnest($samples)::INTEGER AS sample),
best AS (
    SELECT h.rank,
        list({{'label_id': t.label_id, 'score': t.score}} ORDER BY t.score DESC, t.label_id)[:{_TAGS}] AS tags
    FROM tags t JOIN hits h USING (dataset, shard, sample) GROUP BY h.rank
)
SELECT h.rank, s.key, coalesce(b.tags, []) AS tags
FROM hits h JOIN samples s USING (dataset, shard, sample) LEFT JOIN best b USING (rank)
ORDER BY h.rank
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is nearest in several shards together, the nearest first; equal cosines in the order of the shards."""

    places: tuple[tuple[EmbeddedShard, int], ...]  # shard and ordinal of each sample
    cosines: tuple[float, ...]
    searched: tuple[EmbeddedShard, ...]
    compared: int
    lacking: tuple[EmbeddedShard, ...]
    unreadable: tuple[StoreError, ...]


def run_search(request: SearchRequest) -> SearchResult:
    """Return the samples nearest to what a request asks for; that sample itself is not among them.

    Raises:
        ConfigError: not one thing is asked for, or it is not there.
        ModelError: the model is unknown, or has no space that texts and pictures share.
        StoreError: there is no store, or no embedding in it of the model's encoder.
    """
    _check_asked(request)
    folder = Folder(request.store)
    check_store(folder)
    runs = read_runs(folder)
    record = _model(folder, runs, request)
    shards = _shards(runs, request)
    known = record.model_id in read_models(folder)
    with open_catalog(folder, model_id=record.model_id if known else None) as connection:
        place = place_of(connection, request) if request.like is not None else None
        query_D = _query(folder, record, request, shards, place)
        # One more than asked for: the sample that the others are to be like is left out.
        found = find_nearest(
            folder,
            record.encoder_id,
            shards,
            query_D,
            top=request.top + (place is not None),
            min_cosine=request.min_score,
            threads=request.decode_threads,
        )
        _check_found(found, record, request)
        hits = tuple(_hits(connection, found, place, request.top))
    return SearchResult(
        query=_asked(request),
        model_id=record.model_id,
        encoder_id=record.encoder_id,
        hits=hits,
        searched=found.compared,
        shards=len(found.searched),
        lacking=tuple(f"{shard.dataset}/{shard.shard}" for shard in found.lacking),
        unreadable=tuple(str(error) for error in found.unreadable),
    )


def find_nearest(
    folder: Folder,
    encoder_id: str,
    shards: Sequence[EmbeddedShard],
    query_D: NDArray[np.floating],
    *,
    top: int,
    min_cosine: float = -1.0,
    threads: int = 0,
) -> Found:
    """Return the `top` samples of some shards nearest to a query; each thread holds a chunk of one shard.

    Args:
        folder: the store.
        encoder_id: whose embeddings.
        shards: in the order in which equal cosines are to stand.
        query_D: of any length but zero.
        top: how many at most.
        min_cosine: none below it.
        threads: 0 for one per core. They change no result.
    """

    def search(shard: EmbeddedShard) -> Nearest | StoreError:
        try:
            return nearest(query_D, iter_embeddings(folder, encoder_id, shard), top=top, min_cosine=min_cosine)
        except StoreError as error:  # a bad shard costs its own rows
            return error

    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="search") as pool:
        answers = list(zip(shards, pool.map(search, shards), strict=True))
    read = [(shard, answer) for shard, answer in answers if isinstance(answer, Nearest)]
    places = [(shard, int(sample)) for shard, own in read for sample in own.ids]
    cosines = [float(cosine) for _, own in read for cosine in own.cosines]
    order = sorted(range(len(places)), key=lambda place: -cosines[place])[:top]  # stable
    return Found(
        places=tuple(places[number] for number in order),
        cosines=tuple(cosines[number] for number in order),
        searched=tuple(shard for shard, own in read if own.compared),
        compared=sum(own.compared for _, own in read),
        lacking=tuple(shard for shard, own in read if shard.num_ok and not own.compared),
        unreadable=tuple(answer for _, answer in answers if isinstance(answer, StoreError)),
    )


def _check_asked(request: SearchRequest) -> None:
    asked = (bool(request.texts), request.like is not None, request.like_file is not None)
    if sum(asked) != 1:
        raise ConfigError(
            f"search needs one thing to look for, and {sum(asked)} were given: "
            'a text ("a red bus at night"), --like KEY, or --like-file PICTURE'
        )
    if request.shard is not None and request.like is None:
        raise ConfigError(f"--shard {request.shard} says where the key of --like is; give both, or leave it out")


def _asked(request: SearchRequest) -> str:
    """Return what was looked for, as people read it."""
    return ", ".join(request.texts) or f"like {request.like if request.like is not None else request.like_file}"


def _model(folder: Folder, runs: Sequence[StoredRun], request: SearchRequest) -> ModelRecord:
    """Return the record of the model that was asked for; a name is loaded only if the store does not know it."""
    name = request.model
    if name is not None and ":" in name:
        named = [known for known in read_models(folder).values() if known.name == name and known.checkpoint is None]
        return named[0] if named else load_model(folder, name, request.device).record
    model_id = shown_model(runs, read_promotion(folder)) if name in (None, "current") else name
    if model_id is None:
        raise StoreError(f"nothing was tagged in {request.store!r} yet; `clipdecoder tag` makes embeddings")
    return read_model(folder, model_id)


def _shards(runs: Sequence[StoredRun], request: SearchRequest) -> list[EmbeddedShard]:
    shards = embedded_shards(runs, request.dataset)
    if request.dataset is not None and not shards:
        raise ConfigError(one_of("dataset", request.dataset, {run.record.dataset for run in runs}))
    return shards


def _query(
    folder: Folder,
    record: ModelRecord,
    request: SearchRequest,
    shards: Sequence[EmbeddedShard],
    place: Place | None,
) -> NDArray[np.floating]:
    if place is not None:
        return find_like(folder, record, shards, place)
    model = load_recorded(folder, record, request.device)
    if request.like_file is not None:
        return embed_picture(model.encoders.image, request)
    return embed_texts(model.encoders, record, request.texts)


def _check_found(found: Found, record: ModelRecord, request: SearchRequest) -> None:
    """Refuse a search that compared nothing.

    Raises:
        StoreError: saying which command makes the embeddings.
    """
    if found.compared:
        return
    if found.unreadable:
        raise found.unreadable[0]
    where = f"of dataset {request.dataset!r} " if request.dataset else ""
    tag = store_command("tag", "SHARDS", "--taxonomy", "FILE", "--model", record.name, store=request.store)
    backfill = store_command("backfill", "--model", record.model_id, store=request.store)
    raise StoreError(
        f"the store {request.store!r} has no embeddings {where}by the encoder {record.encoder_id} of model "
        f"{record.model_id} ({record.name}); `{tag}` makes them, and where shards "
        f"were tagged before, `{backfill}`"
    )


def _hits(connection: Any, found: Found, left_out: Place | None, top: int) -> Iterator[SearchHit]:
    """Yield what was found, with keys and the best tags that an open catalog shows."""
    chosen = [
        (shard.dataset, shard.shard, sample, cosine)
        for (shard, sample), cosine in zip(found.places, found.cosines, strict=True)
        if (shard.dataset, shard.shard, sample) != left_out
    ][:top]
    columns = {
        "ranks": list(range(1, len(chosen) + 1)),
        "datasets": [dataset for dataset, _, _, _ in chosen],
        "shards": [shard for _, shard, _, _ in chosen],
        "samples": [sample for _, _, sample, _ in chosen],
    }
    for row in run_query(connection, _DESCRIBED, columns).to_pylist():
        dataset, shard, sample, cosine = chosen[row["rank"] - 1]
        yield SearchHit(
            rank=row["rank"],
            dataset=dataset,
            shard=shard,
            sample=sample,
            key=row["key"],
            cosine=cosine,
            tags=tuple(FoundTag(**tag) for tag in row["tags"]),
        )
