"""The SQL of the views `quality` and `duplicates`. Text only. Both have no rows of what was not computed yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from schemas.tables import DUPLICATES as DUPLICATES_SCHEMA
from schemas.tables import IMAGE_STATISTICS
from storage.curation_paths import DUPLICATES, QUALITY
from storage.views import columns_of, literal, select_sql

STATISTICS, GROUPS = "internal.statistics", "internal.duplicates"  # views of files
_COLUMNS = {
    STATISTICS: {"dataset": "VARCHAR"} | columns_of(IMAGE_STATISTICS),
    GROUPS: columns_of(DUPLICATES_SCHEMA),
}
# By view, the folder of its files. They can be computed again: if they are damaged, all other views hold without them.
DISPENSABLE = {STATISTICS: QUALITY, GROUPS: DUPLICATES}

_QUALITY = """
SELECT s.dataset, s.shard, s.sample, s.key, s.width, s.height, s.width * s.height::BIGINT / 1e6 AS megapixels,
    s.width / s.height AS aspect, s.bytes, s.sha256, q.phash, q.brightness, q.contrast, q.sharpness
FROM samples s LEFT JOIN internal.statistics q ON q.dataset = s.dataset AND q.shard = s.shard AND q.sample = s.sample
WHERE s.status = 'ok'
"""

# Of the bytes that were compared. A group whose representative has changed since says nothing about the others, and one
# of which a single sample is left is none. Where the representative's shard is not looked at (one run is), the member
# that would have been preferred without it stands in: one of a group stays always.
_DUPLICATES = """
WITH looked_at AS (SELECT DISTINCT dataset, shard FROM samples),
alive AS (
    SELECT d.dataset, d.shard, d.sample, s.key, d.group_id, d.representative, d.reason, d.cosine, d.group_id IN (
        SELECT r.group_id FROM internal.duplicates r ANTI JOIN looked_at USING (dataset, shard) WHERE r.representative
    ) AS headless, row_number() OVER (
        PARTITION BY d.group_id ORDER BY s.width * s.height::BIGINT DESC, s.bytes DESC, d.dataset, d.shard, d.sample
    ) AS rank
    FROM internal.duplicates d JOIN samples s
        ON s.dataset = d.dataset AND s.shard = d.shard AND s.sample = d.sample AND s.sha256 = d.sha256
)
SELECT dataset, shard, sample, key, group_id, representative OR (headless AND rank = 1) AS representative, reason,
    cosine
FROM alive
QUALIFY count(*) OVER (PARTITION BY group_id) > 1 AND bool_or(representative OR headless) OVER (PARTITION BY group_id)
"""


def quality_sql(statistics: Mapping[str, Sequence[str]], duplicates: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield name and query of the views, in the order in which they build on each other.

    Args:
        statistics: by dataset, the files that say what the pictures of its shards are like now.
        duplicates: the file of groups, if there is one.
    """
    columns = columns_of(IMAGE_STATISTICS)
    of_datasets = (
        f"SELECT {literal(dataset)} AS dataset, * FROM ({select_sql(columns, paths)})"
        for dataset, paths in statistics.items()
    )
    yield STATISTICS, " UNION ALL ".join(of_datasets) or select_sql(_COLUMNS[STATISTICS], ())
    yield "quality", _QUALITY
    yield GROUPS, select_sql(_COLUMNS[GROUPS], duplicates)
    yield "duplicates", _DUPLICATES


def refusing_sql(name: str, reason: str) -> str:
    """Return the query of a view of files in place of one that cannot be made of them: who asks it gets the reason.

    In every column, since a column that nobody asks for is not computed.
    """
    said = f"error({literal(reason)})"
    return f"SELECT {', '.join(f'{said}::{kind} AS {column}' for column, kind in _COLUMNS[name].items())}"
