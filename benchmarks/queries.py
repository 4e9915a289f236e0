"""What score rows cost to keep and to ask: layouts compared, then the product's own store, before and after `compact`.

    python -m benchmarks.queries [--small] [--images N] [--write benchmarks/results/NAME.md]

Made-up cosines of 200 labels, the best 32 of each image kept, in shards of 10,000 images. One processor, warm,
processor time, medians. The product is asked through its views, as `clipdecoder sql` asks.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import score_layouts
from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.generated import RUN, begin_run, end_run, end_shard, sample_row
from benchmarks.machine import describe
from benchmarks.score_layouts import INTERCEPT, PART_IMAGES, SLOPE, Rows, cpu_milliseconds, label_names, make_rows
from schemas.manifest import ModelRecord, ShardReport
from storage.catalog import open_catalog
from storage.compact import compact_store
from storage.files import Folder
from storage.parts import write_samples
from storage.query import run_query
from storage.runs import part_path
from storage.score_parts import ScoreColumns, write_scores

MILLION, LAYOUT_IMAGES, SMALL_IMAGES, ROUNDS = 1_000_000, 200_000, 40_000, 5
NOW = datetime(2026, 11, 1, tzinfo=UTC)
# Each with the milliseconds that it may take over a million images after `compact`.
QUESTIONS = {
    "two labels": (
        "SELECT a.shard, a.key, least(a.score, b.score) AS surety "
        "FROM tags a JOIN tags b USING (dataset, shard, sample) "
        "WHERE a.label_id = 'label-007' AND b.label_id = 'label-033' ORDER BY surety DESC",
        60,
    ),
    "counts per label": ("SELECT label_id, count(*) FROM tags GROUP BY ALL", 350),
    "top 100 of a label": (
        "SELECT shard, key, score FROM tags WHERE label_id = 'label-007' ORDER BY score DESC LIMIT 100",
        30,
    ),
    "join with metadata": (
        "SELECT count(*), avg(s.width) FROM tags t JOIN samples s USING (dataset, shard, sample) "
        "WHERE t.label_id = 'label-007' AND s.bytes >= 52000",
        75,
    ),
    "one image": (
        "SELECT label_id, score FROM scores WHERE shard = '00001' AND sample = 1234 ORDER BY score DESC",
        40,
    ),
    "one image by its key": (
        "SELECT label_id, score FROM scores WHERE key = 'pictures/00001-001234' ORDER BY score DESC",
        40,
    ),
    "two labels, no keys": (
        "SELECT a.shard, a.sample FROM tags a JOIN tags b USING (dataset, shard, sample) "
        "WHERE a.label_id = 'label-007' AND b.label_id = 'label-033'",
        60,
    ),
    "top 100, no keys": (
        "SELECT shard, sample, score FROM tags WHERE label_id = 'label-007' ORDER BY score DESC LIMIT 100",
        30,
    ),
}
MODEL = ModelRecord(
    model_id="generated",
    encoder_id="generated",
    text_encoder_id="generated",
    name="bundled:generated",
    architecture="none",
    image_size=(224, 224),
    embedding_width=8,
    slope=SLOPE,
    intercept=INTERCEPT,
)


@dataclass(frozen=True, kw_only=True)
class Sink:
    """What writing the parts costs per image."""

    scores_us: float
    scores_bytes: float
    samples_us: float
    samples_bytes: float


def make_store(folder: Folder, parts: Sequence[Rows]) -> Sink:
    """Write samples and scores of shards that exist nowhere, as tagging does."""
    begin_run(folder, MODEL, label_names(), NOW)
    made = [_make_shard(folder, rows) for rows in parts]
    reports = tuple(report for report, _ in made)
    end_run(folder, MODEL, reports, NOW)
    return Sink(
        scores_us=statistics.median(seconds["scores"] for _, seconds in made) / PART_IMAGES * 1e6,
        samples_us=statistics.median(seconds["samples"] for _, seconds in made) / PART_IMAGES * 1e6,
        scores_bytes=statistics.mean(report.parts["scores"].bytes for report in reports) / PART_IMAGES,
        samples_bytes=statistics.mean(report.parts["samples"].bytes for report in reports) / PART_IMAGES,
    )


def _make_shard(folder: Folder, rows: Rows) -> tuple[ShardReport, Mapping[str, float]]:
    """Write one shard; return its report and the processor seconds of each part."""
    shard = f"{rows.shard[0]:05d}"
    samples = [sample_row(shard, sample) for sample in range(PART_IMAGES)]
    columns = ScoreColumns(
        sample=rows.sample,
        label=rows.label,
        logit=rows.logit,
        label_ids=label_names(),
        slope=np.full(len(label_names()), SLOPE),
        intercept=np.full(len(label_names()), INTERCEPT),
    )
    begun = time.process_time()
    parts = {"samples": write_samples(folder, part_path(RUN, "samples", shard), samples)}
    between = time.process_time()
    parts["scores"] = write_scores(folder, part_path(RUN, "scores", shard), shard, columns)
    seconds = {"samples": between - begun, "scores": time.process_time() - between}
    return end_shard(folder, shard, PART_IMAGES, parts, NOW), seconds


def ask(folder: Folder, rounds: int) -> dict[str, float]:
    """Return the milliseconds of each question."""
    with open_catalog(folder) as connection:
        return {
            name: cpu_milliseconds(partial(run_query, connection, sql), rounds) for name, (sql, _) in QUESTIONS.items()
        }


def figures(sink: Sink, after: Mapping[str, float], images: int) -> Iterator[Figure]:
    """Yield what there is a target for."""
    basis = "processor time of writing one shard's scores, 32 of an image"
    yield Figure(name="sink, scores", value=sink.scores_us, unit="us", target=3, at_most=True, basis=basis)
    yield Figure(
        name="sink, scores",
        value=sink.scores_bytes,
        unit="bytes",
        target=90,
        at_most=True,
        basis="per image, 32 scores",
    )
    for name, (_, target) in QUESTIONS.items():
        basis = f"{images:,} images x 32, compacted, one processor, warm"
        aim = target if images >= MILLION else None
        yield Figure(name=f"query, {name}", value=after[name], unit="ms", target=aim, at_most=True, basis=basis)


def report(
    sink: Sink, before: Mapping[str, float], after: Mapping[str, float], layouts: Sequence[str], compaction: str
) -> Iterator[str]:
    """Yield the result as Markdown, but for its figures."""
    yield from ("## Layouts of score rows", "", f"{LAYOUT_IMAGES:,} images at most; milliseconds.", "", *layouts, "")
    yield from ("## The product's store", "", "| part | us/image | bytes/image |", "|---|---:|---:|")
    yield f"| scores, 32 of each image | {sink.scores_us:.2f} | {sink.scores_bytes:.1f} |"
    yield f"| samples | {sink.samples_us:.2f} | {sink.samples_bytes:.1f} |"
    yield from ("", f"`clipdecoder compact`: {compaction}", "")
    yield from ("| question, milliseconds | parts of 10,000 images | after `compact` |", "|---|---:|---:|")
    for name in QUESTIONS:
        yield f"| {name} | {before[name]:.0f} | {after[name]:.0f} |"


def run(images: int, rounds: int) -> Result:
    """Measure, one processor being all that is used."""
    machine = describe()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    parts = [make_rows(shard) for shard in range(max(2, images // PART_IMAGES))]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "layouts").mkdir()
        compared = score_layouts.measure(parts[: LAYOUT_IMAGES // PART_IMAGES], Path(place) / "layouts", rounds)
        layouts = list(score_layouts.table(list(compared)))
        folder = Folder(f"{place}/store")
        sink = make_store(folder, parts)
        before = ask(folder, rounds)
        started = time.process_time()
        (compacted,) = compact_store(folder).runs
        compaction = f"{compacted.line()}; {time.process_time() - started:.1f} processor seconds"
        after = ask(folder, rounds)
    lines = [
        "# Score rows: what they cost to keep and to ask",
        "",
        f"`python -m benchmarks.queries --images {images}`",
        "",
    ]
    lines += [*machine, "", *report(sink, before, after, layouts, compaction)]
    return Result(lines=lines, figures=list(figures(sink, after, images)))


def main() -> None:
    """Measure, print, and write if asked."""
    parser = arguments("benchmarks.queries", __doc__)
    parser.add_argument("--images", type=int, default=MILLION)
    given = parser.parse_args()
    small = given.small
    publish(run(SMALL_IMAGES if small else given.images, 3 if small else ROUNDS), given)


if __name__ == "__main__":
    main()
