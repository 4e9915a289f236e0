"""Tagging on an accelerator: images per second from tars beside the bare forward, how busy the device is, with what.

    python -m benchmarks.gpu [--device cuda] [--small] [--towers ViT-B-32,ViT-B-16] [--write benchmarks/results/NAME.md]

Towers of usual size with random weights, JPEGs of 500x375 pixels. The bare forward is the tower alone in bfloat16 over
one batch that stays on the device, in open_clip's own code; beside it stand the compiled tower and a CUDA graph of it,
and nvJPEG beside our decoder. `--device cpu --small` goes the same way without a device, which shows that the script
works and nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.device_decoding import Decoded, decoding_figures, decoding_table, measure_decoding
from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.forwards import ROUNDS, SMALL_ROUNDS, Way, run_ways, way_figures, ways_table
from benchmarks.machine import describe
from benchmarks.pictures import photos, write_shards
from benchmarks.rounds import Cost, cost
from benchmarks.stages import Job, decode, stored_embeddings, tag
from benchmarks.towers import save_random
from clipdecoder.encoders.model import find_device, load_model
from clipdecoder.encoders.open_clip_models import load_open_clip

WIDTH, HEIGHT, SHARDS = 500, 375, 16
IMAGES = {"ViT-B-32": 64_000, "ViT-B-16": 32_000, "ViT-L-14": 12_000}
SMALL_IMAGES = {"ViT-B-32": 2048, "ViT-B-16": 1024, "ViT-L-14": 512}
CPU_IMAGES = {"ViT-B-32": 32}
DECODED, CPU_DECODED = {500: 2048, 2000: 256}, {500: 32, 2000: 8}  # pictures of each width
COMPARED = 64
SAME = 0.999
RATE, OF_FORWARD = {"ViT-B-32": 10_000}, {"ViT-B-16": 0.85, "ViT-L-14": 0.95}
TRACE_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What the profiler saw of a run."""

    table: str  # what took the device's time, or else the processor's
    busy: float | None  # share of the time, from the first kernel to the last, in which one ran; copies count


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one tower came to."""

    tower: str
    images: int
    whole: Cost
    ways: list[Way]  # to run the tower alone; the first is open_clip's own
    busy: float | None  # share of the run's time in which the device worked
    cosine: float  # the least, of the stored embedding to one computed in float32
    trace: Trace

    @property
    def forward(self) -> float:
        """Images per second of the tower alone, in open_clip's own code, by the clock."""
        assert self.ways[0].spent is not None
        return 1 / self.ways[0].spent.wall

    @property
    def rate(self) -> float:
        """Images per second from end to end."""
        return self.images / self.whole.wall


def reference(spec: str, pictures: Sequence[bytes], device: torch.device) -> NDArray[np.float32]:
    """Return embeddings_ND in float32, in open_clip's own code, of pixels as the product makes them."""
    model = load_model(spec, device=str(device))
    pixels_NHWC = torch.from_numpy(decode(pictures, model.transform)).to(device)
    network: Any = load_open_clip(spec).network.to(device)
    with torch.inference_mode():
        raw_ND = network.encode_image(model.transform.to_device_input(pixels_NHWC).float()).float()
    return np.asarray(torch.nn.functional.normalize(raw_ND, dim=-1).cpu().numpy())


def busy_while(work: Callable[[], Cost], device: torch.device) -> tuple[Cost, float | None]:
    """Return what a run costs and, on a GPU, the mean of the driver's own busy share, ten times a second."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return work(), None
    words = ["nvidia-smi", f"--id={device.index or 0}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*words, "-lms", "100"], stdout=subprocess.PIPE, text=True) as watcher:
        spent = work()
        watcher.terminate()
        said, _ = watcher.communicate()
    shares = [int(line) for line in said.split() if line.isdecimal()]
    return spent, float(np.mean(shares)) / 100 if shares else None


def trace_of(job: Job, store: Path, device: torch.device) -> Trace:
    """Return the profiler's summary of a run."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        tag(job.request(store))
    place = "self_device_time_total" if cuda else "self_cpu_time_total"
    shown = profiler.key_averages().table(sort_by=place, row_limit=TRACE_ROWS, max_name_column_width=60)
    events = profiler.events() or []
    kernels = [event.time_range for event in events if event.device_type == DeviceType.CUDA]
    return Trace(table=str(shown), busy=covered([(one.start, one.end) for one in kernels]))


def covered(spans: Sequence[tuple[float, float]]) -> float | None:
    """Return the share of the time, from the first start to the last end, that lies in any of the spans."""
    if not spans:
        return None
    first = until = min(start for start, _ in spans)
    inside = 0.0
    for start, end in sorted(spans):
        inside += max(0.0, end - max(start, until))
        until = max(until, end)
    return inside / (until - first) if until > first else None


def measure(folder: Path, tower: str, images: int, device: torch.device) -> Measured:
    """Measure one tower."""
    spec, cuda = save_random(tower, folder / "model"), device.type == "cuda"
    pictures = list(photos(images, WIDTH, HEIGHT))
    shards = write_shards(folder / "shards", pictures, shards=SHARDS)
    job = Job(shards=shards, model=spec, device=str(device))
    few = replace(job, shards=write_shards(folder / "few", pictures[: max(images // 16, 16)], shards=2))
    tag(few.request(folder / "warm"))
    whole, busy = busy_while(lambda: cost(partial(tag, job.request(folder / "store"))), device)
    found_ND = np.array(list(stored_embeddings(folder / "store").values())[:COMPARED], np.float32)
    exact_ND = reference(spec, pictures[: len(found_ND)], device)
    return Measured(
        tower=tower,
        images=images,
        whole=whole,
        ways=run_ways(spec, device, ROUNDS if cuda else SMALL_ROUNDS, compiled=cuda),
        busy=busy,
        cosine=float((found_ND * exact_ND).sum(axis=1).min()),
        trace=trace_of(few, folder / "traced", device),
    )


def report(measured: Sequence[Measured], decoded: Sequence[Decoded], device: torch.device) -> Iterator[str]:
    """Yield the tables."""
    yield "| tower | images | images per second | bare forward | of it | device busy | processor ms | least cosine |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for one in measured:
        busy = "" if one.busy is None else f"{one.busy:.0%}"
        yield (
            f"| {one.tower} | {one.images:,} | {one.rate:,.0f} | {one.forward:,.0f} | {one.rate / one.forward:.2f} | "
            f"{busy} | {1000 * one.whole.cpu / one.images:.2f} | {one.cosine:.5f} |"
        )
    yield from ("", "## The forward pass in other ways", "")
    yield from ways_table({one.tower: one.ways for one in measured}, device)
    yield from ("", "## Decoding and resizing", "", *decoding_table(decoded))
    for one in measured:
        yield from ("", f"## Where the time goes: {one.tower}", "")
        if one.trace.busy is not None:
            yield from (f"From its first kernel to its last, the device was busy {one.trace.busy:.0%} of the time.", "")
        yield from ("```", *one.trace.table.splitlines(), "```")


def figures(one: Measured, device: torch.device) -> Iterator[Figure]:
    """Yield what is to be reached with one tower, on a GPU."""
    cuda = device.type == "cuda"
    yield Figure(
        name=f"images per second, {one.tower}",
        value=one.rate,
        target=RATE.get(one.tower) if cuda else None,
        basis=f"from tars of {WIDTH}-pixel JPEGs, by the clock, from the plan to the manifest",
    )
    yield Figure(
        name=f"end to end over the bare forward, {one.tower}",
        value=one.rate / one.forward,
        target=OF_FORWARD.get(one.tower) if cuda else None,
        basis="images per second by the clock; the tower alone on one batch on the device",
    )
    yield from way_figures(one.tower, one.ways, device)
    yield Figure(
        name=f"embeddings as in float32, {one.tower}",
        value=one.cosine,
        target=SAME,
        basis=f"least cosine of {COMPARED} stored embeddings to those of open_clip in float32",
    )
    if one.busy is not None:
        yield Figure(
            name=f"device busy, {one.tower}",
            value=one.busy,
            basis="mean of the driver's own share, ten times a second over the run",
        )
    if one.trace.busy is not None:
        yield Figure(
            name=f"device busy by its kernels, {one.tower}",
            value=one.trace.busy,
            basis="from the first kernel to the last of a short run under the profiler",
        )


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("benchmarks.gpu", __doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--towers", help=f"some of {','.join(IMAGES)}, joined by commas")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write if asked."""
    given = parse()
    device = find_device(given.device)  # with its number: of a machine with several GPUs all of it is about one
    known = (SMALL_IMAGES if given.small else IMAGES) if device.type == "cuda" else CPU_IMAGES
    towers = given.towers.split(",") if given.towers else list(known)
    chosen = f" --device {device}" * (device.type != "cuda") + " --small" * given.small
    lines = ["# Tagging on an accelerator", "", f"`python -m benchmarks.gpu{chosen}`", "", *describe()]
    if device.type == "cuda":
        lines.append(f"- {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    measured = []
    for tower in towers:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(Path(folder), tower, known[tower], device))
    decoded = measure_decoding(device, DECODED if device.type == "cuda" else CPU_DECODED)
    lines += [
        f"- {SHARDS} shards; load after the run: {os.getloadavg()[0]:.1f}",
        "",
        *report(measured, decoded, device),
    ]
    found = [figure for one in measured for figure in figures(one, device)]
    publish(Result(lines=lines, figures=[*found, *decoding_figures(decoded, device)]), given)


if __name__ == "__main__":
    main()
