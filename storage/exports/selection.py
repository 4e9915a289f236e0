"""Which samples a query chooses, with their tags, in the order of their shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from schemas.digests import canonical_json, digest_of
from schemas.errors import QueryError, RequestError
from schemas.export import ExportLabel
from storage.pictures import some_of
from storage.query import run_query
from storage.review import shown_scorer

# What may say which sample a row is about, with its type. More than the key is needed only where keys repeat.
_COLUMNS = {"key": "VARCHAR", "shard": "VARCHAR", "dataset": "VARCHAR", "sample": "INTEGER"}
_BATCH_ROWS = 10_000

# Without an ordinal, a key is that of the first sample of its shard that has it, which is the one that was scored.
_FIRST = "(SELECT * FROM samples WHERE status <> 'duplicate_key')"

_NOT_ONE = """
SELECT any_value(c.key) AS key, count(s.status) AS matches FROM internal.chosen c LEFT JOIN {samples} s USING ({by})
GROUP BY c.place HAVING matches <> 1 ORDER BY ALL
"""

_CHOSEN = """
WITH picked AS (SELECT s.* FROM {samples} s SEMI JOIN internal.chosen c USING ({by})),
tagged AS (
    SELECT t.dataset, t.shard, t.sample,
        list({{'label_id': t.label_id, 'score': t.score}} ORDER BY t.score DESC, t.label_id) AS tags
    FROM tags t SEMI JOIN picked p USING (dataset, shard, sample) GROUP BY t.dataset, t.shard, t.sample
)
SELECT p.dataset, p.shard, p.sample, p.key AS source_key, p.width, p.height, p.sha256, p.status,
    coalesce(t.tags, []) AS tags
FROM picked p LEFT JOIN tagged t USING (dataset, shard, sample) ORDER BY p.dataset, p.shard, p.sample
"""

_LABELS = """
SELECT l.label_id, arg_min(l.name, l.dataset) AS name, arg_min(l.parent, l.dataset) AS parent, t.scorer,
    any_value(t.threshold) AS threshold, any_value(t.source) AS source
FROM labels l JOIN thresholds t ON t.label_id = l.label_id AND t.model_id = $model
    SEMI JOIN runs r ON r.dataset = l.dataset AND r.model_id = t.model_id AND r.scorer = t.scorer
WHERE l.active AND list_contains($datasets, l.dataset) GROUP BY l.label_id, t.scorer ORDER BY ALL
"""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Chosen samples: a row for each, with `key` as it is called in an export, and all of EXPORTED_LABELS, `status`."""

    rows: pa.Table
    model_id: str | None
    labels: tuple[ExportLabel, ...]
    renamed: int

    @property
    def datasets(self) -> list[str]:
        """The datasets that samples were chosen from."""
        return sorted(self.rows["dataset"].unique().to_pylist())

    @property
    def places(self) -> Counter[tuple[str, str]]:
        """How many samples each dataset and shard gives, in order."""
        columns = self.rows["dataset"].to_pylist(), self.rows["shard"].to_pylist()
        return Counter(zip(*columns, strict=True))

    @property
    def digest(self) -> str:
        """Content hash of the rows."""
        found = hashlib.sha256()
        for batch in self.rows.to_batches(max_chunksize=_BATCH_ROWS):
            found.update("".join(map(canonical_json, batch.to_pylist())).encode())
        return found.hexdigest()


def select_samples(connection: duckdb.DuckDBPyConnection, sql: str) -> Selection:
    """Return the samples that a query is about, each once, whatever order the query has.

    Args:
        connection: an open catalog, which no other thread asks meanwhile.
        sql: one SELECT that yields `key`, and `shard`, `dataset` or `sample` where a key alone says too little.

    Raises:
        QueryError: the query is refused, has no key, or chooses nothing.
        RequestError: a key stands in several shards, or in none.
        StoreError: a file of the store cannot be read.
    """
    by = _keep_answer(connection, run_query(connection, sql))
    names = {"samples": "samples" if "sample" in by else _FIRST, "by": ", ".join(by)}
    _check(run_query(connection, _NOT_ONE.format(**names)).to_pylist(), by)
    rows = run_query(connection, _CHOSEN.format(**names))
    keys = output_keys(rows.select(["dataset", "shard", "sample", "source_key"]).to_pylist())
    datasets = rows["dataset"].unique().to_pylist()
    shown = shown_scorer(connection)
    model_id = shown["model_id"] if shown else None
    labels = run_query(connection, _LABELS, {"model": model_id, "datasets": datasets}).to_pylist()
    return Selection(
        rows=rows.add_column(0, "key", pa.array(keys, pa.string())),
        model_id=model_id,
        labels=tuple(ExportLabel(**label) for label in labels),
        renamed=sum(new != old for new, old in zip(keys, rows["source_key"].to_pylist(), strict=True)),
    )


def _keep_answer(connection: duckdb.DuckDBPyConnection, answer: pa.Table) -> list[str]:
    """Keep which samples the answer names as a table of the catalog, and return its columns."""
    found = {name.lower(): name for name in reversed(answer.column_names)}
    by = [name for name in _COLUMNS if name in found]
    if "key" not in by:
        yielded = ", ".join(answer.column_names)
        raise QueryError(f"the query yields {yielded} and no key; write select key ..., or select dataset, shard, key")
    if not answer.num_rows:
        raise QueryError("the query chooses no sample; `clipdecoder sql` shows what it yields")
    casts = ", ".join(f"TRY_CAST({name} AS {_COLUMNS[name]}) AS {name}" for name in by)
    connection.register("read", answer.select([found[name] for name in by]).rename_columns(by))
    connection.execute(
        "CREATE OR REPLACE TABLE internal.chosen AS SELECT *, row_number() OVER () AS place "
        f"FROM (SELECT DISTINCT {casts} FROM read)"
    )
    connection.unregister("read")
    return by


def _check(not_one: Sequence[dict[str, Any]], by: Sequence[str]) -> None:
    several = [str(row["key"]) for row in not_one if row["matches"] > 1]
    if several:
        lacking = [name for name in ("dataset", "shard") if name not in by]
        raise RequestError(
            f"keys of the query that stand in several shards: {len(several)} ({some_of(several)}); "
            f"select {' and '.join(lacking)} too: select dataset, shard, key ..."
        )
    unknown = [str(row["key"]) for row in not_one]
    if unknown:
        raise RequestError(
            f"rows of the query that name no sample of the store: {len(unknown)} ({some_of(unknown)}); "
            "select key, and perhaps dataset and shard, from samples, tags, scores or another view"
        )


def output_keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a key for each sample, all different: its own where no other has it, else with its shard before it.

    Where that does not tell them apart, the dataset stands before the shard, and in the last resort a digest.
    """
    longer: Sequence[Callable[[dict[str, Any]], str]] = (
        lambda row: f"{row['shard']}/{row['source_key']}",
        lambda row: f"{row['dataset']}/{row['shard']}/{row['source_key']}",
        lambda row: f"{digest_of([row['dataset'], row['shard'], row['sample']])}/{row['source_key']}",
    )
    keys = [row["source_key"] for row in rows]
    for name in longer:
        repeated = {key for key, count in Counter(keys).items() if count > 1}
        if not repeated:
            break
        keys = [name(row) if key in repeated else key for key, row in zip(keys, rows, strict=True)]
    return keys
