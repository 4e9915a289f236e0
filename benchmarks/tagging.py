"""Tagging from end to end beside its stages alone: images per second, processor time, and what binds.

    python -m benchmarks.tagging [--small] [--write benchmarks/results/NAME.md]

All in one process, stages alternating for several rounds, with the bundled model and with ViT-B/32 (random weights in a
local folder). The stages: `read` (members from the tars), `decode` (bytes in memory to the model's pixels), `feeder`
(both, with checksums, batched, for nobody), `model and head` (on pixels in memory), `sink` (made-up results to
Parquet). A run can be no faster than the slowest of the last three, its lowest ceiling; where they want the same cores,
it can be no faster than all their processor time over all cores either.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.pictures import photos, write_shards
from benchmarks.rounds import Cost, alternate_costs, cost, median_of
from benchmarks.stages import LABEL_IDS, Job, MadeUp, compute, decode, feed, read, sink, tag
from benchmarks.towers import save_random
from flows.tagging.plan import plan_tag
from flows.tagging.run import make_scorer

WIDTH, HEIGHT, SHARDS, BATCH = 500, 375, 4, 16
ENOUGH = 0.95
CEILINGS = ("feeder", "model and head", "sink")
WHOLE = "end to end"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured of each model."""

    images: Mapping[str, int]
    rounds: int


SIZE = Size(images={"bundled:scenes": 2000, "ViT-B-32": 96}, rounds=5)
SMALL = Size(images={"bundled:scenes": 400, "ViT-B-32": 16}, rounds=2)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the stages of one model cost, over the same images."""

    model: str
    images: int
    costs: Mapping[str, Cost]

    def rate(self, stage: str) -> float:
        """Return images per second by the clock."""
        return self.images / self.costs[stage].wall

    @property
    def binding(self) -> str:
        """The stage with the lowest ceiling."""
        return min(CEILINGS, key=self.rate)

    @property
    def of_lowest_ceiling(self) -> float:
        return self.rate(WHOLE) / self.rate(self.binding)

    @property
    def of_processor_bound(self) -> float:
        """Processor seconds of the stages alone over those of the whole: 1 is a run that adds nothing to them."""
        return sum(self.costs[stage].cpu for stage in CEILINGS) / self.costs[WHOLE].cpu


def measure(folder: Path, name: str, size: Size) -> Measured:
    """Measure one model's stages in rounds of all of them."""
    images = size.images[name]
    shards = write_shards(folder / "shards", list(photos(images, WIDTH, HEIGHT)), shards=SHARDS)
    spec = name if name.startswith("bundled:") else save_random(name, folder / "model")
    job, stores = Job(shards=shards, model=spec, batch_size=BATCH), count()

    def store() -> Path:
        return folder / f"store-{next(stores)}"

    plan = plan_tag(job.request(store()))
    tagger = make_scorer(plan).tagger
    pictures = list(read(shards))
    pixels_NHWC = decode(pictures, tagger.transform)
    # One of them, written as often as there are shards.
    made_up = [MadeUp.of(images // SHARDS, plan.model.embedding_width, LABEL_IDS)] * SHARDS
    stages: dict[str, Callable[[], Cost]] = {
        "read": lambda: cost(lambda: list(read(shards))),
        "decode": lambda: cost(lambda: decode(pictures, tagger.transform)),
        "feeder": lambda: cost(lambda: feed(shards, tagger.transform, BATCH)),
        "model and head": lambda: cost(lambda: compute(pixels_NHWC, tagger, BATCH)),
        "sink": lambda: cost(lambda: sink(store(), made_up)),
        WHOLE: lambda: cost(partial(tag, job.request(store()))),
    }
    alternate_costs(stages, 1)  # warm up
    costs = alternate_costs(stages, size.rounds)
    return Measured(model=name, images=images, costs={stage: median_of(found) for stage, found in costs.items()})


def report(measured: Measured) -> Iterator[str]:
    """Yield one model's table."""
    yield f"## {measured.model}: {measured.images:,} images"
    yield ""
    yield "| stage alone | images per second | processor ms an image |"
    yield "|---|---:|---:|"
    for stage, found in measured.costs.items():
        yield f"| {stage} | {measured.rate(stage):,.0f} | {1000 * found.cpu / measured.images:.3f} |"
    yield ""
    yield (
        f"Of the ceilings {', '.join(CEILINGS)} the lowest is **{measured.binding}**: end to end reaches "
        f"{measured.of_lowest_ceiling:.2f} of it, and {measured.of_processor_bound:.2f} of what the processor time of "
        "the three allows."
    )
    yield ""


def figures(measured: Measured) -> Iterator[Figure]:
    """Yield what is to be reached with one model."""
    name = measured.model
    yield Figure(
        name=f"end to end over its lowest ceiling, {name}",
        value=measured.of_lowest_ceiling,
        target=ENOUGH,
        basis=f"images per second by the clock; the ceiling is {measured.binding}",
    )
    yield Figure(
        name=f"end to end over its processor bound, {name}",
        value=measured.of_processor_bound,
        target=ENOUGH,
        basis="processor seconds of feeder, model and head, and sink alone, over those of the run",
    )


def main() -> None:
    """Measure, print, and write if asked."""
    given = arguments("benchmarks.tagging", __doc__).parse_args()
    size, found = SMALL if given.small else SIZE, []
    lines = ["# Tagging: end to end beside its stages", ""]
    lines += [f"`python -m benchmarks.tagging{' --small' * given.small}`", "", *describe()]
    for name in size.images:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), name, size))
    lines += [
        f"- JPEGs of {WIDTH}x{HEIGHT} in {SHARDS} shards, {len(LABEL_IDS)} labels, batches of {BATCH}; medians of "
        f"{size.rounds} rounds that alternate; load after the run: {os.getloadavg()[0]:.1f}",
        "",
    ]
    lines += [line for one in found for line in report(one)]
    publish(Result(lines=lines, figures=[figure for one in found for figure in figures(one)]), given)


if __name__ == "__main__":
    main()
