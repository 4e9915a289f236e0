"""Tagging beside clip-retrieval's `clip_inference`: the same model, weights, tars and machine, in turns.

    python -m benchmarks.clip_retrieval [--small] [--clip-retrieval-python PATH] [--write benchmarks/results/NAME.md]

clip-retrieval runs in an environment of its own, which is made by uv in `.bench/clip-retrieval` where no other is named
(some 6 GB). Both sides get two decoding workers and batches of 16, run once unmeasured, and then take turns; loading
models is in neither time. Both write embeddings; ours also writes rows, checksums and scores. The
embeddings are compared, so that it is the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import clip_retrieval_runner
from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.pictures import photos, write_shards
from benchmarks.rounds import Cost, Costs, alternate_costs, cost, median_of
from benchmarks.stages import LABEL_IDS, Job, feed, stored_embeddings, tag
from benchmarks.towers import save_random
from clipdecoder.encoders.model import load_model
from clipdecoder.encoders.open_clip_models import BUNDLED

# setuptools: what it is built with is gone from later ones, and torch takes no later ones from 2.13 on.
PACKAGES = ("clip-retrieval==2.45.0", "setuptools<70")
ENVIRONMENT = Path(".bench/clip-retrieval")
WORKERS, BATCH, SHARDS = 2, 16, 4
TIMES_FASTER, NEVER_SLOWER, OF_ITS_READER, SAME_WORK = 2.0, 1.0, 0.4, 0.999
SIDES = {500: 375, 2000: 1500}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model on pictures of one size."""

    model: str
    width: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    cases: tuple[Case, ...]
    rounds: int


SIZE = Size(
    cases=(
        Case(model="bundled:scenes", width=500, images=1600),
        Case(model="bundled:scenes", width=2000, images=160),
        Case(model="ViT-B-32", width=500, images=64),
        Case(model="ViT-B-32", width=2000, images=64),
    ),
    rounds=3,
)
SMALL = Size(
    cases=(
        Case(model="bundled:scenes", width=500, images=320),
        Case(model="bundled:scenes", width=2000, images=64),
        Case(model="ViT-B-32", width=500, images=16),
    ),
    rounds=1,
)


def environment(python: Path | None) -> Path:
    """Return the Python that has clip-retrieval, after making its environment where there is none."""
    found = python or ENVIRONMENT / "bin" / "python"
    if not found.exists():
        assert python is None, f"there is no {python}"
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv is not None, "uv is needed to make clip-retrieval's environment; name one: --clip-retrieval-python"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, ENVIRONMENT], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", found, *PACKAGES], check=True)
    return found


class ClipRetrieval:
    """clip-retrieval in a process of its own, which does what it is asked."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log

    def run(self, stage: str, tars: Sequence[Path], to: Path, images: int) -> Cost:
        """Return what a run cost, by its own clocks."""
        assert self.process.stdin and self.process.stdout
        request = {"stage": stage, "tars": [str(tar) for tar in tars], "to": str(to)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"clip-retrieval ended: {self.log.read_text()[-2000:]}"
        answer = json.loads(line)
        assert answer["images"] == images
        return Cost(answer["wall"], answer["cpu"])


@contextmanager
def clip_retrieval(python: Path, model: Path, folder: Path) -> Iterator[ClipRetrieval]:
    """Start it, and end it when the block ends."""
    options = {"model": str(model), "workers": WORKERS, "batch_size": BATCH}
    # -P: or the package would be sought in this folder, where a script has its name.
    words = [str(python), "-P", clip_retrieval_runner.__file__, json.dumps(options)]
    here = {"CONFIGS": str(folder), "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    pipe, log = subprocess.PIPE, folder / "clip-retrieval.log"
    with (
        log.open("w") as said,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=said, text=True, env=os.environ | here) as process,
    ):
        yield ClipRetrieval(process, log)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one case cost both sides."""

    case: Case
    costs: Costs
    cosine: float  # the least of any picture's two embeddings
    centred: float  # the same after the mean embedding is taken away, since random weights put all close together

    def ratio(self, theirs: str, ours: str, *, cpu: bool = True) -> float:
        """Return how many times more one stage costs than another, of medians."""
        one, other = median_of(self.costs[theirs]), median_of(self.costs[ours])
        return one.cpu / other.cpu if cpu else one.wall / other.wall


def measure(folder: Path, case: Case, rounds: int, python: Path) -> Measured:
    """Measure one case in rounds of both sides."""
    pictures = list(photos(case.images, case.width, SIDES[case.width]))
    tars, stores = write_shards(folder / "shards", pictures, shards=SHARDS), count()
    model = BUNDLED / "scenes" if case.model == "bundled:scenes" else folder / "model"
    spec = case.model if case.model == "bundled:scenes" else save_random(case.model, model)
    job = Job(shards=tars, model=spec, batch_size=BATCH, decode_threads=WORKERS)
    transform = load_model(spec, device="cpu").transform

    def to() -> Path:
        return folder / f"to-{next(stores)}"

    with clip_retrieval(python, model, folder) as theirs:
        ask = partial(theirs.run, tars=tars, images=case.images)
        stages: Mapping[str, Callable[[], Cost]] = {
            "clip-retrieval": lambda: ask("all", to=to()),
            "clipdecoder": lambda: cost(partial(tag, job.request(to()))),
            "its reader": lambda: ask("reader", to=to()),
            "our feeder": lambda: cost(partial(feed, tars, transform, BATCH, threads=WORKERS)),
        }
        alternate_costs(stages, 1)  # load and warm up
        cosines = compare(folder / "to-0", folder / "to-1")
        costs = alternate_costs(stages, rounds)
    return Measured(case=case, costs=costs, cosine=cosines[0], centred=cosines[1])


def compare(theirs: Path, store: Path) -> tuple[float, float]:
    """Return the least cosine of any picture's two embeddings, plain and after the mean is taken away."""
    found = dict(zip(_names(theirs), np.load(theirs / "img_emb" / "img_emb_0.npy"), strict=True))
    ours: dict[str, Any] = dict(stored_embeddings(store))
    assert found.keys() == ours.keys(), "they embedded other pictures"
    one_ND, other_ND = (np.array([side[key] for key in ours], np.float32) for side in (found, ours))
    mean_D = other_ND.mean(axis=0)
    return float(_cosines(one_ND, other_ND).min()), float(_cosines(one_ND - mean_D, other_ND - mean_D).min())


def _names(theirs: Path) -> list[str]:
    names: list[str] = pq.read_table(theirs / "metadata" / "metadata_0.parquet")["image_path"].to_pylist()
    return names


def _cosines(one_ND: NDArray[np.float32], other_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    return np.asarray((one_ND * other_ND).sum(axis=1) / lengths_N)


def versions(python: Path) -> str:
    """Return the versions of what clip-retrieval's environment has."""
    names = ("clip-retrieval", "torch", "open_clip_torch", "webdataset", "pillow", "numpy")
    code = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def report(found: Sequence[Measured]) -> Iterator[str]:
    """Yield the table."""
    stages = ("clip-retrieval", "clipdecoder", "its reader", "our feeder")
    yield "Processor milliseconds an image (images per second by the clock):"
    yield ""
    yield "| model, pictures | " + " | ".join(stages) + " | least cosine | after the mean |"
    yield "|---|" + "---:|" * (len(stages) + 2)
    for one in found:
        case, medians = one.case, {stage: median_of(one.costs[stage]) for stage in stages}
        cells = [
            f"{1000 * spent.cpu / case.images:.2f} ({case.images / spent.wall:,.0f})" for spent in medians.values()
        ]
        name = f"{case.model}, {case.images:,} of {case.width}x{SIDES[case.width]}"
        yield f"| {name} | {' | '.join(cells)} | {one.cosine:.5f} | {one.centred:.4f} |"


def figures(one: Measured) -> Iterator[Figure]:
    """Yield what is to be reached in one case."""
    bundled, where = one.case.model == "bundled:scenes", f"{one.case.model}, {one.case.width} px"
    for cpu in (True, False):
        yield Figure(
            name=f"clip-retrieval over clipdecoder, {where}{'' if cpu else ', by the clock'}",
            value=one.ratio("clip-retrieval", "clipdecoder", cpu=cpu),
            unit="times",
            target=TIMES_FASTER if bundled else NEVER_SLOWER,
            basis="processor seconds of all processes, in turns" if cpu else "seconds, in turns",
        )
    if bundled:
        yield Figure(
            name=f"our feeder over its reader, {where}",
            value=one.ratio("our feeder", "its reader"),
            target=OF_ITS_READER,
            at_most=True,
            basis="processor seconds of all processes, in turns",
        )
    yield Figure(
        name=f"the same work as clip-retrieval, {where}",
        value=one.cosine,
        target=SAME_WORK,
        basis="least cosine of any picture's two embeddings",
    )


def measure_all(size: Size, python: Path) -> Iterator[Measured]:
    """Yield each case, measured."""
    for case in size.cases:
        with tempfile.TemporaryDirectory() as folder:
            yield measure(Path(folder), case, size.rounds, python)


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments("benchmarks.clip_retrieval", __doc__)
    parser.add_argument("--clip-retrieval-python", type=Path, help="the Python of an environment that has it")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write if asked."""
    given = parse()
    python, size = environment(given.clip_retrieval_python), SMALL if given.small else SIZE
    lines = ["# Tagging beside clip-retrieval", ""]
    lines += [f"`python -m benchmarks.clip_retrieval{' --small' * given.small}`", "", *describe()]
    lines.append(f"- beside it: {versions(python)}, the newest that go together")
    found = list(measure_all(size, python))
    lines += [
        f"- {WORKERS} workers and batches of {BATCH} on both sides, {SHARDS} shards, medians of {size.rounds} rounds "
        f"that alternate; ViT-B-32 has random weights; load after the run: {os.getloadavg()[0]:.1f}",
        f"- ours also writes a row with a checksum for each picture, and scores of {len(LABEL_IDS)} labels; "
        "clip-retrieval's two processes for statistics are left out",
        "",
        *report(found),
    ]
    publish(Result(lines=lines, figures=[figure for one in found for figure in figures(one)]), given)


if __name__ == "__main__":
    main()
