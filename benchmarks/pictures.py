"""JPEGs with the grain and the size in bytes of photographs, and shards of them: what decoders are measured on."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90  # with the usual 4:2:0: 500x375 pixels then take some 65 KB
DISTINCT = 8  # pictures of a shard are these in turn, each under a key of its own


def photo(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG of clouds of every scale, as photographs have them, and some grain."""
    random = np.random.default_rng(seed)
    picture_HWC = np.full((height, width, 3), 128, np.float32)
    cells, strength = 2, 60.0
    while cells < max(width, height):
        rows, columns = max(2, cells * height // max(width, height)), max(2, cells * width // max(width, height))
        small = random.normal(size=(rows, columns, 3)) + random.normal(size=(rows, columns, 1)) * 2
        clouds = [Image.fromarray(small[..., c].astype(np.float32)).resize((width, height), 3) for c in range(3)]
        picture_HWC += strength * np.stack([np.asarray(one) for one in clouds], axis=-1) / 2
        cells, strength = cells * 2, strength * 0.68
    picture_HWC += random.normal(size=(height, width, 1)) * 5
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture_HWC, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def photos(count: int, width: int, height: int) -> Iterator[bytes]:
    """Yield `count` JPEGs; after `DISTINCT` of them they come again."""
    made = [photo(width, height, seed) for seed in range(min(count, DISTINCT))]
    return islice(cycle(made), count)


def write_shards(folder: Path, pictures: Sequence[bytes], *, shards: int) -> list[Path]:
    """Write the pictures into tars of about equal size, with keys in order, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = np.linspace(0, len(pictures), shards + 1).astype(int)
    paths = [folder / f"{number:05d}.tar" for number in range(shards)]
    for path, start, end in zip(paths, bounds[:-1], bounds[1:], strict=True):
        with tarfile.open(path, "w") as tar:
            for number in range(start, end):
                info = tarfile.TarInfo(f"photo-{number:07d}.jpg")
                info.size = len(pictures[number])
                tar.addfile(info, io.BytesIO(pictures[number]))
    return paths
