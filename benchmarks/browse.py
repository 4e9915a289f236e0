"""How long each page of `browse` takes on a generated store of a million samples.

`python -m benchmarks.browse --write FILE`; `--small` to see that it works.

The application answers in this process, without a network: what is measured is what the server does for a page. Times
are wall-clock, medians of several rounds, after one unmeasured call of each page (cold: that first call).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.generated import sample_row
from benchmarks.machine import describe
from benchmarks.rounds import seconds
from schemas.manifest import Fingerprint, ModelRecord, RunManifest, RunRecord, ShardReport
from schemas.sample import SampleStatus, ShardStatus
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder, fingerprint_of
from storage.models import promote, write_model
from storage.parts import write_samples
from storage.runs import part_path, write_manifest, write_record, write_report
from storage.score_parts import ScoreColumns, write_scores
from storage.taxonomies import write_taxonomy

RUNS = ("generated-0", "generated-1")
LABELS = tuple(f"label-{number:03d}" for number in range(100))
KEPT = 20  # scores of each sample
LIMIT = 0.5  # seconds that a page may take
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TAXONOMY = Taxonomy(name="generated", labels=tuple(Label(id=label, name=label) for label in LABELS))


def make_store(folder: Folder, shards: int, rows: int) -> None:
    """Write samples and scores of shards that exist nowhere: a run of all, and one of another model of a tenth."""
    write_taxonomy(folder, TAXONOMY)
    for place, run_id in enumerate(RUNS):
        model = _model(f"model-{place}")
        write_model(folder, model)
        record = _record(run_id, model.model_id)
        write_record(folder, record)
        numbers = range(shards if place == 0 else -(-shards // 10))
        with ProcessPoolExecutor() as pool:
            work = [(folder.url, run_id, f"{number:05d}", rows, number + 1000 * place) for number in numbers]
            reports = tuple(pool.map(_make_shard, work))
        write_manifest(
            folder, RunManifest(run_id=run_id, shards=reports, statuses={}, seconds={}, shared_keys=0, finished_at=NOW)
        )
    promote(folder, "model-0", "the first one")


def _model(model_id: str) -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        encoder_id="generated",
        text_encoder_id="generated",
        name=f"bundled:{model_id}",
        architecture="none",
        image_size=(224, 224),
        embedding_width=8,
        slope=10.0,
        intercept=0.0,
        seen_labels=LABELS[:50],
    )


def _record(run_id: str, model_id: str) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        dataset="generated",
        root="file:///generated",
        patterns=("file:///generated/*.tar",),
        model_id=model_id,
        encoder_id="generated",
        scorer="clip",
        taxonomy_digest=TAXONOMY.digest,
        vocabulary=tuple(label.scored() for label in TAXONOMY.vocabulary()),
        floor=0.01,
        top_k=KEPT,
        max_pixels=1,
        calibration="none",
        created_at=NOW,
        asked_at=NOW,
        versions={},
    )


def _make_shard(work: tuple[str, str, str, int, int]) -> ShardReport:
    url, run_id, shard, count, seed = work
    folder = Folder(url)
    rows = tuple(sample_row(shard, sample) for sample in range(count))
    parts = {
        "samples": write_samples(folder, part_path(run_id, "samples", shard), rows),
        "scores": write_scores(folder, part_path(run_id, "scores", shard), shard, _scores(count, seed)),
    }
    report = ShardReport(
        run_id=run_id,
        shard=shard,
        url=f"file:///generated/{shard}.tar",
        fingerprint=Fingerprint(size=1, tag=shard),
        status=ShardStatus.OK,
        statuses={SampleStatus.OK: count},
        members={"images": count},
        decoded=count,
        parts=parts,
        seconds={},
        started_at=NOW,
        finished_at=NOW,
    )
    write_report(folder, report)
    return report


def _scores(count: int, seed: int) -> ScoreColumns:
    """Return `KEPT` scores for each sample, of labels that are drawn by lot, most of them low."""
    random = np.random.default_rng(seed)
    labels = random.permuted(np.tile(np.arange(len(LABELS), dtype=np.int32), (count, 1)), axis=1)[:, :KEPT].ravel()
    samples = np.repeat(np.arange(count, dtype=np.int32), KEPT)
    order = np.lexsort((samples, labels))
    scores = random.beta(0.6, 2.5, size=count * KEPT).astype(np.float32).clip(0.01, 0.999)
    return ScoreColumns(
        sample=samples[order],
        label=labels[order],
        logit=np.log(scores / (1 - scores)),
        label_ids=LABELS,
        slope=np.ones(len(LABELS)),
        intercept=np.zeros(len(LABELS)),
    )


class Times(NamedTuple):
    """How long a page took, in seconds."""

    first: float
    median: float
    slowest: float
    worked: float  # of all threads together


@contextmanager
def opened(store: str) -> Iterator[Any]:
    """Yield a client of the page's application."""
    from starlette.testclient import TestClient

    from flows.browse.app import create_app
    from flows.browse.security import CSRF_HEADER, Access
    from flows.browse.state import open_desk

    access = Access("127.0.0.1", 8765, None)
    with tempfile.TemporaryDirectory() as cache:
        app = create_app(open_desk(store, access, Path(cache)))
        with TestClient(app, base_url="http://127.0.0.1:8765", headers={CSRF_HEADER: access.csrf}) as client:
            yield client


def pages(client: Any) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name. Addresses of later pages are taken from the pages before them."""

    def get(path: str) -> Callable[[], Any]:
        return lambda: client.get(path)

    def post(path: str, body: Any) -> Callable[[], Any]:
        return lambda: client.post(path, json=body)

    label = LABELS[7]
    near, spread = _places(client, "/"), _places(client, f"/?label={label}")
    return {
        "grid, first page": get("/"),
        "grid, second page": get(_next(client, "/")),
        "grid, by key": get("/?key=000123"),
        "grid, tags of novel labels": get("/?knowledge=novel"),
        "grid, any score of 0.99 or more": get("/?low=0.99"),
        "label, highest scores": get(f"/?label={label}"),
        "label, second page": get(_next(client, f"/?label={label}")),
        "label, scores of 0.3 to 0.4, lowest first": get(f"/?label={label}&low=0.3&high=0.4&order=low"),
        "label, of another run": get(f"/?label={label}&source=run:{RUNS[1]}"),
        "tags of 12 neighbours": post("/api/tags", {"places": near[:12]}),
        "tags of 12 pictures of 12 shards": post("/api/tags", {"places": spread[:12]}),
        "one picture": get("/picture?dataset=generated&shard=00002&sample=77"),
        "labels": get("/labels"),
        "pictures of every label (fetched by that page)": get("/api/counts"),
        "threshold, with histogram": get(f"/label?label={label}"),
        "threshold, pictures at the edge": get(f"/edge?label={label}&at=0.31"),
        "side by side": get(f"/compare?other=run:{RUNS[1]}"),
        "SQL: top 200 of a label": post(
            "/api/sql",
            {"sql": f"select key, shard from scores where label_id = '{label}' order by score desc limit 200"},
        ),
        "answer": post("/api/answer", {**spread[0], "label": label, "value": 1}),
        "undo": post("/api/undo", {}),
    }


def _places(client: Any, path: str) -> list[dict[str, Any]]:
    found = re.findall(r'data-place="([^"]*)"', client.get(path).text)
    names = ("dataset", "shard", "sample")
    return [dict(zip(names, json.loads(unescape(place)), strict=True)) for place in found]


def _next(client: Any, path: str) -> str:
    found = re.search(r'rel="next" href="([^"]*)"', client.get(path).text)
    assert found is not None, path
    return unescape(found[1])


def measure(client: Any, rounds: int) -> dict[str, Times]:
    """Return by page the seconds of the first call, median and greatest of those after, and processor seconds."""
    return {name: _times(_checked(name, ask), rounds) for name, ask in pages(client).items()}


def _checked(name: str, ask: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        answer = ask()
        assert answer.status_code == 200, (name, answer.text)

    return call


def _times(work: Callable[[], Any], rounds: int) -> Times:
    first, *later = (_seconds(work) for _ in range(rounds + 1))
    times, worked = zip(*later, strict=True)
    return Times(first[0], statistics.median(times), max(times), statistics.median(worked))


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    started, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - worked


def measure_thumbnails(folder: Path, count: int, rounds: int) -> dict[str, Times]:
    """Return how long small pictures of one shard of `count` samples on a disk take."""
    from flows.browse.pictures import SMALL, small_picture
    from storage.thumbnails import ShardBytes, Thumbnails

    path = folder / "00000.tar"
    info = _info(_make_tar(path, count))
    shard = ShardBytes(str(path), fingerprint_of(info))
    caches = iter(range(rounds + 1))
    opened_anew: list[Thumbnails] = []

    def last() -> Any:
        opened_anew.append(Thumbnails(folder / f"cache-{next(caches)}", small_picture))
        return opened_anew[-1].get(shard, count - 1, SMALL)

    samples = iter(range(count))
    return {
        f"thumbnail, the last of {count:,} of a shard, headers unread": _times(last, rounds),
        "thumbnail, of a shard whose headers are known": _times(
            lambda: opened_anew[-1].get(shard, next(samples), SMALL), rounds
        ),
        "thumbnail, from the cache": _times(lambda: opened_anew[-1].get(shard, 0, SMALL), rounds),
    }


def _info(path: Path) -> dict[str, Any]:
    """Return what fsspec says of a file on this machine."""
    folder = Folder(str(path.parent))
    info: dict[str, Any] = folder.fs.info(folder.path(path.name))
    return info


def _make_tar(path: Path, count: int) -> Path:
    """Write a shard of one picture of 640x480, again and again."""
    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return path


def report(answers: dict[str, Times], machine: list[str], shards: int, rows: int) -> str:
    """Return the result as Markdown."""
    slow = [name for name, times in answers.items() if times.median >= LIMIT]
    lines = [
        "# Browse: what each page costs",
        "",
        f"`python -m benchmarks.browse --shards {shards} --rows {rows}`",
        "",
        *machine,
        f"- a generated store: {shards * rows:,} samples in {shards} shards, {shards * rows * KEPT:,} scores of "
        f"{len(LABELS)} labels; its shards are not there, thumbnails are of another one; load after the "
        f"run: {os.getloadavg()[0]:.1f}",
        "",
        "| page | first call, s | median, s | slowest, s | processor seconds |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {' | '.join(f'{value:.3f}' for value in times)} |" for name, times in answers.items()),
        "",
        f"Pages whose median is {LIMIT} seconds or more: {', '.join(slow) or 'none'}. Processor seconds are those of "
        "all threads together: beside other work on the machine they say more than seconds. A page shows the tags of "
        "its pictures a dozen pictures at a time, as they come into sight.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000, help="samples in each shard")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a store of 20,000 samples, to see that it works")
    parser.add_argument("--write", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    shards, rows = (10, 2000) if arguments.small else (arguments.shards, arguments.rows)
    machine = describe()
    with tempfile.TemporaryDirectory() as place:
        took = seconds(lambda: make_store(Folder(place), shards, rows))
        sys.stderr.write(f"made the store in {took:.0f} s\n")
        with opened(place) as client:
            answers = measure(client, arguments.rounds)
        answers |= measure_thumbnails(Path(place), rows, arguments.rounds)
        text = report(answers, machine, shards, rows)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
