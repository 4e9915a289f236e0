"""Processor time from a JPEG in memory to the model's pixels, and how far they are from the model's own transform.

    python -m benchmarks.feeder [--small] [--write FILE.md] [--figures FILE.json]

Four ways, one thread, in turns: Pillow with open_clip's transform, ours as by default and with `--decode fast`, and
bare simplejpeg with a resize, in a loop without any check: as fast as it can be. Pictures are made up, with grain as in
photographs, quality 90, 4:2:0. Differences are of 255, from open_clip's transform.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.pictures import photo
from benchmarks.rounds import Times, alternate, ratio
from clipdecoder.encoders.images import decode_image
from clipdecoder.encoders.transforms import ImageTransform
from schemas.config import MAX_PIXELS

PICTURE_SIZES = ((500, 375), (2000, 1500))
MODEL_SIZES = (224, 64)
PILLOW, OURS, FAST, BARE = "Pillow and open_clip", "ours", "ours, fast", "bare loop"
MAX_RATIO = 1.25

Way = Callable[[bytes], NDArray[np.uint8]]


def bare(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode, resize the shorter side, crop: nothing else."""
    pixels_HWC = simplejpeg.decode_jpeg(data)
    height, width, _ = pixels_HWC.shape
    shorter = min(height, width)
    scaled = int(size * height / shorter), int(size * width / shorter)
    x_1CHW = torch.from_numpy(pixels_HWC[None]).permute(0, 3, 1, 2)
    resized_1CHW = F.interpolate(x_1CHW, scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return resized_1CHW[0, :, top : top + size, left : left + size].permute(1, 2, 0).contiguous().numpy()


def ways(size: int) -> dict[str, Way]:
    """Return every way of making pixels of a file, by name."""
    config, cpu = PreprocessCfg(size=size), torch.device("cpu")
    exact, fast = ImageTransform(config, cpu), ImageTransform(config, cpu, "fast")
    return {
        PILLOW: lambda data: exact.to_pixels(decode_image(data, max_pixels=MAX_PIXELS), max_pixels=MAX_PIXELS),
        OURS: lambda data: exact.read(data, max_pixels=MAX_PIXELS).pixels_HWC,
        FAST: lambda data: fast.read(data, max_pixels=MAX_PIXELS).pixels_HWC,
        BARE: lambda data: bare(data, size),
    }


@dataclass(frozen=True)
class Case:
    """Pictures of one size, for a model of one size."""

    width: int
    height: int
    size: int
    times: Times  # processor seconds of all pictures
    differences: dict[str, tuple[int, float]]  # largest and mean
    pictures: int

    @property
    def name(self) -> str:
        """The case in words."""
        return f"{self.width}x{self.height} to {self.size}"

    def figures(self) -> Iterator[Figure]:
        """Yield what counts."""
        yield Figure(
            name=f"feeder, {self.name}",
            value=ratio(self.times, OURS, BARE),
            unit="x",
            target=MAX_RATIO,
            at_most=True,
            basis="processor time over a bare simplejpeg and resize loop",
        )
        yield Figure(
            name=f"largest difference, {self.name}",
            value=self.differences[OURS][0],
            target=1,
            at_most=True,
            basis="of 255, from open_clip's transform",
        )
        yield Figure(
            name=f"mean difference, {self.name}",
            value=self.differences[OURS][1],
            target=0.01,
            at_most=True,
            basis="of 255, from open_clip's transform",
        )

    def rows(self) -> Iterator[str]:
        """Yield a line for each way."""
        for way, seconds in self.times.items():
            milliseconds = 1000 * statistics.median(seconds) / self.pictures
            largest, mean = self.differences[way]
            yield (
                f"| {self.name} | {way} | {milliseconds:.2f} | {ratio(self.times, way, BARE):.2f} | "
                f"{ratio(self.times, PILLOW, way):.2f} | {largest} | {mean:.4f} |"
            )


def measure(width: int, height: int, size: int, pictures: Sequence[bytes], rounds: int) -> Case:
    """Return what the ways take in turns, after one round to warm up, and how their pixels differ."""
    known = ways(size)
    differences = {way: _difference(make, known[PILLOW], pictures) for way, make in known.items()}

    def seconds(make: Way) -> Callable[[], float]:
        def work() -> float:
            started = time.process_time()
            for data in pictures:
                make(data)
            return time.process_time() - started

        return work

    times = alternate({way: seconds(make) for way, make in known.items()}, rounds)
    return Case(width, height, size, times, differences, len(pictures))


def _difference(make: Way, reference: Way, pictures: Sequence[bytes]) -> tuple[int, float]:
    found = [np.abs(make(data).astype(np.int16) - reference(data)) for data in pictures]
    return max(int(one.max()) for one in found), float(np.mean([one.mean() for one in found]))


def main() -> None:
    """Measure and publish."""
    given = arguments("benchmarks.feeder", __doc__).parse_args()
    rounds, at_once = (5, 4) if given.small else (15, 12)
    cases = []
    for width, height in PICTURE_SIZES:
        count = max(1, at_once * 375 * 500 // (width * height) + 1)
        pictures = [photo(width, height, seed) for seed in range(count)]
        cases += [measure(width, height, size, pictures, rounds) for size in MODEL_SIZES]
    lines = [
        "# From files to pixels",
        "",
        *describe(),
        f"- command: `python -m benchmarks.feeder`; medians of {rounds} rounds, one thread",
        "",
        "| picture to model | way | ms | over bare loop | faster than Pillow | largest difference | mean |",
        "|---|---|---:|---:|---:|---:|---:|",
        *(row for case in cases for row in case.rows()),
    ]
    publish(Result(lines=lines, figures=[figure for case in cases for figure in case.figures()]), given)


if __name__ == "__main__":
    main()
