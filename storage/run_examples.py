"""The pictures that a run's report shows of a label: nearest to the threshold, surest, and most surprising.

Shapes: D embedding width.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from schemas.errors import StoreError
from schemas.manifest import RunRecord
from schemas.report import ChosenLabel, ReportPicture
from storage.embeddings import EmbeddedShard, embedded_shards, iter_embeddings
from storage.files import Folder
from storage.query import run_query
from storage.review import SCORED
from storage.run_figures import score_histograms
from storage.runs import StoredRun

_COPIES = 4  # of one picture among the first ones, without a list getting shorter
# A mean of so many embeddings does not move any more, and among so many of the surest there are surprising ones.
_LOOKED_AT = 2_000
_UNLIKE = 0.25  # the share of a label's pictures that look least like it
_LEAST = 8  # tagged pictures; what fewer have in common says little

Place = tuple[str, int]  # shard and ordinal of a sample

# Unfitted scores may be saturated at 0 or 1: their logits have the same order.
_STRENGTH = "CASE WHEN $fitted THEN s.score ELSE s.logit END"

# First how far each list reaches, which DuckDB finds without sorting; then the few rows within, in one order for ever.
_RANKED = f"""
WITH {SCORED},
placed AS (
    SELECT s.*, s.score >= t.threshold AS tagged, {_STRENGTH} AS strength
    FROM scored s JOIN thresholds t ON t.model_id = $model AND t.scorer = s.scorer AND t.label_id = s.label_id
),
reaches AS (
    SELECT label_id, list_max(min(strength, {{reach}}) FILTER (tagged)) AS above,
        list_min(max(strength, {{reach}}) FILTER (NOT tagged)) AS below, list_min(max(strength, {{reach}})) AS surest
    FROM placed GROUP BY label_id
),
listed AS (
    SELECT p.*, unnest([
        CASE WHEN p.tagged AND p.strength <= r.above THEN 'above' END,
        CASE WHEN NOT p.tagged AND p.strength >= r.below THEN 'below' END,
        CASE WHEN p.strength >= r.surest THEN 'surest' END
    ]) AS list
    FROM placed p JOIN reaches r ON r.label_id = p.label_id
    WHERE p.strength >= r.surest OR CASE WHEN p.tagged THEN p.strength <= r.above ELSE p.strength >= r.below END
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY label_id, list ORDER BY CASE WHEN list = 'above' THEN strength ELSE -strength END, shard, sample
    ) AS rank
    FROM listed WHERE list IS NOT NULL QUALIFY rank <= {{reach}}
)
SELECT r.list, r.label_id, p.dataset, p.shard, p.sample, p.key, p.sha256, r.score
FROM ranked r JOIN samples p ON p.shard = r.shard AND p.sample = r.sample
ORDER BY r.list, r.label_id, r.rank
"""

# Of each label's tags a lot, which stand for all of them, and those of the surer half that are the surest.
_TAGGED = f"""
WITH placed AS (
    SELECT s.label_id, s.shard, s.sample, s.score,
        row_number() OVER (PARTITION BY s.label_id ORDER BY {_STRENGTH} DESC, s.shard, s.sample) AS rank,
        row_number() OVER (PARTITION BY s.label_id ORDER BY md5(concat_ws('/', s.shard, s.sample))) AS lot,
        count(*) OVER (PARTITION BY s.label_id) AS tags
    FROM internal.tags s WHERE list_contains($labels, s.label_id)
),
looked AS (
    SELECT *, lot <= {_LOOKED_AT} AS drawn, rank <= least({_LOOKED_AT}, (tags + 1) // 2) AS sure
    FROM placed WHERE tags >= {_LEAST} AND (drawn OR sure)
)
SELECT l.label_id, p.dataset, p.shard, p.sample, p.key, p.sha256, l.score, l.drawn, l.sure
FROM looked l JOIN samples p ON p.shard = l.shard AND p.sample = l.sample
ORDER BY l.label_id, l.rank
"""


@dataclass(frozen=True, kw_only=True)
class Surprises:
    """The surprising pictures of a label, the least alike first, and how alike its pictures are in the median."""

    pictures: list[ReportPicture]
    likeness: float


def labels_in_full(
    connection: duckdb.DuckDBPyConnection, folder: Folder, run: StoredRun, label_ids: Sequence[str], *, count: int
) -> tuple[ChosenLabel, ...]:
    """Return the chosen labels with their histograms and at most `count` pictures of each kind."""
    histograms = score_histograms(connection, run.record, label_ids)
    ranked = ranked_pictures(connection, run.record, label_ids, count=count) if count else {}
    surprising = surprising_pictures(connection, folder, run, label_ids, count=count) if count else {}
    return tuple(
        ChosenLabel(
            label_id=label_id,
            histogram=histograms[label_id],
            above=tuple(ranked.get(("above", label_id), ())),
            below=tuple(ranked.get(("below", label_id), ())),
            surest=tuple(ranked.get(("surest", label_id), ())),
            surprising=tuple(surprising[label_id].pictures if label_id in surprising else ()),
            likeness=surprising[label_id].likeness if label_id in surprising else None,
        )
        for label_id in label_ids
    )


def ranked_pictures(
    connection: duckdb.DuckDBPyConnection, record: RunRecord, label_ids: Sequence[str], *, count: int
) -> dict[tuple[str, str], list[ReportPicture]]:
    """Return by list (`above`, `below`, `surest`) and label its first pictures, each content once."""
    parameters = {
        "labels": list(label_ids),
        "model": record.model_id,
        "fitted": record.calibration == "fitted",
    }
    ranked = _RANKED.format(reach=count * _COPIES)  # no parameter: DuckDB must know it beforehand
    lists: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in run_query(connection, ranked, parameters).to_pylist():
        lists[row["list"], row["label_id"]].append(row)
    return {name: [_picture(row) for row in _distinct(rows)[:count]] for name, rows in lists.items()}


def surprising_pictures(
    connection: duckdb.DuckDBPyConnection, folder: Folder, run: StoredRun, label_ids: Sequence[str], *, count: int
) -> dict[str, Surprises]:
    """Return by label the tagged pictures that a person would not expect; none, where too few are tagged or embedded.

    These are in the surer half of a label's tags, and in the quarter whose embeddings have the smallest cosines with
    the mean embedding of the label's tagged pictures: the model is sure, and they look unlike the others. Embeddings
    are read of the run's shards that have such tags; one that cannot be read costs its own pictures.
    """
    parameters = {"labels": list(label_ids), "fitted": run.record.calibration == "fitted"}
    rows = run_query(connection, _TAGGED, parameters).to_pylist()
    embeddings = _read_embeddings(folder, run, {(row["shard"], row["sample"]) for row in rows})
    by_label: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if (row["shard"], row["sample"]) in embeddings:
            by_label[row["label_id"]].append(row)
    enough = {label_id: own for label_id, own in by_label.items() if sum(row["drawn"] for row in own) >= _LEAST}
    return {label_id: _surprises(own, embeddings, count) for label_id, own in enough.items()}


def _surprises(rows: Sequence[dict[str, Any]], embeddings: Mapping[Place, NDArray[Any]], count: int) -> Surprises:
    vectors = np.stack([embeddings[row["shard"], row["sample"]] for row in rows]).astype(np.float64)
    drawn = np.array([row["drawn"] for row in rows])
    mean_D = vectors[drawn].mean(axis=0)
    likeness = vectors @ mean_D / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(mean_D))
    unlike = likeness <= np.quantile(likeness[drawn], _UNLIKE)
    order = [number for number in np.argsort(likeness, kind="stable") if unlike[number] and rows[number]["sure"]]
    chosen = _distinct([rows[number] | {"likeness": float(likeness[number])} for number in order])
    return Surprises(pictures=[_picture(row) for row in chosen[:count]], likeness=float(np.median(likeness[drawn])))


def _read_embeddings(folder: Folder, run: StoredRun, places: set[Place]) -> dict[Place, NDArray[np.float16]]:
    """Return the embeddings of some samples; a thread for each core, and in each a chunk of one shard at a time."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for shard, sample in places:
        wanted[shard].add(sample)
    shards = [shard for shard in embedded_shards([run]) if shard.shard in wanted]
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="report") as pool:
        found = pool.map(lambda shard: dict(_read_shard(folder, run, shard, wanted[shard.shard])), shards)
        return {place: vector for own in found for place, vector in own.items()}


def _read_shard(
    folder: Folder, run: StoredRun, shard: EmbeddedShard, samples: set[int]
) -> Iterator[tuple[Place, NDArray[np.float16]]]:
    ordinals = np.array(sorted(samples))
    try:
        for chunk in iter_embeddings(folder, run.record.encoder_id, shard):
            for row in np.flatnonzero(np.isin(chunk.samples_N, ordinals)):
                yield (shard.shard, int(chunk.samples_N[row])), chunk.embeddings_ND[row].copy()
    except StoreError:  # a bad shard costs its own rows
        return


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first row of each content."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["sha256"], row)
    return list(first.values())


def _picture(row: Mapping[str, Any]) -> ReportPicture:
    return ReportPicture(**{name: row[name] for name in ReportPicture.model_fields if name in row})
