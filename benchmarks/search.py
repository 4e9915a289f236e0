"""How long a search takes, and how much memory: our matrix product beside DuckDB over the same Parquet.

A generated store: `python -m benchmarks.search --write FILE`. Every search runs in a process of its own; `cold` ones
after the store's files were dropped from the page cache, so that they come from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq

from benchmarks.generated import RUN, begin_run, end_run, sample_row
from benchmarks.machine import describe
from benchmarks.rounds import seconds
from flows.search import find_nearest, run_search
from schemas.manifest import Fingerprint, ModelRecord, ShardFacts, ShardReport
from schemas.sample import SampleStatus, ShardStatus
from schemas.search import SearchRequest
from storage.embeddings import embedded_shards
from storage.files import Folder
from storage.parts import ShardFeatures, features_path, write_features, write_samples
from storage.runs import part_path, read_runs, write_report
from storage.score_parts import ScoreColumns, write_scores

WIDTH, TOP, ROUNDS = 512, 20, 3
LABELS = tuple(f"label-{number}" for number in range(5))
Answers = dict[tuple[str, str], list[dict[str, Any]]]  # by stage, and cold or warm; one for each round
STAGES = {
    "product": "matrix product (`flows.search.find_nearest`)",
    "duckdb": "DuckDB `array_cosine_similarity`, `ORDER BY ... LIMIT 20`",
    "like": "all of `search --like KEY` but the start of Python: key, product, keys and tags of the hits",
}
MODEL = ModelRecord(
    model_id="generated",
    encoder_id="generated",
    text_encoder_id="generated",
    name="bundled:generated",
    architecture="none",
    image_size=(224, 224),
    embedding_width=WIDTH,
    slope=10.0,
    intercept=0.0,
)


def make_store(folder: Folder, shards: int, rows: int) -> None:
    """Write features, samples and scores of shards that exist nowhere, as tagging does."""
    now, random = datetime.now(UTC), np.random.default_rng(0)
    begin_run(folder, MODEL, LABELS, now)
    reports = tuple(_make_shard(folder, f"{number:05d}", rows, random, now) for number in range(shards))
    end_run(folder, MODEL, reports, now)


def _make_shard(folder: Folder, shard: str, count: int, random: np.random.Generator, now: datetime) -> ShardReport:
    embeddings = random.standard_normal((count, WIDTH), np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = tuple(sample_row(shard, sample) for sample in range(count))
    fingerprint = Fingerprint(size=1, tag=shard)
    facts = ShardFacts(fingerprint=fingerprint, status=ShardStatus.OK, error=None, members={}, max_pixels=1)
    features = ShardFeatures(facts=facts, rows=rows, embeddings_ND=embeddings.astype(np.float16))
    write_features(folder, features_path(MODEL.encoder_id, "generated", shard), features)
    scores = random.random(count * len(LABELS), np.float32)
    columns = ScoreColumns(
        sample=np.tile(np.arange(count, dtype=np.int32), len(LABELS)),
        label=np.repeat(np.arange(len(LABELS), dtype=np.int32), count),
        logit=scores,
        label_ids=LABELS,
        slope=np.ones(len(LABELS)),
        intercept=np.zeros(len(LABELS)),
    )
    report = ShardReport(
        run_id=RUN,
        shard=shard,
        url=f"file:///generated/{shard}.tar",
        fingerprint=fingerprint,
        status=ShardStatus.OK,
        statuses={SampleStatus.OK: count},
        members={"images": count},
        decoded=count,
        parts={
            "samples": write_samples(folder, part_path(RUN, "samples", shard), rows),
            "scores": write_scores(folder, part_path(RUN, "scores", shard), shard, columns),
        },
        seconds={},
        started_at=now,
        finished_at=now,
    )
    write_report(folder, report)
    return report


def _write_with_dictionary(place: Path) -> None:
    """Write the features as earlier versions did: with a dictionary of the numbers of all embeddings of a shard."""
    for path in place.glob("features/**/*.parquet"):
        pq.write_table(
            pq.read_table(path),
            path,
            compression="zstd",
            compression_level=3,
            write_page_checksum=True,
            use_dictionary=True,
        )


def _query() -> np.ndarray[Any, np.dtype[np.float32]]:
    query = np.random.default_rng(1).standard_normal(WIDTH, np.float32)
    return np.asarray(query / np.linalg.norm(query))


def by_product(store: str) -> list[list[Any]]:
    """Search as the command does, once the query is known."""
    folder = Folder(store)
    found = find_nearest(folder, MODEL.encoder_id, embedded_shards(read_runs(folder)), _query(), top=TOP)
    return [[shard.shard, sample] for shard, sample in found.places]


def by_duckdb(store: str) -> list[list[Any]]:
    """Search as SQL does."""
    files = f"{store}/features/{MODEL.encoder_id}/generated/*.parquet"
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET threads = {os.cpu_count()}")
        rows = connection.execute(
            f"SELECT shard, sample FROM read_parquet($files) WHERE embedding IS NOT NULL ORDER BY "
            f"array_cosine_similarity(embedding::FLOAT[{WIDTH}], $query::FLOAT[{WIDTH}]) DESC LIMIT {TOP}",
            {"files": files, "query": _query().tolist()},
        ).fetchall()
    return [list(row) for row in rows]


def like(store: str) -> list[list[Any]]:
    """Search by the key of a sample, from the request to the result."""
    result = run_search(SearchRequest(store=store, like="pictures/00000-000007", top=TOP))
    return [[hit.shard, hit.sample] for hit in result.hits]


SEARCHES: dict[str, Callable[[str], list[list[Any]]]] = {"product": by_product, "duckdb": by_duckdb, "like": like}


def measure(stage: str, store: str) -> dict[str, Any]:
    """Search once in this process: seconds, greatest memory in MiB before and after, what was found."""
    before, worked, started = _peak_mib(), time.process_time(), time.perf_counter()
    found = SEARCHES[stage](store)
    return {
        "seconds": time.perf_counter() - started,
        "worked": time.process_time() - worked,
        "before": before,
        "peak": _peak_mib(),
        "found": found,
    }


def _peak_mib() -> float:
    # Not getrusage: after a fork it begins with the memory of the parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _in_new_process(stage: str, store: str, *, cold: bool) -> dict[str, Any]:
    if cold:
        _drop_from_cache(Path(store))
    words = [sys.executable, "-m", "benchmarks.search", "--measure", stage, "--store", store]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _drop_from_cache(place: Path) -> None:
    os.sync()
    for path in place.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _measure_all(store: str, rounds: int) -> Answers:
    """Return the answers by stage and temperature, taken in turns: what else the machine does then hits them alike."""
    answers: Answers = {}
    for _ in range(rounds):
        for stage in STAGES:
            for heat in ("cold", "warm"):
                answer = _in_new_process(stage, store, cold=heat == "cold")
                answers.setdefault((stage, heat), []).append(answer)
    return answers


def report(answers: Answers, machine: list[str], shards: int, rows: int, size: int) -> str:
    """Return the result as Markdown."""

    def cell(stage: str, heat: str, name: str = "seconds") -> str:
        times = [answer[name] for answer in answers[stage, heat]]
        return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"

    def peak(stage: str) -> str:
        of_stage = [answer for heat in ("cold", "warm") for answer in answers[stage, heat]]
        return f"{max(answer['peak'] for answer in of_stage):,.0f} | {min(a['before'] for a in of_stage):,.0f}"

    equal = all(
        product["found"] == other["found"]
        for heat in ("cold", "warm")
        for product, other in zip(answers["product", heat], answers["duckdb", heat], strict=True)
    )
    lines = [
        "# Search over stored embeddings: what it costs",
        "",
        f"`python -m benchmarks.search --shards {shards} --rows {rows}`",
        "",
        *machine,
        f"- a generated store: {shards * rows:,} embeddings of {WIDTH} numbers, float16, random and of length 1, in "
        f"{shards} shards ({size / 2**20:,.0f} MiB of features); top {TOP}; {os.cpu_count()} threads; every search in "
        f"a new process; medians (and ranges) of {len(answers['product', 'cold'])} rounds that alternate; load after "
        f"the run: {os.getloadavg()[0]:.1f}",
        "",
        "| search | cold: seconds | warm: seconds | processor seconds | peak memory, MiB | of it before, MiB |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {text} | {cell(stage, 'cold')} | {cell(stage, 'warm')} | {cell(stage, 'warm', 'worked')} | "
            f"{peak(stage)} |"
            for stage, text in STAGES.items()
        ),
        "",
        f"The first two found the same {TOP} samples in the same order: {'yes' if equal else 'NO'}. Cold: the store's "
        "files were dropped from the page cache before. The start of Python and its libraries is in none of the times. "
        "Processor seconds are those of the warm searches, of all threads together: beside other work on the machine "
        "they say more than seconds. A "
        "text in place of a key adds what the model's text tower takes to load and to embed one text.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000, help="embeddings in each shard")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--measure", choices=SEARCHES, help="search once in --store, and print what came of it")
    parser.add_argument("--store", help="a store that an earlier call left")
    parser.add_argument("--write", type=Path, help="also write the result here")
    parser.add_argument(
        "--dictionary", action="store_true", help="features as they were written before there was search"
    )
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.measure, arguments.store)))
        return
    machine = describe()
    with tempfile.TemporaryDirectory() as place:
        took = seconds(lambda: make_store(Folder(place), arguments.shards, arguments.rows))
        if arguments.dictionary:
            _write_with_dictionary(Path(place))
        sys.stderr.write(f"made the store in {took:.0f} s\n")
        size = sum(path.stat().st_size for path in Path(place, "features").rglob("*.parquet"))
        answers = _measure_all(place, arguments.rounds)
    text = report(answers, machine, arguments.shards, arguments.rows, size)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
