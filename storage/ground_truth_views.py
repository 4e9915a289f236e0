"""The SQL of the views `annotations` and `ground_truth`: what people said, and what holds of it. Text only.

`internal.answers` is the rows of `annotations/*.parquet`, `internal.side_labels` what the side files of shards say, by
sample, each word as the label that it names. Both name labels as the annotator did: merges are resolved at the end, so
that a label which is un-merged has its own answers again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa

from schemas.label_words import LabelWords
from schemas.tables import ANNOTATIONS
from schemas.taxonomy import Taxonomy
from storage.locations import Location
from storage.views import columns_of, files_sql, literal, select_sql

SIDE_FILE = "side-file"  # the source of what side files say

_PLANES_WITH_CASE = 0x2_0000  # Unicode's first two planes: no letter beyond has another case
_SIDE_COLUMNS = {"sample": "INTEGER", "label_id": "VARCHAR", "at": "TIMESTAMP WITH TIME ZONE"}

# Letter by letter, as Python does it: DuckDB's own lower() leaves `Straße` and `STRASSE` apart. A file gives its
# words once, so this is done for each different word and not for each row.
_NAMED = """
WITH letters AS (
    SELECT word, generate_subscripts(found, 1) AS place, unnest(found) AS letter
    FROM (SELECT word, regexp_extract_all(trim(word, {spaces}), '(?s).') AS found FROM (
        SELECT DISTINCT word FROM read_parquet({files}, hive_partitioning = false) WHERE word IS NOT NULL))
), normal AS (
    SELECT l.word, string_agg(coalesce(c.folded, l.letter), '' ORDER BY l.place) AS normal
    FROM letters l LEFT JOIN internal.case_folds c ON c.letter = l.letter GROUP BY l.word
)
SELECT w.dataset, n.word, w.label_id FROM normal n JOIN internal.label_words w ON w.word = n.normal
"""

# Side files have no time of their own: the file here says when their shard was changed last.
_SIDE_LABELS = """
SELECT DISTINCT f.dataset, f.shard, s.sample, s.key, n.label_id, s.value, t.at
FROM read_parquet({files}, filename = 'path', hive_partitioning = false) s
    JOIN internal.side_files f ON f.path = s.path
    JOIN (
        SELECT file_name AS path, try_cast(decode(value) AS TIMESTAMP WITH TIME ZONE) AS at
        FROM parquet_kv_metadata({files}) WHERE key = encode('changed_at')
    ) t ON t.path = s.path
    JOIN internal.named n ON n.dataset = f.dataset AND n.word = s.word
"""

# Which samples have a side file that speaks of labels, whether or not the words in it, if any, name one.
_DESCRIBED = """
SELECT DISTINCT f.dataset, f.shard, s.sample, s.key
FROM read_parquet({files}, filename = 'path', hive_partitioning = false) s JOIN internal.side_files f ON f.path = s.path
"""

_ANNOTATIONS = """
SELECT dataset, shard, key, label_id, value, source, "at" FROM internal.answers
UNION ALL
SELECT dataset, shard, key, label_id, value, {side_file} AS source, "at" FROM internal.side_labels
"""

# First the newest answer for each label as it was named; then, of all that are one label now, a yes before a no.
# Unsure is -1, below no, and leaves the row out if it is the newest. Structs compare field by field.
_GROUND_TRUTH = """
WITH said AS (
    SELECT s.dataset, s.shard, s.sample, s.key, a.label_id, a.value, a.source, a."at"
    FROM internal.answers a JOIN samples s ON s.key = a.key
        AND (a.dataset IS NULL OR a.dataset = s.dataset) AND (a.shard IS NULL OR a.shard = s.shard)
    WHERE s.status <> 'duplicate_key'
    UNION ALL
    SELECT s.dataset, s.shard, s.sample, s.key, a.label_id, a.value, {side_file} AS source, a."at"
    FROM internal.side_labels a JOIN samples s
        ON s.dataset = a.dataset AND s.shard = a.shard AND s.sample = a.sample AND s.key = a.key
), newest AS (
    SELECT dataset, shard, sample, key, label_id,
        max(struct_pack("at" := "at", value := coalesce(value, -1), source := source)) AS answer
    FROM said GROUP BY ALL
), merged AS (
    SELECT n.dataset, n.shard, n.sample, n.key, l.label_id,
        max(struct_pack(value := n.answer.value, "at" := n.answer."at", source := n.answer.source)) AS answer
    FROM newest n
        JOIN internal.labels m ON m.dataset = n.dataset AND m.label_id = n.label_id
        JOIN internal.labels l ON l.dataset = m.dataset AND l.label_id = m.target
    WHERE l.active AND n.answer.value >= 0
    GROUP BY ALL
)
SELECT dataset, shard, sample, key, label_id, answer.value::TINYINT AS value, answer.source AS source,
    answer."at" AS "at"
FROM merged
"""


def ground_truth_tables(
    side_labels: Iterable[str],
    current: Mapping[str, Sequence[Taxonomy]],
    in_force: Sequence[Taxonomy],
    location: Location,
) -> Iterable[tuple[str, pa.Table]]:
    """Yield the small tables that the views need where there are side labels.

    Args:
        side_labels: their files, relative to the store.
        current: the taxonomies of each dataset that was scored.
        in_force: those whose words count in other datasets.
        location: how DuckDB finds the store's files.
    """
    files = [(location.name(path), *_shard_of(path)) for path in side_labels]
    if not files:
        return
    yield "side_files", _table(("path", "dataset", "shard"), files)
    datasets = sorted({dataset for _, dataset, _ in files})
    yield "label_words", _table(("dataset", "word", "label_id"), _words(datasets, current, in_force))
    letters = map(chr, range(_PLANES_WITH_CASE))
    folds = [(letter, folded) for letter in letters if (folded := letter.casefold()) != letter]
    yield "case_folds", _table(("letter", "folded"), folds)


def ground_truth_sql(*, annotations: Sequence[str], side_labels: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield name and query of every view of ground truth, in the order in which they build on each other.

    Args:
        annotations: files of answers.
        side_labels: files of what shards' side files say.
    """
    side_file, files = literal(SIDE_FILE), files_sql(side_labels)
    answers = columns_of(ANNOTATIONS)
    yield "internal.answers", select_sql(answers, annotations)
    if side_labels:
        yield "internal.named", _NAMED.format(files=files, spaces=literal(_spaces()))
        yield "internal.side_labels", _SIDE_LABELS.format(files=files)
        yield "internal.described", _DESCRIBED.format(files=files)
    else:
        yield "internal.side_labels", select_sql(answers | _SIDE_COLUMNS, ())
        yield "internal.described", select_sql(answers | _SIDE_COLUMNS, ())
    yield "annotations", _ANNOTATIONS.format(side_file=side_file)
    yield "ground_truth", _GROUND_TRUTH.format(side_file=side_file)


def _shard_of(path: str) -> tuple[str, str]:
    """Return dataset and shard of `side_labels/<dataset>/<shard>.parquet`."""
    _, dataset, part = path.split("/", 2)
    return dataset, unquote(part.removesuffix(".parquet"))


def _words(
    datasets: Iterable[str], current: Mapping[str, Sequence[Taxonomy]], in_force: Sequence[Taxonomy]
) -> list[tuple[str, str, str]]:
    """Return dataset, word and label; a word of two taxonomies may name a label in each."""
    found = {
        (dataset, word, label_id)
        for dataset in datasets
        for taxonomy in current.get(dataset, in_force)
        for word, label_id in LabelWords(taxonomy).meanings.items()
    }
    return sorted(found)


def _table(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> pa.Table:
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(names))]
    return pa.Table.from_arrays(columns, names=list(names))


def _spaces() -> str:
    """Return what Python takes for space around a word."""
    return "".join(letter for letter in map(chr, range(0x3001)) if letter.isspace())
