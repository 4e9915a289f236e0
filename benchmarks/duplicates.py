"""What looking for near-duplicates finds, and what it costs.

    python -m benchmarks.duplicates [--small] [--write benchmarks/results/NAME.md]

Recall: scenes with copies that were made smaller, compressed anew, cropped, made brighter and blurred, embedded by the
bundled model, in cells against all pairs. Which copies a cosine or a perceptual hash knows again, and which pictures of
other scenes they take for copies. Cost: a million generated embeddings, of which a tenth are copies of others.
"""

from __future__ import annotations

import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.figures import Figure, Result, arguments, publish
from benchmarks.machine import describe
from benchmarks.rounds import cost
from clipdecoder.curation.cells import PROBES, Cells
from clipdecoder.curation.image_statistics import image_statistics
from clipdecoder.curation.leaders import Space, find_leaders, hash_space, make_space
from examples.scenes.render import scene_jpeg

LIMIT, WIDTH = 0.95, 512
BITS = (0, 2, 4, 6, 8)
COSINES = (0.9, 0.95, 0.97, 0.99)
_MAX_PIXELS = 10**8

Copy = Callable[[Image.Image], Image.Image]
COPIES: Mapping[str, tuple[Copy, int]] = {  # and the JPEG quality
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), 90),
    "70 % of the size, quality 70": (
        lambda image: image.resize((image.width * 7 // 10, image.height * 7 // 10), Image.Resampling.BICUBIC),
        70,
    ),
    "quality 60": (lambda image: image, 60),
    "quality 30": (lambda image: image, 30),
    "2 % cropped on each side": (lambda image: _cropped(image, 0.02), 90),
    "4 % cropped on each side": (lambda image: _cropped(image, 0.04), 90),
    "15 % brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.15), 90),
    "15 % darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.85), 90),
    "slightly blurred": (lambda image: image.filter(ImageFilter.GaussianBlur(1)), 90),
}


def _cropped(image: Image.Image, share: float) -> Image.Image:
    left, top = math.ceil(image.width * share), math.ceil(image.height * share)
    return image.crop((left, top, image.width - left, image.height - top))


@dataclass(frozen=True)
class Scene:
    """A picture and its copies, as the model and as a hash see them."""

    pixels_VHWC: NDArray[np.uint8]
    hashes_V: NDArray[np.uint64]


def make_scene(index: int) -> Scene:
    """Return one scene with all copies of it."""
    from clipdecoder.encoders.model import load_image_encoder

    original, _ = scene_jpeg(index, 0)
    transform = load_image_encoder("bundled:scenes", device="cpu").transform
    image = Image.open(io.BytesIO(original)).convert("RGB")
    files = [original]
    for change, quality in COPIES.values():
        buffer = io.BytesIO()
        change(image).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    found = [image_statistics(data, max_pixels=_MAX_PIXELS).phash or 0 for data in files]
    pixels = [transform.read(data, max_pixels=_MAX_PIXELS).pixels_HWC for data in files]
    return Scene(np.stack(pixels), np.array(found, np.uint64))


def _begin() -> None:
    import torch

    torch.set_num_threads(1)


def make_scenes(count: int) -> list[Scene]:
    """Return scenes, made by as many processes as there are cores."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_begin) as pool:
        return list(pool.map(make_scene, range(count), chunksize=16))


def embed(scenes: list[Scene]) -> NDArray[np.float16]:
    """Return embeddings_ND: all scenes first, then their first copies, and so on."""
    from clipdecoder.encoders.model import load_image_encoder

    encoder = load_image_encoder("bundled:scenes", device="cpu")
    pixels = (scene.pixels_VHWC[version] for version in range(len(COPIES) + 1) for scene in scenes)
    parts = [encoder.encode(np.stack(batch)).embeddings_BD for batch in _batches(pixels, 256)]
    return np.concatenate(parts).astype(np.float16)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def pair_recall(space: Space) -> tuple[int, float]:
    """Return how many pairs are within the limit, and the share of them that the cells let meet."""
    import torch

    cells, limit = space.cells, space.limit - 1e-6
    vectors_ND = torch.nn.functional.normalize(torch.from_numpy(space.vectors_ND).float(), dim=1)
    pairs, met = 0, 0
    for start in range(0, len(vectors_ND), 1024):
        ones, others = (vectors_ND[start : start + 1024] @ vectors_ND.T >= limit).nonzero(as_tuple=True)
        ones += start
        later = ones > others
        one, other = ones[later].numpy(), others[later].numpy()
        pairs += len(one)
        met += int((cells.probes_NP[one] == cells.homes_N[other][:, None]).any(axis=1).sum())
    return pairs, met / max(1, pairs)


def measure_recall(embeddings_ND: NDArray[np.float16], hashes_N: NDArray[np.uint64]) -> tuple[list[str], list[Figure]]:
    """Compare cells with all pairs."""
    count = round(math.sqrt(PROBES * len(embeddings_ND) / 2))
    lines = [f"## Recall: {len(embeddings_ND):,} embeddings in {count} cells, {PROBES} of them searched", ""]
    lines += ["| least cosine | pairs | of them found | copies by all pairs | by cells | of the copies |"]
    lines += ["|---:|---:|---:|---:|---:|---:|"]
    figures = []
    for limit in COSINES:
        space = make_space(embeddings_ND, limit, cells=count)
        pairs, recall = pair_recall(space)
        exact, found = _is_copy(make_space(embeddings_ND, limit, cells=1)), _is_copy(space)
        share = (exact & found).sum() / max(1, exact.sum())
        lines.append(f"| {limit} | {pairs:,} | {recall:.4f} | {exact.sum():,} | {found.sum():,} | {share:.4f} |")
        if limit == LIMIT:
            basis = f"pairs of scenes and their copies at cosine {LIMIT} or more, {len(embeddings_ND):,} embeddings"
            figures.append(Figure(name="near-duplicates found", value=recall, target=0.99, basis=basis))
    lines += ["", "| hashes, bits apart | pairs | of them found |", "|---:|---:|---:|"]
    for bits in BITS:
        space = hash_space(hashes_N, np.ones(len(hashes_N), np.bool_), bits, cells=count)
        pairs, recall = pair_recall(space)
        lines.append(f"| {bits} | {pairs:,} | {recall:.4f} |")
    return [*lines, ""], figures


def _is_copy(space: Space) -> NDArray[np.bool_]:
    leaders_N = find_leaders([space])
    return np.asarray(leaders_N != np.arange(len(leaders_N)))


def measure_copies(embeddings_ND: NDArray[np.float16], hashes_VN: NDArray[np.uint64]) -> list[str]:
    """Say which copies are known again, and how many other scenes are taken for copies."""
    by_version = embeddings_ND.astype(np.float32).reshape(len(hashes_VN), -1, embeddings_ND.shape[1])
    by_version /= np.linalg.norm(by_version, axis=2, keepdims=True)
    head = " | ".join([*(f"cosine {limit}" for limit in COSINES), *(f"{bits} bits" for bits in BITS)])
    lines = ["## What is known again: share of the copies, by cosine and by differing bits of the hash", ""]
    lines += [f"| copy | {head} |", f"|---|{'---:|' * (len(COSINES) + len(BITS))}"]
    for version, name in enumerate(COPIES, start=1):
        cosines = (by_version[0] * by_version[version]).sum(axis=1)
        differing = np.bitwise_count(hashes_VN[0] ^ hashes_VN[version])
        shares = [(cosines >= limit).mean() for limit in COSINES] + [(differing <= bits).mean() for bits in BITS]
        lines.append(f"| {name} | {' | '.join(f'{share:.3f}' for share in shares)} |")
    above = np.triu(np.ones((len(hashes_VN[0]),) * 2, bool), 1)
    cosines = (by_version[0] @ by_version[0].T)[above]
    differing = np.bitwise_count(hashes_VN[0][:, None] ^ hashes_VN[0])[above]
    counts = [(cosines >= limit).sum() for limit in COSINES] + [(differing <= bits).sum() for bits in BITS]
    lines.append(f"| pairs of other scenes, of {len(cosines):,} | {' | '.join(f'{count:,}' for count in counts)} |")
    return [*lines, ""]


def make_embeddings(place: Path, rows: int) -> NDArray[np.float16]:
    """Return random embeddings on the disk: topics with pictures around them, a tenth of them copies of others."""
    random = np.random.default_rng(0)
    embeddings_ND = np.memmap(place / "embeddings", np.float16, "w+", shape=(rows, WIDTH))
    topics = random.standard_normal((1000, WIDTH), np.float32)
    for start in range(0, rows, 10_000):
        size = min(10_000, rows - start)
        made = topics[random.integers(0, len(topics), size)] + random.standard_normal((size, WIDTH), np.float32)
        if start:
            copied = embeddings_ND[random.integers(0, start, size // 10)].astype(np.float32)
            made[: size // 10] = copied + random.standard_normal(copied.shape, np.float32) * (0.2 / math.sqrt(WIDTH))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        embeddings_ND[start : start + size] = made
    return embeddings_ND


def measure_cost(rows: int) -> tuple[list[str], list[Figure]]:
    """Look for copies among generated embeddings."""
    with tempfile.TemporaryDirectory() as place:
        embeddings_ND = make_embeddings(Path(place), rows)
        before = _peak_mib()
        spaces: list[Space] = []
        of_cells = cost(lambda: spaces.append(make_space(embeddings_ND, LIMIT)))
        copies: list[int] = []
        of_search = cost(lambda: copies.append(int(_is_copy(spaces[0]).sum())))
        peak = _peak_mib()
        _, recall = _sampled_recall(embeddings_ND, spaces[0].cells)
    wall, cpu = of_cells.wall + of_search.wall, of_cells.cpu + of_search.cpu
    lines = [
        f"## Cost: {rows:,} embeddings of {WIDTH} numbers, {spaces[0].cells.homes_N.max() + 1:,} cells",
        "",
        "| step | seconds | processor seconds |",
        "|---|---:|---:|",
        f"| cells | {of_cells.wall:.0f} | {of_cells.cpu:.0f} |",
        f"| search | {of_search.wall:.0f} | {of_search.cpu:.0f} |",
        "",
        f"{copies[0]:,} copies found; of the pairs of 2,000 samples with all others {recall:.4f} may meet; peak memory "
        f"{peak:,.0f} MiB, {before:,.0f} before: pages of the embeddings' file ({rows * WIDTH * 2 / 2**20:,.0f} MiB) "
        "that are in memory count as well.",
        "",
    ]
    basis = f"{rows:,} embeddings, {os.cpu_count()} cores, by the clock; {cpu:.0f} processor seconds"
    return lines, [Figure(name="near-duplicates", value=wall, unit="s", target=300, at_most=True, basis=basis)]


def _sampled_recall(embeddings_ND: NDArray[np.float16], cells: Cells) -> tuple[int, float]:
    import torch

    rows = np.random.default_rng(2).choice(len(embeddings_ND), min(2000, len(embeddings_ND)), replace=False)
    asked = torch.from_numpy(embeddings_ND[rows]).float()
    pairs, met = 0, 0
    for start in range(0, len(embeddings_ND), 8192):
        near = asked @ torch.from_numpy(embeddings_ND[start : start + 8192]).float().T >= LIMIT
        ones, others = (each.numpy() for each in near.nonzero(as_tuple=True))
        one, other = rows[ones], others + start
        later, earlier = np.maximum(one, other)[one != other], np.minimum(one, other)[one != other]
        pairs += len(later)
        met += int((cells.probes_NP[later] == cells.homes_N[earlier][:, None]).any(axis=1).sum())
    return pairs, met / max(1, pairs)


def _peak_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_statistics() -> list[str]:
    """Say what the statistics of a picture cost."""
    from benchmarks.pictures import photo

    lines = ["## Statistics of a picture: processor milliseconds, of one thread", ""]
    for width, height in ((500, 375), (2000, 1500)):
        data = photo(width, height, 0)
        spent = [cost(lambda data=data: image_statistics(data, max_pixels=_MAX_PIXELS)).cpu for _ in range(30)]
        lines.append(f"- JPEG of {width} x {height}: {1000 * statistics.median(spent):.1f}")
    return [*lines, ""]


def main() -> None:
    """Measure, print, and write if asked."""
    given = arguments("benchmarks.duplicates", __doc__).parse_args()
    count, rows = (100, 40_000) if given.small else (2000, 1_000_000)
    lines = ["# Near-duplicates and picture statistics", ""]
    lines += [f"`python -m benchmarks.duplicates{' --small' * given.small}`", "", *describe(), ""]
    of_cost, more = measure_cost(rows)  # first: the greatest memory of a process is that of all it did
    started = time.perf_counter()
    scenes = make_scenes(count)
    embeddings_ND = embed(scenes)
    lines += [f"- {len(embeddings_ND):,} pictures were made and embedded in {time.perf_counter() - started:.0f} s", ""]
    hashes_VN = np.stack([scene.hashes_V for scene in scenes], axis=1)
    of_recall, figures = measure_recall(embeddings_ND, hashes_VN.reshape(-1))
    of_copies = measure_copies(embeddings_ND, hashes_VN)
    publish(
        Result(lines=[*lines, *of_recall, *of_copies, *of_cost, *measure_statistics()], figures=[*figures, *more]),
        given,
    )


if __name__ == "__main__":
    main()
