"""What the head costs beside its backbone, and what training costs from stored tokens beside from images.

    python -m benchmarks.training_cost [--small] [--write benchmarks/results/NAME.md]

All in one process, stages alternating for several rounds: ratios are medians over rounds of two times of the same
round, since machines are shared. Peak memory is that of a process of its own for each number of labels.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from clipdecoder.group_head import build_head
from clipdecoder.head import MAX_BYTES, TextQueryHead
from clipdecoder.head_cost import head_flops
from clipdecoder.targets import Targets
from clipdecoder.training import train_head
from clipdecoder.training_batches import TrainData, epoch_rows, sample_labels
from schemas.training import HeadConfig, TrainConfig

TOWER = "ViT-B-32"
NUM_TOKENS, WIDTH = 49, 512  # its patch tokens
BATCH = 16
GROUPS, GROUPED_LABELS = 100, 1000
TRAINED_LABELS, LABELS_PER_IMAGE = 1000, 4
MAX_PIXELS = 89_478_485
SHAPE = HeadConfig(token_width=WIDTH, query_width=WIDTH)

Times = Mapping[str, list[float]]  # seconds of each stage, one entry per round
Stages = Mapping[str, Callable[[], float]]  # each does its work and returns its seconds


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    labels: tuple[int, ...] = (100, 1000, 5000, 20000)
    rounds: int = 5
    pictures: int = 1000
    images: int = 5000
    images_all_labels: int = 640


SMALL = Size(labels=(100, 1000), rounds=3, pictures=200, images=640, images_all_labels=128)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(stages: Stages, rounds: int) -> Times:
    """Return the seconds of each stage in rounds of all stages, after one round that does not count."""
    times: dict[str, list[float]] = {stage: [] for stage in stages}
    for number in range(rounds + 1):
        for stage, work in stages.items():
            spent = work()
            if number:
                times[stage].append(spent)
    return times


def ratio(times: Times, stage: str, to: str) -> float:
    """Return the median over rounds of one stage's time over another's."""
    return statistics.median(one / other for one, other in zip(times[stage], times[to], strict=True))


def random_queries(num_labels: int) -> torch.Tensor:
    """Return L2-normalised queries_KC."""
    return F.normalize(torch.randn(num_labels, WIDTH), dim=-1)


def make_backbone() -> tuple[torch.nn.Module, int]:
    """Return the tower with random weights and its floating point operations per image."""
    import open_clip

    from clipdecoder.backbone import open_clip_backbone

    backbone = open_clip_backbone(open_clip.create_model(TOWER, pretrained=None).eval().visual)
    # With gradients, since the fused attention without them is not counted.
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 224, 224))
    return backbone, counter.get_total_flops()


def measure_head(size: Size) -> list[str]:
    """Return a table of the head's time per image beside the backbone's."""
    torch.manual_seed(0)
    backbone, backbone_flops = make_backbone()
    pictures_BCHW = torch.randn(BATCH, 3, 224, 224)
    with torch.inference_mode():
        x_BTC = backbone(pictures_BCHW).tokens_BTC
    head = TextQueryHead(SHAPE).eval()
    grouped_shape = SHAPE.model_copy(update={"groups": GROUPS, "num_labels": GROUPED_LABELS})
    grouped = build_head(grouped_shape).eval()
    queries = {num_labels: random_queries(num_labels) for num_labels in size.labels}
    prepared = {num_labels: head.prepare(queries_KC) for num_labels, queries_KC in queries.items()}
    stages: dict[str, Callable[[], float]] = {TOWER: lambda: seconds(lambda: backbone(pictures_BCHW))}
    for count in size.labels:
        stages[f"{count:,}"] = lambda count=count: seconds(lambda: head(x_BTC, prepared[count]))
        stages[f"prepare {count:,}"] = lambda count=count: seconds(lambda: head.prepare(queries[count]))
    by_groups = f"{GROUPED_LABELS:,} in {GROUPS} groups"
    stages[by_groups] = lambda: seconds(lambda: grouped(x_BTC))
    with torch.inference_mode():
        times = alternate(stages, size.rounds)
    flops = {f"{count:,}": head_flops(SHAPE, NUM_TOKENS, count) for count in size.labels}
    flops = {TOWER: backbone_flops} | flops | {by_groups: head_flops(grouped_shape, NUM_TOKENS, GROUPED_LABELS)}
    return list(_head_table(times, flops, size))


def _head_table(times: Times, flops: Mapping[str, int], size: Size) -> Iterator[str]:
    first = f"{size.labels[0]:,}"
    yield "## Head beside backbone"
    yield ""
    yield (
        f"{TOWER}, float32, 224 x 224, batches of {BATCH}, {NUM_TOKENS} tokens of {WIDTH}; the head as by default "
        "(width 256, feed-forward 1,024), queries prepared once."
    )
    yield ""
    yield "| labels | of the backbone's time | of its operations | growth | ms per image | GFLOP per image | prepare, ms |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for stage, operations in flops.items():
        once = times.get(f"prepare {stage}")
        cells = [
            "the backbone" if stage == TOWER else stage,
            f"{ratio(times, stage, TOWER):.3f}",
            f"{operations / flops[TOWER]:.3f}",
            "" if stage == TOWER else f"{ratio(times, stage, first):.1f}",
            f"{1000 * statistics.median(times[stage]) / BATCH:.2f}",
            f"{operations / 1e9:.2f}",
            f"{1000 * statistics.median(once):.1f}" if once else "",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield f"Growth is time over that of {first} labels. Preparing is paid once per vocabulary, not per image."


def peak_memory(num_labels: int, max_bytes: int) -> None:
    """Score one batch and print the peak of this process's memory in KiB."""
    head, x_BTC = TextQueryHead(SHAPE).eval(), torch.randn(BATCH, NUM_TOKENS, WIDTH)
    with torch.inference_mode():
        head(x_BTC, random_queries(num_labels), max_bytes=max_bytes)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def measure_memory(size: Size) -> Iterator[str]:
    """Return a table of what scoring adds to the peak of a process's memory, in chunks of labels and all at once."""

    def peak(num_labels: int, max_bytes: int) -> float:
        words = (sys.executable, "-m", "benchmarks.training_cost", "--peak", str(num_labels), str(max_bytes))
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) / 1024

    alone = peak(1, MAX_BYTES)
    yield "## Memory"
    yield ""
    yield (
        f"What a batch of {BATCH} adds to the peak of a process that scores one label ({alone:,.0f} MiB, libraries and "
        f"weights), with chunks of at most {MAX_BYTES >> 20} MiB as by default, and all labels at once."
    )
    yield ""
    yield "| labels | in chunks, MiB | at once, MiB |"
    yield "|---:|---:|---:|"
    for count in size.labels:
        yield f"| {count:,} | {peak(count, MAX_BYTES) - alone:,.0f} | {peak(count, 2**62) - alone:,.0f} |"


def epoch_seconds(data: TrainData, config: TrainConfig) -> float:
    """Return the seconds of one epoch of training, without what comes before it."""
    return train_head(config, data).reports[-1].seconds


def measure_scenes(folder: Path, size: Size) -> list[str]:
    """Return what an epoch costs from stored tokens and from images, with the bundled model."""
    from clipdecoder.images import decode_image
    from clipdecoder.model import load_model
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
    data = TrainData(
        inputs=tokens_NTC,
        rows_M=np.arange(size.pictures),
        targets=Targets.of([[column[one] for one in ids] for *_, ids in scenes], num_labels=len(LABELS)),
        queries_KQ=random_queries(len(LABELS)).numpy(),
    )
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
    draw = [rng.choice(TRAINED_LABELS, LABELS_PER_IMAGE, False, share_K / share_K.sum()) for _ in range(num_images)]
    return TrainData(
        inputs=tokens_NTC,
        rows_M=np.arange(num_images),
        targets=Targets.of([labels.tolist() for labels in draw], num_labels=TRAINED_LABELS),
        queries_KQ=random_queries(TRAINED_LABELS).numpy(),
    )


def labels_per_step(data: TrainData, config: TrainConfig) -> float:
    """Return the mean number of labels that a step sees."""
    steps = epoch_rows(data, config, 1, 1)
    return statistics.mean(len(sample_labels(data.targets, r, config, np.random.default_rng(0))) for r in steps)


def measure_epoch(folder: Path, size: Size) -> list[str]:
    """Return what an epoch over stored tokens of the tower's shape costs: with sampled labels, with all, from pixels."""
    data = random_data(folder, size.images)
    some = TrainData(**vars(data) | {"rows_M": data.rows_M[: size.images_all_labels]})
    sampled, every = TrainConfig(epochs=1), TrainConfig(epochs=1, sampled_labels=0)
    backbone, _ = make_backbone()
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
    times = alternate(stages, max(3, size.rounds - 2))
    epoch = [size.images * each for each in times["sampled"]]
    return [
        f"## An epoch over {size.images:,} images of {NUM_TOKENS} x {WIDTH} tokens",
        "",
        f"Random tokens in a memory map, {TRAINED_LABELS:,} labels of frequency 1/rank, {LABELS_PER_IMAGE} an image, the "
        f"default recipe: batches of {sampled.batch_size}, {labels_per_step(data, sampled):.0f} labels a step (all "
        f"positives of the batch, others up to {sampled.sampled_labels}).",
        "",
        f"- from images, the {TOWER} forward alone added: **{1 + ratio(times, 'backbone', 'sampled'):.1f} times** the "
        "epoch from stored tokens",
        f"- all {TRAINED_LABELS:,} labels a step: **{ratio(times, 'all', 'sampled'):.1f} times** the epoch with sampled "
        f"ones (over {size.images_all_labels} images)",
        f"- the epoch: **{statistics.median(epoch):.0f} s** (rounds: {', '.join(f'{each:.0f}' for each in epoch)}), "
        f"{1 / statistics.median(times['sampled']):,.0f} images per second on {torch.get_num_threads()} threads",
    ]


def token_sizes() -> Iterator[str]:
    """Return a table of the bytes of stored tokens per image."""
    import open_clip

    from clipdecoder.model import load_model

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
    with tempfile.TemporaryDirectory() as folder:
        sections = [
            measure_head(size),
            list(measure_memory(size)),
            measure_scenes(Path(folder), size),
            measure_epoch(Path(folder), size),
            list(token_sizes()),
        ]
    lines += [f"- {size.rounds} rounds, medians; load after the run: {os.getloadavg()[0]:.1f}"]
    return "\n".join([*lines, *(line for section in sections for line in ("", *section))]) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    parser.add_argument("--small", action="store_true", help="fewer labels and images: under a minute")
    parser.add_argument("--write", type=Path, help="also write the result here")
    parser.add_argument("--peak", type=int, nargs=2, metavar=("LABELS", "BYTES"), help="measure memory in this process")
    arguments = parser.parse_args()
    if arguments.peak:
        peak_memory(*arguments.peak)
        return
    command = "python -m benchmarks.training_cost" + " --small" * arguments.small
    text = report(SMALL if arguments.small else Size(), command)
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
