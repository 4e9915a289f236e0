"""What the head costs beside its backbone, and what training costs from stored tokens beside from images.

    python -m benchmarks.training_cost [--only epoch] [--small] [--write benchmarks/results/NAME.md]

All in one process, stages alternating for several rounds: ratios are medians over rounds of two times of the same
round, since machines are shared. Peak memory is that of a process of its own for each number of labels.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.head_cost import TOWER, make_backbone, measure_head
from benchmarks.head_memory import BATCH, measure_memory, memory_table
from benchmarks.machine import describe
from benchmarks.rounds import Stages, alternate, ratio, seconds
from benchmarks.training_epoch import SMALL as SMALL_EPOCH
from benchmarks.training_epoch import EpochSize, annotated, epoch_cost, measure_epoch, random_data
from schemas.training import TrainConfig

MAX_PIXELS = 89_478_485
SECTIONS = ("head", "scenes", "epoch")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    labels: tuple[int, ...] = (100, 1000, 5000, 20000)
    labels_of_memory: tuple[int, ...] = (100, 1000, 5000, 20000)
    rounds: int = 5
    pictures: int = 1000
    epoch: EpochSize = field(default_factory=EpochSize)


SMALL = Size(
    labels=(100, 1000),
    labels_of_memory=(1000,),
    rounds=2,
    pictures=128,
    epoch=SMALL_EPOCH,
)


def measure_scenes(folder: Path, size: Size) -> list[str]:
    """Return what an epoch costs from stored tokens and from images, with the bundled model."""
    from clipdecoder.encoders.model import load_model
    from examples.scenes.render import LABELS, iter_scenes

    encoder = load_model("bundled:scenes", device="cpu").image
    scenes = list(iter_scenes(size.pictures, seed=7))
    column = {label.id: number for number, label in enumerate(LABELS)}
    shape = (size.pictures, encoder.num_tokens, encoder.token_width)
    tokens_NTC = np.memmap(folder / "scenes", np.float16, "w+", shape=shape)

    def decode_and_encode() -> None:
        def pixels(data: bytes) -> NDArray[np.uint8]:
            return encoder.transform.read(data, max_pixels=MAX_PIXELS).pixels_HWC

        with ThreadPoolExecutor() as pool:
            pixels_NHWC = np.stack(list(pool.map(pixels, [data for _, data, _ in scenes])))
        for start in range(0, size.pictures, 32):
            encoded = encoder.encode(pixels_NHWC[start : start + 32], tokens=True)
            tokens_NTC[start : start + 32] = encoded.tokens_BTC

    decode_and_encode()
    data = annotated(tokens_NTC, [[column[one] for one in ids] for *_, ids in scenes], len(LABELS))
    stages: Stages = {
        "decode and encode": lambda: seconds(decode_and_encode),
        "epoch": lambda: size.pictures * epoch_cost(data, TrainConfig(epochs=1)).wall,
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


def measure_from_images(folder: Path, backbone: torch.nn.Module, size: Size) -> list[str]:
    """Return what an epoch would cost whose images go through a tower each time."""
    data = random_data(folder, size.epoch.images)
    pictures_BCHW = torch.randn(BATCH, 3, 224, 224)

    def forward() -> float:
        with torch.inference_mode():
            return seconds(lambda: [backbone(pictures_BCHW) for _ in range(8)]) / (8 * BATCH)

    stages: Stages = {"backbone": forward, "epoch": lambda: epoch_cost(data, TrainConfig(epochs=1)).wall}
    times = alternate(stages, size.epoch.rounds)
    return [
        f"Had each image to go through {TOWER}, its forward pass alone would make the epoch "
        f"**{1 + ratio(times, 'backbone', 'epoch'):.1f} times** as long."
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


def measure(size: Size, only: str | None) -> Iterator[tuple[list[str], list[Figure]]]:
    """Yield the sections, or one of them."""
    torch.manual_seed(0)
    backbone = make_backbone() if only != "epoch" else None
    with tempfile.TemporaryDirectory() as folder:
        if backbone is not None and only in (None, "head"):
            yield measure_head(backbone, size.labels, size.rounds), []
            yield list(memory_table(measure_memory(size.labels_of_memory))), []
        if only in (None, "scenes"):
            yield measure_scenes(Path(folder), size), []
        if only in (None, "epoch"):
            yield measure_epoch(Path(folder), size.epoch)
        if backbone is not None and only is None:
            yield measure_from_images(Path(folder), backbone, size), []
            yield list(token_sizes()), []


def main() -> None:
    """Measure, print, and write if asked."""
    parser = arguments("benchmarks.training_cost", __doc__)
    parser.add_argument("--only", choices=SECTIONS, help="measure that alone; all of it takes several minutes more")
    given = parser.parse_args()
    size = SMALL if given.small else Size()
    command = "python -m benchmarks.training_cost" + " --small" * given.small
    command += f" --only {given.only}" if given.only else ""
    lines = ["# The head and its training: what they cost", "", f"`{command}`", "", *describe()]
    figures: list[Figure] = []
    for section, found in measure(size, given.only):
        lines += ["", *section]
        figures += found
    lines += ["", f"Medians of {size.rounds} rounds, of the last epoch {size.epoch.rounds}; load after the run: "]
    lines[-1] += f"{os.getloadavg()[0]:.1f}."
    publish(Result(lines=lines, figures=figures), given)


if __name__ == "__main__":
    main()
