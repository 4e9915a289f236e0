"""The numbers of one run's report, asked of the views. `open_catalog(store, run_id=...)` makes them show that run.

Everything is counted in DuckDB: what comes back is as long as the vocabulary, or as the number of chosen labels, and
never as long as the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from schemas.manifest import RunRecord
from schemas.report import (
    HISTOGRAM_BINS,
    FailureError,
    FailureFigures,
    LabelFigures,
    ScoreHistogram,
    Together,
)
from schemas.sample import SampleStatus
from storage.query import run_query
from storage.review import SCORED

_MESSAGES = 5  # shown of each status

_STATUSES = "SELECT status, count(*) AS samples FROM samples GROUP BY status ORDER BY samples DESC, status"

# Messages that differ in their numbers alone say the same: "ends early, after 5689 bytes".
_FAILURES = f"""
WITH reasons AS (
    SELECT status, regexp_replace(error, '[0-9]+', '0', 'g') AS kind, count(*) AS count,
        min({{'shard': shard, 'sample': sample, 'key': key, 'error': error}}) AS first
    FROM failures GROUP BY status, kind
)
SELECT status, first.error AS error, count, first.shard AS shard, first.key AS key,
    (sum(count) OVER (PARTITION BY status))::BIGINT AS of_status, count(*) OVER (PARTITION BY status) AS messages
FROM reasons
QUALIFY row_number() OVER (PARTITION BY status ORDER BY count DESC, kind) <= {_MESSAGES}
ORDER BY of_status DESC, status, count DESC, kind
"""

# The labels that the run's vocabulary counts for now: merged ones under their target, retired ones not at all.
_LABEL_IDS = """
SELECT DISTINCT l.label_id FROM internal.labels s JOIN internal.labels l ON l.label_id = s.target
WHERE l.active AND list_contains($vocabulary, s.label_id) ORDER BY l.label_id
"""

_LABELS = f"""
WITH {SCORED},
kept AS (SELECT label_id, count(*) AS kept, max(score) AS best_score FROM scored GROUP BY label_id),
tagged AS (SELECT label_id, count(*) AS tags, avg(score) AS mean_score FROM internal.tags GROUP BY label_id)
SELECT l.label_id, l.name, l.seen, t.threshold, t.source, coalesce(k.kept, 0) AS kept, coalesce(g.tags, 0) AS tags,
    g.mean_score, k.best_score
FROM labels l
    JOIN thresholds t ON t.model_id = $model AND t.scorer = $scorer AND t.label_id = l.label_id
    LEFT JOIN kept k ON k.label_id = l.label_id
    LEFT JOIN tagged g ON g.label_id = l.label_id
WHERE list_contains($labels, l.label_id)
ORDER BY tags DESC, l.label_id
"""

_TAGS_PER_PICTURE = """
WITH pictures AS (SELECT shard, sample, count(*) AS tags FROM internal.tags GROUP BY shard, sample)
SELECT tags, count(*) AS pictures FROM pictures GROUP BY tags ORDER BY tags
"""

# One number for each picture, a bit for each label: pictures are counted by what they have before pairs are formed.
_TOGETHER = """
WITH pictures AS (
    SELECT bit_or(1::BIGINT << (list_position($labels, label_id) - 1)) AS has
    FROM internal.tags WHERE list_contains($labels, label_id) GROUP BY shard, sample
),
kinds AS (SELECT has, count(*) AS pictures FROM pictures GROUP BY has)
SELECT a.range AS a, b.range AS b, sum(k.pictures)::BIGINT AS pictures
FROM kinds k, range(len($labels)) a, range(len($labels)) b
WHERE (k.has >> a.range) & (k.has >> b.range) & 1 = 1
GROUP BY ALL
"""
MAX_TOGETHER = 62  # bits that a BIGINT has for labels

_HISTOGRAMS = f"""
WITH {SCORED},
placed AS (
    SELECT s.label_id, t.threshold, s.score >= t.threshold AS tagged,
        CASE WHEN $fitted THEN s.score ELSE s.logit END AS value,
        CASE WHEN $fitted THEN 0 ELSE min(s.logit) OVER () END AS low,
        CASE WHEN $fitted THEN 1 ELSE max(s.logit) OVER () END AS high
    FROM scored s JOIN thresholds t ON t.model_id = $model AND t.scorer = s.scorer AND t.label_id = s.label_id
)
SELECT label_id, any_value(threshold) AS threshold, any_value(low) AS low, any_value(high) AS high,
    least(floor({HISTOGRAM_BINS} * (value - low) / nullif(high - low, 0)), {HISTOGRAM_BINS - 1})::INTEGER AS bin,
    count(*) AS scores, max(value) FILTER (NOT tagged) AS below, min(value) FILTER (tagged) AS above
FROM placed GROUP BY label_id, bin
"""


def count_statuses(connection: duckdb.DuckDBPyConnection) -> dict[SampleStatus, int]:
    """Return the number of samples by status."""
    return {SampleStatus(row["status"]): row["samples"] for row in run_query(connection, _STATUSES).to_pylist()}


def count_failures(connection: duckdb.DuckDBPyConnection) -> list[FailureFigures]:
    """Return the samples that failed by status, the most frequent first, each with its most frequent messages."""
    rows = run_query(connection, _FAILURES).to_pylist()
    return [
        FailureFigures(
            status=status,
            count=own[0]["of_status"],
            messages=own[0]["messages"],
            examples=tuple(FailureError(**{name: row[name] for name in FailureError.model_fields}) for row in own),
        )
        for status in dict.fromkeys(row["status"] for row in rows)
        if (own := [row for row in rows if row["status"] == status])
    ]


def count_labels(connection: duckdb.DuckDBPyConnection, record: RunRecord) -> list[LabelFigures]:
    """Return the labels that a run scored, as they are named, merged and judged now; the most frequent first."""
    vocabulary = {"vocabulary": [label.label_id for label in record.vocabulary]}
    label_ids = [row["label_id"] for row in run_query(connection, _LABEL_IDS, vocabulary).to_pylist()]
    parameters = {"labels": label_ids, "model": record.model_id, "scorer": record.scorer}
    return [LabelFigures(**row) for row in run_query(connection, _LABELS, parameters).to_pylist()]


def count_tags_per_picture(connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """Return how many pictures have so many tags; those without any are not counted."""
    rows = run_query(connection, _TAGS_PER_PICTURE).to_pylist()
    return {row["tags"]: row["pictures"] for row in rows}


def count_together(connection: duckdb.DuckDBPyConnection, label_ids: Sequence[str]) -> Together:
    """Return how many pictures have each two of these labels, at most `MAX_TOGETHER` of them."""
    counts = [[0] * len(label_ids) for _ in label_ids]
    for row in run_query(connection, _TOGETHER, {"labels": list(label_ids)}).to_pylist():
        counts[row["a"]][row["b"]] = row["pictures"]
    return Together(label_ids=tuple(label_ids), counts=tuple(map(tuple, counts)))


def score_histograms(
    connection: duckdb.DuckDBPyConnection, record: RunRecord, label_ids: Sequence[str]
) -> dict[str, ScoreHistogram]:
    """Return the stored scores of these labels in bins: from 0 to 1, or for logits over what these labels have."""
    fitted = record.calibration == "fitted"
    parameters = {"labels": list(label_ids), "model": record.model_id, "fitted": fitted}
    rows = run_query(connection, _HISTOGRAMS, parameters).to_pylist()
    by_label = {label_id: [row for row in rows if row["label_id"] == label_id] for label_id in label_ids}
    return {label_id: _histogram(own, fitted=fitted) for label_id, own in by_label.items()}


def _histogram(rows: Sequence[dict[str, Any]], *, fitted: bool) -> ScoreHistogram:
    counts = [0] * HISTOGRAM_BINS
    for row in rows:
        counts[row["bin"] or 0] += row["scores"]  # no bin where all values are one
    return ScoreHistogram(
        axis="score" if fitted else "logit",
        low=rows[0]["low"] if rows else 0,
        high=rows[0]["high"] if rows else 1,
        counts=tuple(counts),
        threshold=rows[0]["threshold"] if rows and fitted else _between(rows),
        all_tagged=bool(rows) and all(row["below"] is None for row in rows),
    )


def _between(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the logit at which tags begin: there are both, those with a tag and those without."""
    below = [row["below"] for row in rows if row["below"] is not None]
    above = [row["above"] for row in rows if row["above"] is not None]
    return (max(below) + min(above)) / 2 if below and above else None
