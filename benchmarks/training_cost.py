"""What the head costs beside its backbone, and what training costs from stored tokens beside from images.

    python -m benchmarks.training_cost [--small] [--write benchmarks/results/NAME.md]

All in one process, stages alternating for several rounds: ratios are medians over rounds of two times of the same
round, since machines are shared. Peak memory is that of a process of its own for each number of labels.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.head_cost import (
    BATCH,
    NUM_TOKENS,
    TOWER,
    WIDTH,
    make_backbone,
    measure_head,
    measure_memory,
    random_queries,
)
from benchmarks.machine import describe
from benchmarks.rounds import Stages, alternate, ratio, seconds
from clipdecoder.scoring.cosine import best_patch
from clipdecoder.training.batches import TrainData, epoch_rows, sample_labels
from clipdecoder.training.loop import train_head
from clipdecoder.training.targets import Targets
from schemas.training import TrainConfig

TRAINED_LABELS, LABELS_PER_IMAGE = 1000, 4
MAX_PIXELS = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    labels: tuple[int, ...] = (100, 1000, 5000, 20000)
    labels_of_memory: tuple[int, ...] = (100, 1000, 5000, 20000)
    rounds: int = 5
    pictures: int = 1000
    images: int = 5000
    images_all_labels: int = 192
    epoch_rounds: int = 3


SMALL = Size(
    labels=(100, 1000),
    labels_of_memory=(1000,),
    rounds=2,
    pictures=128,
    images=128,
    images_all_labels=64,
    epoch_rounds=1,
)


def annotated(tokens_NTC: NDArray[np.float16], labels: list[list[int]], num_labels: int) -> TrainData:
    """Return tokens and labels to train on, with random queries and the teacher of towers whose patches are local."""
    queries_KC = random_queries(num_labels, tokens_NTC.shape[2]).numpy()

    def teach(rows_B: NDArray[np.int64], columns_K: NDArray[np.int64]) -> NDArray[np.float32]:
        return best_patch(tokens_NTC[rows_B], queries_KC[columns_K], torch.device("cpu"))

    return TrainData(
        inputs=tokens_NTC,
        rows_M=np.arange(len(tokens_NTC)),
        targets=Targets.of(labels, num_labels=num_labels),
        queries_KQ=queries_KC,
        teacher=teach,
    )


def epoch_seconds(data: TrainData, config: TrainConfig) -> float:
    """Return the seconds of one epoch of training, without what comes before it."""
    return train_head(config, data).reports[-1].seconds


def measure_scenes(folder: Path, size: Size) -> list[str]:
    """Return what an epoch costs from stored tokens and from images, with the bundled model."""
    from clipdecoder.encoders.images import decode_image
    from clipdecoder.encoders.model import load_model
    from examples.scenes.render import LABELS, iter_scenes

    encoder = load_model("bundled:scenes", device="cpu").image
    scenes = list(iter_scenes(size.pictures, seed=7))
    column = {label.id: number for number, label in enumerate(LABELS)}
    shape = (size.pictures, encoder.num_tokens, encoder.token_width)
    tokens_NTC = np.memmap(folder / "scenes", np.float16, "w+", shape=shape)

    def decode_and_encode() -> None:
        def pixels(data: bytes) -> NDArray[np.uint8]:
            return encoder.transform.to_pixels(decode_image(data, max_pixels=MAX_PIXELS), max_pixels=MAX_PIXELS)

        with ThreadPoolExecutor() as pool:
            pixels_NHWC = np.stack(list(pool.map(pixels, [data for _, data, _ in scenes])))
        for start in range(0, size.pictures, 32):
            encoded = encoder.encode(pixels_NHWC[start : start + 32], tokens=True)
            tokens_NTC[start : start + 32] = encoded.tokens_BTC

    decode_and_encode()
    data = annotated(tokens_NTC, [[column[one] for one in ids] for *_, ids in scenes], len(LABELS))
    stages: Stages = {
        "decode and encode": lambda: seconds(decode_and_encode),
        "epoch": lambda: epoch_seconds(data, TrainConfig(epochs=1)),
    }
    times = alternate(stages, size.rounds)
    made, epoch = (statistics.median(times[stage]) for stage in ("decode and encode", "epoch"))
    return [
        "## An epoch from stored tokens and from images",
        "",
        f"{size.pictures:,} JPEGs of 320x240, bundled:scenes ({encoder.num_tokens} tokens of {encoder.token_width}), "
        f"{len(LABELS)} labels, the default recipe, tokens in a memory map.",
        "",
        f"- from images: **{1 + ratio(times, 'decode and encode', 'epoch'):.2f} times** the epoch from stored tokens",
        f"- the epoch from stored tokens: {epoch:.2f} s; decode and backbone: {made:.2f} s more",
        "",
        "This model is tiny and the head is not, so this ratio is about the smallest there is; the next table has the "
        "ratio for a usual backbone.",
    ]


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


def measure_epoch(folder: Path, backbone: torch.nn.Module, size: Size) -> list[str]:
    """Return what an epoch over stored tokens of the tower's shape costs: labels sampled or all, or from images."""
    data = random_data(folder, size.images)
    some = replace(data, rows_M=data.rows_M[: size.images_all_labels])
    sampled, every = TrainConfig(epochs=1), TrainConfig(epochs=1, sampled_labels=0)
    pictures_BCHW = torch.randn(BATCH, 3, 224, 224)

    def per_image(data: TrainData, config: TrainConfig) -> float:
        return epoch_seconds(data, config) / len(epoch_rows(data, config, 1, 1).reshape(-1))

    def forward() -> float:
        with torch.inference_mode():
            return seconds(lambda: [backbone(pictures_BCHW) for _ in range(8)]) / (8 * BATCH)

    stages: Stages = {
        "backbone": forward,
        "sampled": lambda: per_image(data, sampled),
        "all": lambda: per_image(some, every),
    }
    times = alternate(stages, size.epoch_rounds)
    epoch = [size.images * each for each in times["sampled"]]
    return [
        f"## An epoch over {size.images:,} images of {NUM_TOKENS} x {WIDTH} tokens",
        "",
        f"Random tokens in a memory map, {TRAINED_LABELS:,} labels of frequency 1/rank, {LABELS_PER_IMAGE} an image, "
        f"the default recipe: batches of {sampled.batch_size}, {labels_per_step(data, sampled):.0f} labels a step (all "
        f"positives of the batch, others up to {sampled.sampled_labels}).",
        "",
        f"- from images, the {TOWER} forward alone added: **{1 + ratio(times, 'backbone', 'sampled'):.1f} times** the "
        "epoch from stored tokens",
        f"- all {TRAINED_LABELS:,} labels a step: **{ratio(times, 'all', 'sampled'):.1f} times** the epoch with "
        f"sampled ones (over {size.images_all_labels} images)",
        f"- the epoch: **{statistics.median(epoch):.0f} s** (rounds: {', '.join(f'{each:.0f}' for each in epoch)}), "
        f"{1 / statistics.median(times['sampled']):,.0f} images per second on {torch.get_num_threads()} threads",
    ]


def token_sizes() -> Iterator[str]:
    """Return a table of the bytes of stored tokens per image."""
    import open_clip

    from clipdecoder.encoders.model import load_model

    def shape_of(name: str) -> tuple[int, int]:
        config: Any = open_clip.get_model_config(name)
        return (config["vision_cfg"]["image_size"] // config["vision_cfg"]["patch_size"]) ** 2, config["embed_dim"]

    shapes: dict[str, tuple[int, int]] = {name: shape_of(name) for name in ("ViT-B-32", "ViT-B-16")}
    shapes["bundled:scenes"] = load_model("bundled:scenes", device="cpu").image.token_shape
    yield "## Bytes of stored tokens, float16, before compression"
    yield ""
    yield "| model | tokens | width | bytes per image | GB per million images |"
    yield "|---|---:|---:|---:|---:|"
    for name, (count, width) in shapes.items():
        yield f"| {name} | {count} | {width} | {2 * count * width:,} | {2 * count * width / 1000:,.0f} |"


def report(size: Size, command: str) -> str:
    """Measure everything and return the result as Markdown."""
    lines = ["# The head and its training: what they cost", "", f"`{command}`", "", *describe()]
    torch.manual_seed(0)
    backbone = make_backbone()
    with tempfile.TemporaryDirectory() as folder:
        sections = [
            measure_head(backbone, size.labels, size.rounds),
            list(measure_memory(size.labels_of_memory)),
            measure_scenes(Path(folder), size),
            measure_epoch(Path(folder), backbone, size),
            list(token_sizes()),
        ]
    load = f"load after the run: {os.getloadavg()[0]:.1f}"
    lines.append(f"- medians of {size.rounds} rounds, of the last epoch {size.epoch_rounds}; {load}")
    return "\n".join([*lines, *(line for section in sections for line in ("", *section))]) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    parser.add_argument("--small", action="store_true", help="fewer labels and images: about a minute")
    parser.add_argument("--write", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    command = "python -m benchmarks.training_cost" + " --small" * arguments.small
    text = report(SMALL if arguments.small else Size(), command)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
