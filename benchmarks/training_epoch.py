"""What an epoch over stored patch tokens costs, in time and in memory; `training_cost` reports it.

    python -m benchmarks.training_cost --only epoch

Peak memory is that of a process of its own for each number of images: `python -m benchmarks.training_epoch IMAGES`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.figures import Figure
from benchmarks.rounds import Cost, Costs, alternate_costs, cost, median_of, seconds
from clipdecoder.heads.cost import head_flops
from clipdecoder.scoring.cosine import best_patch
from clipdecoder.training.batches import TrainData, epoch_rows, sample_labels
from clipdecoder.training.loop import train_head
from clipdecoder.training.targets import Targets
from schemas.training import TrainConfig

NUM_TOKENS, WIDTH = 49, 512  # of ViT-B/32
TRAINED_LABELS, LABELS_PER_IMAGE = 1000, 4
ENOUGH = 30.0  # seconds, of 5,000 images
DEFAULT, EXACT, EVERY = "as by default", "float32", "all labels a step"


@dataclass(frozen=True, kw_only=True)
class EpochSize:
    """How much is measured."""

    images: int = 5000
    images_exact: int = 1280
    images_all_labels: int = 192
    rounds: int = 3
    images_of_memory: tuple[int, ...] = (1000, 5000)


SMALL = EpochSize(images=128, images_exact=128, images_all_labels=64, rounds=1, images_of_memory=(128,))


def annotated(tokens_NTC: NDArray[np.float16], labels: list[list[int]], num_labels: int) -> TrainData:
    """Return tokens and labels to train on, with random queries and the teacher of towers whose patches are local."""
    queries_KC = F.normalize(torch.randn(num_labels, tokens_NTC.shape[2]), dim=-1).numpy()

    def teach(rows_B: NDArray[np.int64], columns_K: NDArray[np.int64]) -> NDArray[np.float32]:
        return best_patch(tokens_NTC[rows_B], queries_KC[columns_K], torch.device("cpu"))

    return TrainData(
        inputs=tokens_NTC,
        rows_M=np.arange(len(tokens_NTC)),
        targets=Targets.of(labels, num_labels=num_labels),
        queries_KQ=queries_KC,
        teacher=teach,
    )


def random_data(folder: Path, num_images: int) -> TrainData:
    """Return annotated random tokens in a memory map, of labels as unequal in frequency as those of people."""
    rng = np.random.default_rng(0)
    tokens_NTC = np.memmap(folder / "random", np.float16, "w+", shape=(num_images, NUM_TOKENS, WIDTH))
    for rows in np.array_split(np.arange(num_images), max(1, num_images // 500)):
        tokens_NTC[rows] = rng.standard_normal((len(rows), NUM_TOKENS, WIDTH), dtype=np.float32)
    share_K = 1 / np.arange(1, TRAINED_LABELS + 1)
    share_K /= share_K.sum()
    draw = [rng.choice(TRAINED_LABELS, LABELS_PER_IMAGE, False, share_K).tolist() for _ in range(num_images)]
    return annotated(tokens_NTC, draw, TRAINED_LABELS)


def labels_per_step(data: TrainData, config: TrainConfig) -> float:
    """Return the mean number of labels that a step sees."""
    steps = epoch_rows(data, config, 1, 1)
    return statistics.mean(len(sample_labels(data.targets, r, config, np.random.default_rng(0))) for r in steps)


def epoch_cost(data: TrainData, config: TrainConfig) -> Cost:
    """Return what one epoch of training costs an image: wall time without what comes before it, processor time with."""
    images = epoch_rows(data, config, 1, 1).size
    wall = 0.0

    def train() -> None:
        nonlocal wall
        wall = train_head(config, data).reports[-1].seconds

    cpu = cost(train).cpu
    return Cost(wall / images, cpu / images)


def best_flops(dtype: torch.dtype) -> float:
    """Return the operations per second of one product, of the shape that training has most of, at its best."""
    x_MD, weight_FD = torch.randn(8640, 256).to(dtype), torch.randn(1024, 256).to(dtype)
    return 2 * 8640 * 256 * 1024 / min(seconds(lambda: F.linear(x_MD, weight_FD)) for _ in range(20))


def measure_epoch(folder: Path, size: EpochSize) -> tuple[list[str], list[Figure]]:
    """Return what an epoch over stored tokens costs: as by default, in float32, with all labels a step."""
    data = random_data(folder, size.images)
    first = {EXACT: size.images_exact, EVERY: size.images_all_labels}
    some = {name: replace(data, rows_M=data.rows_M[:count]) for name, count in first.items()}
    config = TrainConfig(epochs=1)
    epoch_cost(replace(data, rows_M=data.rows_M[:64]), config)  # what is loaded at first use
    costs = alternate_costs(
        {
            DEFAULT: lambda: epoch_cost(data, config),
            EXACT: lambda: epoch_cost(some[EXACT], config.model_copy(update={"amp": "off"})),
            EVERY: lambda: epoch_cost(some[EVERY], config.model_copy(update={"sampled_labels": 0})),
        },
        size.rounds,
    )
    labels = labels_per_step(data, config)
    lines = [
        f"## An epoch over {size.images:,} images of {NUM_TOKENS} x {WIDTH} tokens",
        "",
        f"Random tokens in a memory map, {TRAINED_LABELS:,} labels of frequency 1/rank, {LABELS_PER_IMAGE} an image, "
        f"the default recipe: batches of {config.batch_size}, {labels:.0f} labels a step (all positives of the batch, "
        f"others up to {config.sampled_labels}), on {torch.get_num_threads()} threads. Validation is not in it.",
        "",
        *_table(costs, size.images, first),
        "",
        *_limits(config, labels, size.images),
        "",
        *measure_memory(size.images_of_memory),
    ]
    figure = Figure(
        name=f"training epoch over {size.images:,} images",
        value=size.images * median_of(costs[DEFAULT]).wall,
        unit="s",
        target=ENOUGH if size.images == EpochSize.images else None,
        at_most=True,
        basis=f"wall time, median of {size.rounds}",
    )
    return lines, [figure]


def _table(costs: Costs, images: int, first: Mapping[str, int]) -> Iterator[str]:
    yield "| an epoch | wall s | processor s | images a second | wall s of each round |"
    yield "|---|---:|---:|---:|---|"
    for name, found in costs.items():
        median = median_of(found)
        rounds = ", ".join(f"{images * one.wall:.1f}" for one in found)
        of = f" (from {first[name]:,} images)" if name in first else ""
        speed = f"{1 / median.wall:,.0f}"
        yield f"| {name}{of} | {images * median.wall:.1f} | {images * median.cpu:.1f} | {speed} | {rounds} |"


def _limits(config: TrainConfig, labels: float, images: int) -> Iterator[str]:
    """Say what the machine could do at best."""
    shape = config.head(token_width=WIDTH, query_width=WIDTH, num_labels=TRAINED_LABELS)
    # Gradients of weights and of activations cost what the forward pass does, each.
    flops = 3 * images * head_flops(shape, NUM_TOKENS, round(labels))
    exact, half = (best_flops(dtype) for dtype in (torch.float32, torch.bfloat16))
    yield (
        f"Its products are {flops / 1e12:.2f} TFLOP, forward and back: {flops / exact:.1f} s at this machine's best in "
        f"float32 ({exact / 1e9:,.0f} GFLOP/s), {flops / half:.1f} s in bfloat16 ({half / 1e9:,.0f} GFLOP/s)."
    )


def measure_memory(images: tuple[int, ...]) -> Iterator[str]:
    """Return a table of the peak of a training process's memory by the number of images."""
    yield "| images | tokens, MB | peak beyond libraries, MB |"
    yield "|---:|---:|---:|"
    for count in images:
        words = (sys.executable, "-m", "benchmarks.training_epoch", str(count))
        peak = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        yield f"| {count:,} | {2 * count * NUM_TOKENS * WIDTH / 1e6:,.0f} | {peak / 1e6:,.0f} |"
    yield ""
    yield (
        "Memory of the process's own, looked at every 5 ms from before the first epoch to after it. The pages of the "
        "memory map are not in it: they are the kernel's, which takes them back where it needs them."
    )


def peak_memory(num_images: int) -> int:
    """Return the bytes that an epoch takes beyond what the process had before."""
    found: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found.append(_own_bytes())

    with tempfile.TemporaryDirectory() as folder:
        data = random_data(Path(folder), num_images)
        before = _own_bytes()
        watcher = threading.Thread(target=watch)
        watcher.start()
        train_head(TrainConfig(epochs=1), data)
        done.set()
        watcher.join()
    return max(found) - before


def _own_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("RssAnon:")))


if __name__ == "__main__":
    sys.stdout.write(str(peak_memory(int(sys.argv[1]))))
