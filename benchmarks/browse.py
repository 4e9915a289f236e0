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
from contextlib import contextmanager
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.browse_store import KEPT, LABELS, RUNS, make_store
from benchmarks.machine import describe
from benchmarks.rounds import seconds
from storage.files import Folder, fingerprint_of

LIMIT = 0.5  # seconds that a page may take


COMPARISONS = {
    "side by side, all tags": f"/compare?other=run:{RUNS[1]}",
    "side by side, one label": f"/compare?other=run:{RUNS[1]}&label={LABELS[7]}",
}


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
        **{name: get(path) for name, path in COMPARISONS.items()},
        "side by side, second page": get(_next(client, COMPARISONS["side by side, all tags"])),
        "SQL: top 200 of a label": post(
            "/api/sql",
            {"sql": f"select key, shard from scores where label_id = '{label}' order by score desc limit 200"},
        ),
        "answer": post("/api/answer", {**spread[0], "label": label, "value": 1}),
        "undo": post("/api/undo", {}),
    }


def measure_comparisons(client: Any) -> dict[str, Times]:
    """Return what it takes to compare two runs before the first page of it: once, while the page says so."""

    def compare(path: str) -> None:
        while "data-job=" in client.get(path).text:
            pass

    return {f"{name}: made": _times(partial(compare, path), 0) for name, path in COMPARISONS.items()}


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
    times, worked = zip(*(later or [first]), strict=True)
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


def report(answers: dict[str, Times], made: dict[str, Times], machine: list[str], shards: int, rows: int) -> str:
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
        "",
        "Before its first page a comparison of two runs is made once, while the page says so: "
        + ", ".join(f"{name.removesuffix(': made')} {t.first:.1f} s ({t.worked:.1f})" for name, t in made.items())
        + " (processor seconds).",
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
            made = measure_comparisons(client)
            answers = measure(client, arguments.rounds)
        answers |= measure_thumbnails(Path(place), rows, arguments.rounds)
        text = report(answers, made, machine, shards, rows)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
