"""Ways to lay score rows out in Parquet, compared: bytes, what writing costs, what five questions cost, what is lost.

Part of `python -m benchmarks.queries`. Each candidate has one file for every 100,000 images, and is asked by hand-
written SQL over its files: so the layouts are compared, and not the views.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.scores import ODDS_STEPS, grid_odds

LABELS, KEPT, PART_IMAGES, FILE_IMAGES = 200, 32, 10_000, 100_000
SLOPE, INTERCEPT = 100.0, -25.0  # plain CLIP: see docs/decisions/0003
GROUP = 122_880
_THRESHOLD = 0.5


class Rows(NamedTuple):
    """Kept scores of some images, sorted by label, then shard, then sample. All arrays have length M."""

    shard: NDArray[np.int32]
    sample: NDArray[np.int32]
    label: NDArray[np.int32]
    logit: NDArray[np.float32]


def make_rows(shard: int, images: int = PART_IMAGES) -> Rows:
    """Return made-up cosines of a shard: labels differ in how near they are to all images, the best are kept."""
    nearness = np.random.default_rng(0).normal(0.18, 0.012, LABELS).astype(np.float32)
    cosines = nearness + np.float32(0.025) * np.random.default_rng(shard + 1).standard_normal(
        (images, LABELS), np.float32
    )
    best = np.argpartition(cosines, LABELS - KEPT, axis=1)[:, LABELS - KEPT :]
    label = best.ravel().astype(np.int32)
    order = np.argsort(label, kind="stable")
    sample = np.repeat(np.arange(images, dtype=np.int32), KEPT)
    logit = np.take_along_axis(cosines, best, axis=1).ravel()
    return Rows(np.full(len(label), shard, np.int32), sample[order], label[order], logit[order])


def together(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several shards, sorted as one part is."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[2].astype(np.uint16), kind="stable")
    return Rows(*(column[order] for column in columns))


def label_names() -> list[str]:
    """Return the labels' ids, in order."""
    return [f"label-{number:03d}" for number in range(LABELS)]


def log_odds(rows: Rows) -> NDArray[np.float64]:
    """Return what scores are the sigmoid of."""
    return SLOPE * rows.logit.astype(np.float64) + INTERCEPT


def exact_scores(rows: Rows) -> NDArray[np.float64]:
    """Return the scores before anything is rounded."""
    return np.asarray(1 / (1 + np.exp(-log_odds(rows))))


Columns = Mapping[str, Any]
_SPLIT, _DELTA = "BYTE_STREAM_SPLIT", {"sample": "DELTA_BINARY_PACKED"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One candidate: its columns beside shard, sample and label, and the SQL that gives the score."""

    name: str
    values: Callable[[Rows], Columns]
    score: str
    passes: str  # the SQL of `score >= 0.5`
    encoding: Mapping[str, str] = field(default_factory=dict)
    codes: bool = False  # labels as numbers, with a table of their names beside
    by_image: bool = False
    group: int = GROUP
    level: int = 3

    def file(self, rows: Rows, path: Path) -> None:
        """Write rows to a file."""
        if self.by_image:
            order = np.lexsort((rows.label, rows.sample, rows.shard))
            rows = Rows(*(column[order] for column in rows))
        shards, shard = np.unique(rows.shard, return_inverse=True)
        columns = {
            "shard": pa.DictionaryArray.from_arrays(shard.astype(np.int32), pa.array([f"{n:05d}" for n in shards])),
            "sample": rows.sample,
            "label_id": rows.label.astype(np.int16)
            if self.codes
            else pa.DictionaryArray.from_arrays(rows.label, pa.array(label_names())),
        }
        pq.write_table(
            pa.table(columns | dict(self.values(rows))),
            path,
            compression="zstd",
            compression_level=self.level,
            row_group_size=self.group,
            write_page_checksum=True,
            use_dictionary=["shard", "label_id", "slope", "intercept"],
            column_encoding=_DELTA | dict(self.encoding),
        )


def _float32(rows: Rows) -> NDArray[np.float32]:
    return exact_scores(rows).astype(np.float32)


def _grid(rows: Rows) -> Columns:
    maps = {"slope": np.full(len(rows.sample), SLOPE), "intercept": np.full(len(rows.sample), INTERCEPT)}
    return {"odds": grid_odds(log_odds(rows)), **maps}


_OF_LOGIT = f"(1 / (1 + exp(-({SLOPE}e0 * logit + {INTERCEPT}e0))))"
_CHOSEN: dict[str, Any] = {
    "values": _grid,
    "score": f"(1 / (1 + exp(odds / -{ODDS_STEPS}e0)))",
    "passes": "odds >= 0",
    "encoding": {"odds": _SPLIT},
}
_PLAIN: dict[str, Any] = {"score": "score", "passes": f"score >= {_THRESHOLD}", "encoding": {"score": _SPLIT}}
_BOTH: dict[str, Any] = _PLAIN | {
    "values": lambda rows: {"logit": rows.logit, "score": _float32(rows)},
    "encoding": {"logit": _SPLIT, "score": _SPLIT},
}
LAYOUTS = (
    Layout(name="logit and score, float32 (as it was)", **_BOTH),
    Layout(name="the same, in the order of images", by_image=True, **_BOTH),
    Layout(
        name="logit alone, float32",
        values=lambda rows: {"logit": rows.logit},
        score=_OF_LOGIT,
        passes=f"logit >= {-INTERCEPT / SLOPE}",
        encoding={"logit": _SPLIT},
    ),
    Layout(
        name="score alone, float16",
        values=lambda rows: {"score": _float32(rows).astype(np.float16)},
        **_PLAIN | {"encoding": {"score": "PLAIN"}},  # DuckDB reads no other one of these
    ),
    Layout(
        name="score alone, uint16",
        values=lambda rows: {"score": np.rint(exact_scores(rows) * 65535).astype(np.uint16)},
        score="(score / 65535e0)",
        passes=f"score >= {round(_THRESHOLD * 65535)}",
        encoding={"score": _SPLIT},
    ),
    Layout(name="**log odds on a grid (chosen)**", **_CHOSEN),
    Layout(name="the same, labels as numbers", codes=True, **_CHOSEN),
    Layout(name="the same, row groups of 983,040", group=8 * GROUP, **_CHOSEN),
    Layout(name="the same, row groups of 30,720", group=GROUP // 4, **_CHOSEN),
    Layout(name="the same, log odds not split by byte", **_CHOSEN | {"encoding": {"odds": "PLAIN"}}),
    Layout(name="the same, zstd 1", level=1, **_CHOSEN),
)

_QUESTIONS = {
    "two labels": "SELECT count(*) FROM tags a JOIN tags b USING (shard, sample) "
    "WHERE a.label_id = 'label-007' AND b.label_id = 'label-033'",
    "counts": "SELECT label_id, count(*) FROM tags GROUP BY ALL",
    "top 100": "SELECT shard, sample, score FROM tags WHERE label_id = 'label-007' ORDER BY score DESC LIMIT 100",
    "join": "SELECT count(*), avg(width) FROM tags JOIN samples USING (shard, sample) WHERE label_id = 'label-007'",
    "one image": "SELECT label_id, score FROM scores WHERE shard = '00001' AND sample = 1234",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of a layout."""

    layout: Layout
    bytes_per_image: float
    write_us: float
    milliseconds: Mapping[str, float]
    crossed: int  # rows that rounding took over the threshold
    tied: float  # share of rows with the score of another row of their label


def measure(parts: Sequence[Rows], place: Path, rounds: int) -> Iterator[Measured]:
    """Yield what each layout costs."""
    per_file = FILE_IMAGES // PART_IMAGES
    files = [together(parts[start : start + per_file]) for start in range(0, len(parts), per_file)]
    images = sum(len(rows.sample) for rows in files) // KEPT
    for number, layout in enumerate(LAYOUTS):
        folder = place / str(number)
        folder.mkdir()
        started = time.process_time()
        for index, rows in enumerate(files):
            layout.file(rows, folder / f"{index}.parquet")
        write_us = (time.process_time() - started) / images * 1e6
        size = sum(path.stat().st_size for path in folder.iterdir())
        with duckdb.connect() as connection:
            _prepare(connection, layout, folder, len(parts))
            spent = {
                name: cpu_milliseconds(partial(_fetched, connection, sql), rounds) for name, sql in _QUESTIONS.items()
            }
            crossed, tied = _lost(connection, parts[0])
        yield Measured(
            layout=layout,
            bytes_per_image=size / images,
            write_us=write_us,
            milliseconds=spent,
            crossed=crossed,
            tied=tied,
        )


def _prepare(connection: duckdb.DuckDBPyConnection, layout: Layout, folder: Path, shards: int) -> None:
    connection.execute("SET threads = 1; SET parquet_metadata_cache = true")
    connection.execute("CREATE TABLE labels AS SELECT range::SMALLINT AS code, printf('label-%03d', range) AS label_id "
                       f"FROM range({LABELS})")  # fmt: skip
    connection.execute("CREATE TABLE samples AS SELECT printf('%05d', s.range) AS shard, i.range::INTEGER AS sample, "
                       f"i.range % 4000 AS width FROM range({shards}) s, range({PART_IMAGES}) i")  # fmt: skip
    source = f"read_parquet('{folder}/*.parquet')"
    if layout.codes:
        source = f"(SELECT s.* REPLACE (l.label_id AS label_id) FROM {source} s JOIN labels l ON l.code = s.label_id)"
    for name, where in (("scores", ""), ("tags", f"WHERE {layout.passes}")):
        query = f"SELECT shard, sample, label_id, {layout.score}::FLOAT AS score FROM {source} {where}"
        connection.execute(f"CREATE VIEW {name} AS {query}")


def cpu_milliseconds(ask: Callable[[], object], rounds: int) -> float:
    """Return the median processor time of a question that was asked once before."""
    spent = []
    for _ in range(rounds + 1):
        started = time.process_time()
        ask()
        spent.append(1000 * (time.process_time() - started))
    return statistics.median(spent[1:])


def _fetched(connection: duckdb.DuckDBPyConnection, sql: str) -> object:
    return connection.execute(sql).fetchall()


def _lost(connection: duckdb.DuckDBPyConnection, rows: Rows) -> tuple[int, float]:
    """Return how many of a shard's rows passed the threshold or fell below it, and the share that is tied."""
    query = "SELECT score FROM scores WHERE shard = '00000' ORDER BY label_id, sample"
    score = connection.execute(query).fetchnumpy()["score"].astype(np.float64)
    crossed = int(((score >= _THRESHOLD) != (exact_scores(rows) >= _THRESHOLD)).sum())
    row = connection.execute(
        "SELECT 1 - count(*) FILTER (n = 1) / sum(n) FROM "
        "(SELECT count(*) AS n FROM scores WHERE label_id = 'label-007' GROUP BY score)"
    ).fetchone()
    assert row is not None
    return crossed, float(row[0])


def table(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the comparison as Markdown."""
    yield f"| layout | bytes/image | write, us/image | {' | '.join(_QUESTIONS)} | crossed 0.5 | tied |"
    yield "|---" + "|---:" * (len(_QUESTIONS) + 4) + "|"
    for each in measured:
        spent = " | ".join(f"{each.milliseconds[name]:.0f}" for name in _QUESTIONS)
        yield (
            f"| {each.layout.name} | {each.bytes_per_image:.1f} | {each.write_us:.2f} | {spent} | {each.crossed:,} | "
            f"{each.tied:.1%} |"
        )
