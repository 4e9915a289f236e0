"""What a page of thumbnails asks of an object store: requests and bytes, for one shard of many small pictures.

`python -m benchmarks.thumbnails --write FILE`; `--small` to see that it works.

The object store is moto, on loopback: requests and bytes are what it was asked for, by its own count. Eight threads ask
for the pictures of a page at once, as a browser does. Of every page the cache is empty, so this is the first look.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
from PIL import Image

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.generated import expected_picture
from benchmarks.machine import describe
from flows.browse.pictures import SMALL, small_picture
from storage.files import fingerprint_of
from storage.thumbnails import ShardBytes, Thumbnails

PICTURES, FEW, PAGE, THREADS = 1000, 600, 48, 8
BUCKET = "s3://benchmark"


class Row(NamedTuple):
    """What one page cost."""

    name: str
    requests: int
    sent_bytes: int
    shard_bytes: int

    @property
    def share(self) -> float:
        """Bytes of all that the shard has."""
        return self.sent_bytes / self.shard_bytes


@dataclass
class Counts:
    """What a server was asked for."""

    requests: int = 0
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, sent_bytes: int) -> None:
        """Count one answer."""
        with self.lock:
            self.requests += 1
            self.sent_bytes += sent_bytes

    def reset(self) -> None:
        """Begin anew."""
        self.requests = self.sent_bytes = 0


@contextmanager
def object_store() -> Iterator[Counts]:
    """Serve S3 on loopback, and yield what it counts; the environment leads `s3://` there."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    counts, backend = Counts(), DomainDispatcherApplication(create_backend_app)

    def counted(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        def started(status: str, headers: Sequence[tuple[str, str]], *more: Any) -> Any:
            size = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
            counts.add(size if environ["REQUEST_METHOD"] == "GET" else 0)
            return start(status, headers, *more)

        return backend(environ, started)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield counts
    finally:
        server.shutdown()
        thread.join()


def make_tar(count: int, *, side_files: bool) -> tuple[bytes, list[bytes]]:
    """Return a shard, and the bytes of each picture: some 20 KB each, captions of different lengths beside them."""
    chance = random.Random(0)
    noise = np.random.default_rng(0)
    pictures = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            key, data = f"{number:08d}", _picture(noise, chance.randint(120, 280))
            pictures.append(data)
            _add(tar, f"{key}.jpg", data)
            if side_files:
                _add(tar, f"{key}.json", json.dumps({"caption": "word " * chance.randint(5, 300)}).encode())
    return buffer.getvalue(), pictures


def _picture(noise: np.random.Generator, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def measure(counts: Counts, count: int) -> Iterator[Row]:
    """Yield what each page of each kind of shard costs, by headers and by guess in turns."""
    fs = fsspec.filesystem("s3")
    fs.mkdir(BUCKET)
    chance = random.Random(1)
    page = min(PAGE, count)
    pages = {
        "the first 48": range(page),
        "the last 48": range(count - page, count),
        "48 anywhere": sorted(chance.sample(range(count), page)),
        "one in the middle": [count // 2],
    }
    for kind, side_files in (("pictures alone", False), ("pictures and captions", True)):
        data, pictures = make_tar(count, side_files=side_files)
        url = f"{BUCKET}/{kind.replace(' ', '-')}.tar"
        fs.pipe_file(url, data)
        shard = ShardBytes(url, fingerprint_of(fs.info(url)))
        for name, samples in pages.items():
            for way, known in (("by headers", False), ("by guess", True)):
                counts.reset()
                _look(shard, samples, pictures if known else None)
                yield Row(f"{kind}, {name}, {way}", counts.requests, counts.sent_bytes, len(data))


def _look(shard: ShardBytes, samples: Sequence[int], pictures: Sequence[bytes] | None) -> None:
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(THREADS) as pool:
        thumbnails = Thumbnails(Path(cache), small_picture)

        def get(sample: int) -> None:
            # That it takes a query to know it is not measured here.
            known = None if pictures is None else lambda: expected_picture(pictures, sample)
            thumbnails.get(shard, sample, SMALL, known)

        list(pool.map(get, samples))
        thumbnails.close()


def report(rows: Sequence[Row]) -> list[str]:
    """Return the result as Markdown."""
    return [
        "| shard, page, way | requests | MB | share of the shard |",
        "|---|---:|---:|---:|",
        *(f"| {row.name} | {row.requests} | {row.sent_bytes / 1e6:.2f} | {row.share:.0%} |" for row in rows),
        "",
        "By headers: where a picture stands is found by reading the headers of its shard from the start, 8 MiB at a "
        "time. By guess: it is guessed from the sizes that the store knows, and checked by size and SHA-256.",
    ]


def figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield how much less is read by guess, of each shard and page."""
    for headers, guess in zip(rows[::2], rows[1::2], strict=True):
        yield Figure(
            name=f"bytes for a page, {headers.name.removesuffix(', by headers')}",
            value=guess.sent_bytes / headers.sent_bytes,
            target=0.5,
            at_most=True,
            basis="by guess, of those by headers",
        )


def main() -> None:
    """Measure, print, and write if asked."""
    given = arguments("benchmarks.thumbnails", __doc__).parse_args()
    count = FEW if given.small else PICTURES
    lines = ["# Thumbnails out of an object store: requests and bytes", ""]
    lines += [f"`python -m benchmarks.thumbnails{' --small' * given.small}`", "", *describe()]
    lines += [f"- {count:,} pictures of some 20 KB in each shard", ""]
    with object_store() as counts:
        rows = list(measure(counts, count))
    publish(Result(lines=[*lines, *report(rows)], figures=list(figures(rows))), given)


if __name__ == "__main__":
    main()
