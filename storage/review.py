"""Which pictures a person could be asked about: every active label's nearest, highest and drawn ones, not yet answered.

A picture stands for all of its dataset with the same content. It counts as answered for a label if any picture of that
content is, unsure included; and if a side file describes it and side files of its dataset know the label, as what they
do not name is a no.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from storage.query import run_query

_POOL = 20  # pictures drawn by lot for each one that is needed: some are answered, or of another dataset
_COPIES = 2  # datasets that may share a picture without a label getting fewer candidates than asked for

# What all questions rest on: one picture of each content, the labels with their thresholds, what is answered. Pairs
# that are answered are few beside all scores: they are taken out by place, and texts are joined to what is left.
_COMMON = """
said AS (SELECT DISTINCT dataset, shard, key, label_id FROM annotations),
contents AS (
    SELECT dataset, shard, sample, key, sha256,
        row_number() OVER (PARTITION BY dataset, sha256 ORDER BY shard, sample) AS copy
    FROM samples WHERE status = 'ok'
),
pictures AS (SELECT * FROM contents WHERE copy = 1),
named AS (
    SELECT DISTINCT a.dataset, l.target AS label_id
    FROM internal.side_labels a JOIN internal.labels l ON l.dataset = a.dataset AND l.label_id = a.label_id
),
cuts AS (
    SELECT l.dataset, l.label_id, t.scorer, t.threshold, t.source <> 'default' AS judged,
        n.label_id IS NOT NULL AS named
    FROM labels l JOIN thresholds t ON t.model_id = $model AND t.label_id = l.label_id
        LEFT JOIN named n ON n.dataset = l.dataset AND n.label_id = l.label_id
    WHERE l.active AND list_contains($labels, l.label_id)
),
described AS (
    SELECT DISTINCT p.dataset, p.shard, p.sample, true AS named
    FROM pictures p
        JOIN contents c ON c.dataset = p.dataset AND c.sha256 = p.sha256
        JOIN internal.described d ON d.dataset = c.dataset AND d.shard = c.shard AND d.sample = c.sample
            AND d.key = c.key
),
answered AS (
    SELECT DISTINCT p.dataset, p.shard, p.sample, l.target AS label_id
    FROM said a
        JOIN contents c ON c.key = a.key AND (a.dataset IS NULL OR a.dataset = c.dataset)
            AND (a.shard IS NULL OR a.shard = c.shard)
        JOIN internal.labels l ON l.dataset = c.dataset AND l.label_id = a.label_id
        JOIN pictures p ON p.sha256 = c.sha256
    WHERE list_contains($labels, l.target)
)
"""

_STILL_OPEN = """
    ANTI JOIN answered a ON a.dataset = {of}.dataset AND a.shard = {of}.shard AND a.sample = {of}.sample
        AND a.label_id = t.label_id
    ANTI JOIN described d ON d.dataset = {of}.dataset AND d.shard = {of}.shard AND d.sample = {of}.sample
        AND d.named = t.named
"""

# As in the view `tags`: where labels were merged, the best score of any of them counts.
SCORED = """
scored AS (
    SELECT s.dataset, s.shard, s.sample, s.label_id, s.score, s.logit, s.scorer
    FROM internal.scores s JOIN internal.labels l ON l.dataset = s.dataset AND l.label_id = s.label_id
    WHERE NOT l.combined AND list_contains($labels, l.label_id)
    UNION ALL
    SELECT s.dataset, s.shard, s.sample, l.target AS label_id, max(s.score) AS score,
        arg_max(s.logit, s.score) AS logit, arg_max(s.scorer, s.score) AS scorer
    FROM internal.scores s JOIN internal.labels l ON l.dataset = s.dataset AND l.label_id = s.label_id
    WHERE l.combined AND list_contains($labels, l.target)
    GROUP BY s.dataset, s.shard, s.sample, l.target
)
"""

# Unfitted scores may be saturated at 0 or 1: their logits have the same order. Each list is one `row_number` with one
# key, which DuckDB answers without sorting everything.
_RANKED = f"""
WITH {_COMMON}, {SCORED},
still AS (
    SELECT s.dataset, s.shard, s.sample, s.label_id, s.score, t.threshold, t.judged,
        s.score >= t.threshold AS above, CASE WHEN t.judged THEN s.score ELSE s.logit END AS strength
    FROM scored s
        JOIN cuts t ON t.dataset = s.dataset AND t.label_id = s.label_id AND t.scorer = s.scorer
        ANTI JOIN contents c ON c.dataset = s.dataset AND c.shard = s.shard AND c.sample = s.sample AND c.copy <> 1
        {_STILL_OPEN.format(of="s")}
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY label_id ORDER BY strength) AS rank, 'above' AS list
    FROM still WHERE above QUALIFY rank <= $reach
    UNION ALL
    SELECT *, row_number() OVER (PARTITION BY label_id ORDER BY strength DESC) AS rank, 'below' AS list
    FROM still WHERE NOT above QUALIFY rank <= $reach
    UNION ALL
    SELECT *, row_number() OVER (PARTITION BY label_id ORDER BY strength DESC) AS rank, 'highest' AS list
    FROM still QUALIFY rank <= $reach
)
SELECT r.list, p.dataset, p.shard, p.sample, p.key, p.sha256, r.label_id, r.score, r.threshold, r.judged
FROM ranked r JOIN pictures p ON p.dataset = r.dataset AND p.shard = r.shard AND p.sample = r.sample
ORDER BY r.rank, p.sha256, p.dataset
"""

# A picture drawn by lot may have no score of the label: it is below the floor. MD5 draws alike for ever.
_DRAWN = f"""
WITH {_COMMON}, {SCORED},
pool AS (SELECT * FROM pictures ORDER BY md5(concat_ws('/', sha256, $seed)), dataset LIMIT $pool),
drawn AS (
    SELECT p.*, t.label_id, t.threshold, t.judged, t.scorer, md5(concat_ws('/', p.sha256, t.label_id, $seed)) AS lot
    FROM pool p JOIN cuts t ON t.dataset = p.dataset AND t.scorer = $scorer
        {_STILL_OPEN.format(of="p")}
    QUALIFY row_number() OVER (PARTITION BY t.label_id ORDER BY lot) <= $reach
)
SELECT 'drawn' AS list, d.dataset, d.shard, d.sample, d.key, d.sha256, d.label_id, s.score,
    coalesce(t.threshold, d.threshold) AS threshold, coalesce(t.judged, d.judged) AS judged
FROM drawn d
    LEFT JOIN scored s ON s.dataset = d.dataset AND s.shard = d.shard AND s.sample = d.sample
        AND s.label_id = d.label_id
    LEFT JOIN cuts t ON t.dataset = s.dataset AND t.label_id = s.label_id AND t.scorer = s.scorer
ORDER BY d.lot, d.dataset
"""

_COUNTS = f"""
WITH {_COMMON},
by_silence AS (
    SELECT coalesce(sum(d.pictures * n.labels), 0) AS pairs
    FROM (SELECT dataset, count(*) AS pictures FROM described GROUP BY dataset) d
        JOIN (SELECT dataset, count(DISTINCT label_id) AS labels FROM cuts WHERE named GROUP BY dataset) n
            ON n.dataset = d.dataset
),
by_answer AS (
    SELECT count(*) AS pairs
    FROM answered a
        LEFT JOIN named n ON n.dataset = a.dataset AND n.label_id = a.label_id
        LEFT JOIN described d ON d.dataset = a.dataset AND d.shard = a.shard AND d.sample = a.sample
    WHERE n.label_id IS NULL OR d.sample IS NULL
)
SELECT (SELECT count(*) FROM contents WHERE copy > 1) AS duplicates,
    ((SELECT pairs FROM by_silence) + (SELECT pairs FROM by_answer))::BIGINT AS answered
"""

_LABELS = """
SELECT label_id, min(name) AS name, min(description) AS description, bool_or(seen) AS seen
FROM labels WHERE active GROUP BY label_id ORDER BY label_id
"""

_HIDDEN = """
SELECT label_id, nullif(min(target), label_id) AS target FROM internal.labels
GROUP BY label_id HAVING NOT bool_or(active) ORDER BY label_id
"""

_LABEL_IDS = "SELECT DISTINCT label_id FROM labels"

_SHOWN = "SELECT model_id, scorer FROM internal.scores LIMIT 1"


@dataclass(frozen=True, kw_only=True)
class ReviewLabel:
    """An active label, as people know it."""

    label_id: str
    name: str
    description: str | None
    seen: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One picture that could be asked about for one label."""

    dataset: str
    shard: str
    sample: int
    key: str
    sha256: str
    label_id: str
    score: float | None  # None: below the floor of what is stored
    threshold: float
    judged: bool  # whether the threshold was fitted; else it is a default that says little

    @property
    def above(self) -> bool:
        """Whether the picture is tagged with the label."""
        return self.score is not None and self.score >= self.threshold


@dataclass(frozen=True, kw_only=True)
class LabelPool:
    """What could be asked about one label, each list from the picture that it is about most."""

    above: list[Candidate]  # tagged, the nearest to the threshold first
    below: list[Candidate]  # not tagged, the nearest to the threshold first
    highest: list[Candidate]  # whatever the threshold, the highest score first
    drawn: list[Candidate]  # by lot


@dataclass(frozen=True, kw_only=True)
class ReviewPool:
    """Everything that could be asked."""

    labels: dict[str, LabelPool]
    duplicates: int  # pictures whose content another picture of the dataset has
    answered: int  # pairs of picture and label that are answered


def review_labels(connection: duckdb.DuckDBPyConnection) -> list[ReviewLabel]:
    """Return the active labels of an open catalog, by id."""
    return [ReviewLabel(**row) for row in run_query(connection, _LABELS).to_pylist()]


def hidden_labels(connection: duckdb.DuckDBPyConnection) -> dict[str, str | None]:
    """Return the labels of an open catalog that are active in no dataset: what they were merged into; None: retired."""
    return {row["label_id"]: row["target"] for row in run_query(connection, _HIDDEN).to_pylist()}


def known_labels(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Return the ids of all labels of an open catalog: active, merged and retired ones."""
    return {row["label_id"] for row in run_query(connection, _LABEL_IDS).to_pylist()}


def shown_scorer(connection: duckdb.DuckDBPyConnection) -> dict[str, str] | None:
    """Return `model_id` and `scorer` of the scores that an open catalog shows, or None if it shows none."""
    rows = run_query(connection, _SHOWN).to_pylist()
    return rows[0] if rows else None


def review_pool(
    connection: duckdb.DuckDBPyConnection, label_ids: Sequence[str], *, per_label: int, seed: int
) -> ReviewPool:
    """Return what could be asked about these labels; nothing, where no score is shown.

    Args:
        connection: an open catalog.
        label_ids: active labels.
        per_label: how many questions a label may get; enough candidates of each kind are returned for that.
        seed: of the pictures that are drawn by lot.

    Raises:
        StoreError: a file of the store cannot be read.
    """
    shown = shown_scorer(connection) or {"model_id": "", "scorer": ""}
    common = {"labels": list(label_ids), "model": shown["model_id"]}
    reach = common | {"reach": per_label * _COPIES}
    lot = {"seed": seed, "pool": per_label * _COPIES * _POOL, "scorer": shown["scorer"]}
    counts = run_query(connection, _COUNTS, common).to_pylist()[0]
    rows = [*run_query(connection, _RANKED, reach).to_pylist(), *run_query(connection, _DRAWN, reach | lot).to_pylist()]
    pools = {label_id: LabelPool(above=[], below=[], highest=[], drawn=[]) for label_id in label_ids}
    for row in rows:
        found: list[Candidate] = getattr(pools[row["label_id"]], row.pop("list"))
        found.append(Candidate(**row))
    return ReviewPool(labels=pools, **counts)


def known_pictures(connection: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> set[tuple[str, str, str]]:
    """Return dataset, shard and key of every sample of the store that has one of these keys."""
    sql = "SELECT DISTINCT dataset, shard, key FROM samples SEMI JOIN (SELECT unnest($keys) AS key) USING (key)"
    rows = run_query(connection, sql, {"keys": list(keys)}).to_pylist()
    return {(row["dataset"], row["shard"], row["key"]) for row in rows}
