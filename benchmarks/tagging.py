"""Images per second by stage and end to end, with the bundled model, in one process.

    python -m benchmarks.tagging [--pictures 2000] [--write benchmarks/results/NAME.md]

Each stage runs alone over the same pictures: `read` (tar members from disk), `decode` (bytes to the model's pixels, in
threads), `forward` (the bare model on pixels in memory: the ceiling), then the whole run, and a run of new labels from
stored embeddings. Stages alternate for several rounds and the median counts, since machines are shared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from clipdecoder.encoders.images import decode_image
from clipdecoder.encoders.model import ClipModel, load_model
from examples.scenes.render import LABELS, iter_scenes, taxonomy_yaml
from flows.plan import plan_tag
from flows.run import RunOutcome, run_tag_here
from schemas.config import tag_request
from schemas.sample import MemberCounts
from storage.pack import pack
from storage.shards import iter_samples

ROUNDS = 5
BATCH = 32
MAX_PIXELS = 89_478_485


def make_dataset(folder: Path, pictures: int) -> list[Path]:
    """Render pictures and pack them into four shards."""
    (folder / "pictures").mkdir()
    for key, data, _ in iter_scenes(pictures, seed=7):
        (folder / "pictures" / f"{key}.jpg").write_bytes(data)
    pack(str(folder / "pictures"), str(folder / "shards" / "{:05d}.tar"), samples_per_shard=-(-pictures // 4))
    labels = [label.id for label in LABELS]
    (folder / "most.yaml").write_text(taxonomy_yaml(labels[:-10]))
    (folder / "all.yaml").write_text(taxonomy_yaml(labels))
    return sorted((folder / "shards").iterdir())


def read_all(shards: list[Path]) -> list[bytes]:
    """Read every image member's bytes."""
    return [sample.data for shard in shards for sample in iter_samples(str(shard), MemberCounts())]


def decode_all(images: list[bytes], model: ClipModel) -> np.ndarray:
    """Decode and resize in threads, as a run does."""
    with ThreadPoolExecutor() as pool:
        pixels = pool.map(
            lambda data: model.transform.to_pixels(decode_image(data, max_pixels=MAX_PIXELS), max_pixels=MAX_PIXELS),
            images,
        )
        return np.stack(list(pixels))


def forward_all(pixels_NHWC: np.ndarray, model: ClipModel) -> None:
    """Run the bare model over pixels in memory."""
    for start in range(0, len(pixels_NHWC), BATCH):
        model.encode_pixels(pixels_NHWC[start : start + BATCH])


def tag(folder: Path, store: Path, taxonomy: str, labels: str = "all") -> RunOutcome:
    """Run the whole thing, without an orchestrator."""
    request = tag_request(
        shards=(str(folder / "shards" / "*.tar"),),
        taxonomy=str(folder / taxonomy),
        store=str(store),
        labels=labels,
        batch_size=BATCH,
    )
    return run_tag_here(plan_tag(request))


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(folder: Path, pictures: int) -> dict[str, float]:
    """Return images per second of each stage, medians over rounds in which all stages alternate."""
    model = load_model("bundled:scenes", device="cpu")
    shards = make_dataset(folder, pictures)
    images = read_all(shards)
    pixels = decode_all(images, model)
    forward_all(pixels[: 4 * BATCH], model)  # warm up
    times: dict[str, list[float]] = {}
    for round_number in range(ROUNDS):
        store = folder / f"store-{round_number}"
        stages: dict[str, Callable[[], object]] = {
            "read": lambda: read_all(shards),
            "decode": lambda: decode_all(images, model),
            "forward": lambda: forward_all(pixels, model),
            "end to end": lambda store=store: tag(folder, store, "most.yaml"),
            "10 new labels from stored embeddings": lambda store=store: tag(folder, store, "all.yaml", "new"),
        }
        for stage, work in stages.items():
            times.setdefault(stage, []).append(seconds(work))
    return {stage: pictures / statistics.median(values) for stage, values in times.items()}


def report(rates: dict[str, float], pictures: int, command: str) -> str:
    """Return the result as Markdown."""
    forward, whole = rates["forward"], rates["end to end"]
    backfill = rates["10 new labels from stored embeddings"]
    lines = [
        "# Tagging: images per second by stage",
        "",
        f"`{command}`",
        "",
        *describe(),
        f"- {pictures} JPEGs of 320x240 in 4 shards, 64 labels, model bundled:scenes (64x64 pixels, "
        f"{ROUNDS} rounds, medians)",
        "",
        "| stage alone | images per second | of the bare forward |",
        "|---|---:|---:|",
        *(f"| {stage} | {rate:,.0f} | {rate / forward:.2f} |" for stage, rate in rates.items()),
        "",
        f"End to end reaches {whole / min(rates['decode'], forward):.2f} of the slower of decode and forward alone. "
        f"Both want all cores, so their sum bounds it: {whole * (1 / rates['decode'] + 1 / forward):.2f} of that.",
        "",
        f"New labels from stored embeddings: {backfill / whole:.0f} times the images per second of tagging from",
        "pixels. (The model is tiny; with a real one the ratio grows with its cost.)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--write", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), arguments.pictures)
    text = report(rates, arguments.pictures, f"python -m benchmarks.tagging --pictures {arguments.pictures}")
    sys.stdout.write(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
