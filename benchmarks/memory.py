"""Peak memory of a tagging run on the CPU over one large shard, beyond that of the process with its model loaded.

    python -m benchmarks.memory [--gigabytes 5] [--small] [--write benchmarks/results/NAME.md]

One tar of JPEGs of 500x375 pixels, written for real, tagged with the bundled model for 32 labels in processes of their
own: as by default, and with `--store-tokens`. The peak is the kernel's (`VmHWM`); the page cache is not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.pictures import photos, write_shards

GIGABYTES, SMALL_GIGABYTES = 5.0, 0.1
WIDTH, HEIGHT = 500, 375
BATCH = 16
ENOUGH = 1.5  # GB beyond the model
RUNS = {"as by default": False, "with --store-tokens": True}


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What one process found of itself, in bytes and seconds."""

    loaded: int  # the peak before the run: libraries and model, and one batch through it
    peak: int
    cpu: float
    images: int

    @property
    def beyond(self) -> int:
        """Bytes that the run took beyond the model."""
        return self.peak - self.loaded


def measure(shard: str, store: str, tokens: bool) -> Peak:
    """Tag in this process, and return what its memory came to."""
    import time

    import numpy as np

    from benchmarks.stages import Job, tag
    from clipdecoder.encoders.model import load_model

    job = Job(shards=[Path(shard)], model="bundled:scenes", batch_size=BATCH)
    request = job.request(Path(store)).model_copy(update={"store_tokens": tokens})
    model = load_model(job.model, device="cpu")
    model.encode(np.zeros((BATCH, *model.transform.size, 3), np.uint8), tokens=tokens)
    loaded, used = peak_bytes(), time.process_time()
    outcome = tag(request)
    images = outcome.statuses.total()
    return Peak(loaded=loaded, peak=peak_bytes(), cpu=time.process_time() - used, images=images)


def peak_bytes() -> int:
    """Return the peak of this process's memory so far."""
    # Not `getrusage`: there a process starts with the peak of the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


def in_new_process(shard: Path, store: Path, tokens: bool) -> Peak:
    """Return what a process of its own found."""
    words = [sys.executable, "-m", "benchmarks.memory", "--measure", json.dumps([str(shard), str(store), tokens])]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return Peak(**json.loads(done.stdout))


def make_shard(folder: Path, gigabytes: float) -> Path:
    """Write one tar of that size."""
    (first,) = photos(1, WIDTH, HEIGHT)
    (shard,) = write_shards(folder, list(photos(round(gigabytes * 1e9 / len(first)), WIDTH, HEIGHT)), shards=1)
    return shard


def report(peaks: dict[str, Peak], gigabytes: float) -> Iterator[str]:
    """Yield the table."""
    images = next(iter(peaks.values())).images
    yield f"One tar of {gigabytes:.2f} GB, {images:,} JPEGs of {WIDTH}x{HEIGHT}; bundled:scenes."
    yield ""
    yield "| a run | peak, MB | before it, MB | beyond the model, MB | bytes an image | processor ms an image |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, found in peaks.items():
        sizes = " | ".join(f"{size / 1e6:,.0f}" for size in (found.peak, found.loaded, found.beyond))
        yield f"| {name} | {sizes} | {found.beyond / found.images:,.0f} | {1000 * found.cpu / found.images:.2f} |"


def figures(peaks: dict[str, Peak], gigabytes: float) -> Iterator[Figure]:
    """Yield what is to be reached."""
    for name, found in peaks.items():
        yield Figure(
            name=f"memory beyond the model over a shard of {gigabytes:.1f} GB, {name}",
            value=found.beyond / 1e9,
            unit="GB",
            target=ENOUGH,
            at_most=True,
            basis="peak of a process (VmHWM) after the run, less that before it with the model loaded",
        )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = arguments("benchmarks.memory", __doc__)
    parser.add_argument("--gigabytes", type=float, help=f"size of the tar; {GIGABYTES}, or {SMALL_GIGABYTES} if small")
    parser.add_argument("--measure", help="tag in this process: shard, store and whether to store tokens, as JSON")
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(vars(measure(*json.loads(given.measure)))))
        return
    gigabytes = given.gigabytes or (SMALL_GIGABYTES if given.small else GIGABYTES)
    machine = describe()
    with tempfile.TemporaryDirectory() as place:
        shard = make_shard(Path(place, "shards"), gigabytes)
        size = shard.stat().st_size / 1e9
        peaks = {
            name: in_new_process(shard, Path(place, f"store-{number}"), tokens)
            for number, (name, tokens) in enumerate(RUNS.items())
        }
    lines = ["# Memory of a run over one large shard", ""]
    lines += [f"`python -m benchmarks.memory --gigabytes {gigabytes:g}`", "", *machine, "", *report(peaks, size)]
    publish(Result(lines=lines, figures=list(figures(peaks, size))), given)


if __name__ == "__main__":
    main()
