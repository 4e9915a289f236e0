"""Pre-rendered scenes as the tiny CLIP sees them, with the truth of every concept.

A picture goes through JPEG and the model's own resize (Pillow bicubic, whole picture squashed to a square), exactly as
it would when it is tagged from a shard, and is kept as 8-bit pixels: 12 kB each.

Shapes: N pictures, C RGB channels, H W pixels, J objects (padded to five), P patches of the model (8x8, row by row),
M concepts (64 labels, then 8 colours, then 8 shapes).
"""

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.scenes.render import COLOURS, HEIGHT, LABELS, MAX_OBJECTS, SHAPES, WIDTH, SceneObject, scene_jpeg

IMAGE_SIZE = 64
GRID = 8  # patches per side of the model's picture
CHUNK = 2500  # pictures per render task and per cache file

CONCEPTS: tuple[str, ...] = tuple(label.id for label in LABELS) + tuple(COLOURS) + SHAPES
CONCEPT_INDEX = {concept: index for index, concept in enumerate(CONCEPTS)}


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Scenes with the truth of every concept, and where each object is.

    pixels_NHWC: uint8, 64x64 RGB. truth_NM: bool, is the concept in the picture. objects_NJ: int8, index of each
    object's label, -1 for none. shares_NJP: uint8, share of each patch in which the object is visible, times 255.
    """

    pixels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int8]
    shares: npt.NDArray[np.uint8]


def _concepts_of_labels() -> npt.NDArray[np.bool_]:
    """Truth of each concept given each label, and a last row of nothing, for an absent object (-1)."""
    table = np.zeros((len(LABELS) + 1, len(CONCEPTS)), dtype=np.bool_)
    for row, label in enumerate(LABELS):
        table[row, [CONCEPT_INDEX[concept] for concept in (label.id, label.colour, label.shape)]] = True
    return table


CONCEPTS_OF_LABELS = _concepts_of_labels()


def patch_shares(objects_BJ: npt.NDArray[np.int8], shares_BJP: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Share_BPM of each patch that each concept covers, in [0, 1]."""
    concepts_BJM = CONCEPTS_OF_LABELS[objects_BJ].astype(np.float32)
    shares_BPM: npt.NDArray[np.float32] = shares_BJP.astype(np.float32).transpose(0, 2, 1) @ concepts_BJM
    return shares_BPM / np.float32(255)


def model_pixels(jpeg: bytes) -> npt.NDArray[np.uint8]:
    """Pixels_HWC of one JPEG, resized as open_clip's transform with `resize_mode: squash` does."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _object_rows(objects: list[SceneObject]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
    """Objects_J and shares_JP of one picture, padded."""
    labels_J = np.full(MAX_OBJECTS, -1, dtype=np.int8)
    shares_JP = np.zeros((MAX_OBJECTS, GRID * GRID), dtype=np.uint8)
    for slot, item in enumerate(objects):
        labels_J[slot] = CONCEPT_INDEX[item.label_id]
        patches = item.mask.reshape(GRID, HEIGHT // GRID, GRID, WIDTH // GRID).mean(axis=(1, 3))
        shares_JP[slot] = np.rint(patches.ravel() * 255)
    return labels_J, shares_JP


def render_pictures(start: int, stop: int, seed: int) -> Pictures:
    """Scenes `start` to `stop` - 1 of a seed; about 11 ms each on one core."""
    scenes = [scene_jpeg(index, seed) for index in range(start, stop)]
    rows = [_object_rows(objects) for _, objects in scenes]
    objects_NJ = np.stack([labels_J for labels_J, _ in rows])
    return Pictures(
        pixels=np.stack([model_pixels(jpeg) for jpeg, _ in scenes]),
        truth=np.asarray(CONCEPTS_OF_LABELS[objects_NJ].any(axis=1)),
        objects=objects_NJ,
        shares=np.stack([shares_JP for _, shares_JP in rows]),
    )


def _chunk_path(cache: Path, start: int, stop: int, seed: int) -> Path:
    return cache / f"scenes-{seed}-{start}-{stop}.npz"


def _render_to(path: Path, start: int, stop: int, seed: int) -> None:
    pictures = render_pictures(start, stop, seed)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **vars(pictures))
    partial.replace(path)


def load_pictures(count: int, seed: int, *, cache: Path | None = None, workers: int = 2) -> Pictures:
    """The first `count` scenes of a seed, rendered with several processes unless the folder `cache` has them.

    The cache is named by seed and picture numbers only: empty it when the renderer changes.
    """
    if cache is None:
        with TemporaryDirectory() as folder:
            return load_pictures(count, seed, cache=Path(folder), workers=workers)
    cache.mkdir(parents=True, exist_ok=True)
    spans = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    paths = [_chunk_path(cache, start, stop, seed) for start, stop in spans]
    missing = [(path, *span, seed) for path, span in zip(paths, spans, strict=True) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_render_to, *zip(*missing, strict=True)))
    chunks = [dict(np.load(path)) for path in paths]
    return Pictures(**{name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]})
