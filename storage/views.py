"""The SQL of the views. Text only: names and paths come in as values and are quoted here. Paths are what DuckDB opens
files by (storage/locations.py).

Schema `internal` holds what the public views are made of: tables of what was read when the catalog was opened, and
views over Parquet without keys, which cost a join. Public views stand in `main`; `keyless` has twins of them that
`run_query` asks where no key is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from schemas.manifest import DEFAULT_THRESHOLD
from schemas.scores import ODDS_STEPS
from schemas.tables import ANY_LABEL, CALIBRATION, SAMPLES
from storage.keyless import SCHEMA as KEYLESS
from storage.late_keys import LATE_VIEWS
from storage.visibility import VisibleParts

_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int8(): "TINYINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.bool_(): "BOOLEAN",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}

# What a score part holds, and what the views make of it: log odds on a grid and each label's map to them.
_SCORES = {
    "shard": "VARCHAR",
    "sample": "INTEGER",
    "label_id": "VARCHAR",
    "logit": "FLOAT",
    "score": "FLOAT",
    "odds": "INTEGER",
}
_MADE_OF_ODDS = {
    "logit": f"((odds / {ODDS_STEPS}e0 - intercept) / slope)::FLOAT",
    "score": f"(1 / (1 + exp(odds / -{ODDS_STEPS}e0)))::FLOAT",
}

# Small and part of every question about tags: made once, since to plan them anew costs more than to read them.
KEPT_READY = frozenset(("internal.judged",))

# A key is joined on last, and from the left, so that a score is shown even if its sample's row should be missing.
_WITH_KEY = """
SELECT s.dataset, s.shard, s.sample, k.key, s.label_id, s.logit, s.score, s.run_id, s.model_id, s.scorer
FROM {scores} s LEFT JOIN {samples} k ON k.{owner} = s.{owner} AND k.shard = s.shard AND k.sample = s.sample
"""

_WITHOUT_KEY = """
SELECT dataset, shard, sample, label_id, logit, score, run_id, model_id, scorer FROM {scores}
"""

_PLAIN_TAGS = """
SELECT s.dataset, s.shard, s.sample, s.label_id, l.name AS label, s.score, s.logit, l.threshold, l.seen, s.run_id,
    s.model_id, s.scorer
FROM internal.scores s
    JOIN internal.judged l ON l.dataset = s.dataset AND l.label_id = s.label_id AND l.scorer = s.scorer
WHERE l.active AND NOT l.combined AND s.odds >= l.odds AND s.score >= l.threshold
"""

# Several scored labels are one label now: a sample's best score counts, against the threshold of the one that is left.
_COMBINED_TAGS = """
SELECT s.dataset, s.shard, s.sample, l.label_id, any_value(l.name) AS label, max(s.score) AS score,
    arg_max(s.logit, s.score) AS logit, arg_max(l.threshold, s.score) AS threshold, any_value(l.seen) AS seen,
    arg_max(s.run_id, s.score) AS run_id, any_value(s.model_id) AS model_id, arg_max(s.scorer, s.score) AS scorer
FROM internal.scores s
    JOIN internal.labels m ON m.dataset = s.dataset AND m.label_id = s.label_id AND m.combined
    JOIN internal.judged l ON l.dataset = m.dataset AND l.label_id = m.target AND l.scorer = s.scorer
WHERE l.active AND s.odds >= l.odds AND s.score >= l.threshold
GROUP BY s.dataset, s.shard, s.sample, l.label_id
"""

_TAGS_WITH_KEY = """
SELECT t.dataset, t.shard, t.sample, k.key, t.label_id, t.label, t.score, t.logit, t.threshold, t.seen, t.run_id,
    t.model_id, t.scorer
FROM internal.tags t LEFT JOIN samples k ON k.dataset = t.dataset AND k.shard = t.shard AND k.sample = t.sample
"""

# Every model and scorer with every label that it scored or could score.
_SCORABLE = """
SELECT s.model_id, s.scorer, k.label_id FROM internal.scorers s CROSS JOIN internal.known k
UNION ALL
SELECT s.model_id, s.scorer, m.label_id
FROM internal.scorers s JOIN (SELECT model_id, unnest(seen_labels) AS label_id FROM internal.models) m USING (model_id)
WHERE NOT EXISTS (FROM internal.known k WHERE k.label_id = m.label_id)
"""

# A label without a row of its own has that of any label: it is novel to the model.
_THRESHOLDS = """
SELECT b.model_id, b.scorer, b.label_id, coalesce(c.threshold, n.threshold, {default})::DOUBLE AS threshold,
    CASE WHEN c.threshold IS NOT NULL THEN 'calibration' WHEN n.threshold IS NOT NULL THEN 'novel'
        ELSE 'default' END AS source
FROM internal.scorable b
    LEFT JOIN internal.calibration c ON c.model_id = b.model_id AND c.scorer = b.scorer AND c.label_id = b.label_id
    LEFT JOIN internal.calibration n ON n.model_id = b.model_id AND n.scorer = b.scorer AND n.label_id = {any_label}
"""

# `odds`: no score below them reaches the threshold, be it rounded to float32. It spares the rest their exponential.
_JUDGED = f"""
SELECT l.*, t.scorer, t.threshold, CASE WHEN t.threshold <= 1e-7 THEN -2147483648
    ELSE floor(ln((least(t.threshold, 1) - 1e-7) / (1 - least(t.threshold, 1) + 1e-7)) * {ODDS_STEPS}) - 1
    END::INTEGER AS odds
FROM internal.labels l JOIN thresholds t ON t.model_id = {{model_id}} AND t.label_id = l.label_id
"""

# Thresholds of the scorer that the model uses where none is asked for.
_LABELS = """
SELECT l.dataset, l.label_id, l.name, l.parent, l.merged_into, l.retired, l.active, l.seen,
    coalesce(j.threshold, {default})::DOUBLE AS threshold, l.description, l.synonyms
FROM internal.labels l
    LEFT JOIN internal.judged j ON j.dataset = l.dataset AND j.label_id = l.label_id AND j.scorer = {scorer}
"""


def literal(value: str) -> str:
    """Return `value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def samples_sql(parts: Sequence[VisibleParts]) -> str:
    """Return the query of sample parts, each row with the run it comes from."""
    constants = [{"dataset": part.dataset, "run_id": part.run_id} for part in parts]
    return _union({"dataset": "VARCHAR"} | columns_of(SAMPLES) | {"run_id": "VARCHAR"}, parts, constants)


def scores_sql(parts: Sequence[VisibleParts]) -> str:
    """Return the query of score parts without hidden labels and keys, each row with its run, model and scorer."""
    constants = [
        {"dataset": part.dataset, "run_id": part.run_id, "model_id": part.model_id, "scorer": part.scorer}
        for part in parts
    ]
    return _union(
        {"dataset": "VARCHAR"} | _SCORES | dict.fromkeys(("run_id", "model_id", "scorer"), "VARCHAR"), parts, constants
    )


def views_sql(
    *, model_id: str | None, scorer: str, combined: bool, calibrations: dict[str, str]
) -> Iterable[tuple[str, str]]:
    """Yield name and query of every view over the internal ones, in the order in which they build on each other.

    Args:
        model_id: the model whose thresholds hold.
        scorer: the one whose thresholds `labels` shows.
        combined: whether labels were merged of which scores are shown; only then do tags pay for grouping.
        calibrations: the calibration file of each model that has one.
    """
    default = repr(DEFAULT_THRESHOLD)
    yield "failures", "SELECT * FROM samples WHERE status <> 'ok'"
    yield "scores", _WITH_KEY.format(scores="internal.scores", samples="samples", owner="dataset")
    yield "all_scores", _WITH_KEY.format(scores="internal.all_scores", samples="internal.all_samples", owner="run_id")
    yield "internal.calibration", _calibration_sql(calibrations)
    yield "internal.scorable", _SCORABLE
    yield "thresholds", _THRESHOLDS.format(default=default, any_label=literal(ANY_LABEL))
    yield "internal.judged", _JUDGED.format(model_id=literal(model_id or ""))
    yield "labels", _LABELS.format(default=default, scorer=literal(scorer))
    yield "internal.tags", f"{_PLAIN_TAGS} UNION ALL {_COMBINED_TAGS}" if combined else _PLAIN_TAGS
    yield "tags", _TAGS_WITH_KEY
    yield from LATE_VIEWS.items()
    yield f"{KEYLESS}.scores", _WITHOUT_KEY.format(scores="internal.scores")
    yield f"{KEYLESS}.all_scores", _WITHOUT_KEY.format(scores="internal.all_scores")
    yield f"{KEYLESS}.tags", "SELECT * FROM internal.tags"
    yield "runs", "SELECT * FROM internal.runs"
    yield "models", "SELECT * FROM internal.models"


def _calibration_sql(calibrations: dict[str, str]) -> str:
    columns = columns_of(CALIBRATION)
    if not calibrations:
        return select_sql({"model_id": "VARCHAR", **columns}, ())
    return " UNION ALL ".join(
        f"SELECT {literal(model_id)} AS model_id, * FROM ({select_sql(columns, (path,))})"
        for model_id, path in calibrations.items()
    )


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Return a stored schema's columns with their types in DuckDB; which image it is comes first in every view."""
    types = {field.name: _DUCKDB_TYPES[field.type] for field in schema}
    return {name: types[name] for name in ("dataset", "shard", "sample", "key") if name in types} | types


def _union(columns: dict[str, str], parts: Sequence[VisibleParts], constants: Sequence[dict[str, str]]) -> str:
    """Return one query over groups of files; a column that is one of a group's constants is not read from them."""
    if not parts:
        return select_sql(columns, ())
    return " UNION ALL ".join(
        select_sql(
            columns,
            part.paths,
            made=_MADE_OF_ODDS | {name: literal(value) for name, value in values.items()},
            hidden=part.hidden,
        )
        for part, values in zip(parts, constants, strict=True)
    )


def files_sql(paths: Iterable[str]) -> str:
    """Return a list of files, as table functions take it."""
    return f"[{', '.join(map(literal, paths))}]"


def select_sql(
    columns: Mapping[str, str],
    paths: Sequence[str],
    *,
    made: Mapping[str, str] = MappingProxyType({}),
    hidden: Iterable[str] = (),
) -> str:
    """Return the query of these columns of these files; of no files, no rows with the same columns.

    Args:
        columns: name and type of each.
        paths: the files.
        made: the SQL of the columns that are not stored as they are.
        hidden: labels whose rows are left out.
    """
    if not paths:
        empty = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
        return f"SELECT {empty} WHERE false"
    # One of the names, `at`, is a word of SQL.
    shown = ", ".join(f'{made[name]} AS "{name}"' if name in made else f'"{name}"' for name in columns)
    labels = ", ".join(literal(label_id) for label_id in sorted(hidden))
    source = f"read_parquet({files_sql(paths)}, hive_partitioning = false)"
    where = f" WHERE label_id NOT IN ({labels})" if labels else ""
    return f"SELECT {shown} FROM {source}{where}"
