"""Small pictures for the evaluation page, read back from the shards and kept within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress

from PIL import Image

from clipdecoder.encoders.images import decode_image
from schemas.errors import SampleError, ShardError
from schemas.sample import MemberCounts, SampleStatus
from storage.shards import iter_samples

Place = tuple[str, int]  # shard and ordinal of a sample

# Side in pixels and WebP quality, the best first. A page takes the first that fits its budget.
_SIZES = ((112, 70), (96, 60), (80, 50), (72, 40), (64, 30), (48, 20), (32, 10))


def read_thumbnails(
    wanted: Collection[Place], urls: Mapping[str, str], *, max_pixels: int, budget_bytes: int = 300_000
) -> dict[Place, bytes]:
    """Return the wanted samples as small WebP pictures, each shard read once and only as far as needed.

    What cannot be read any more, a sample or a whole shard, is absent from the answer: an evaluation that is done does
    not fail for its pictures, and the page says how many are missing.

    Args:
        wanted: samples, by shard id and ordinal.
        urls: shard id -> what fsspec opens.
        max_pixels: as in `decode_image`.
        budget_bytes: of all pictures together as the page holds them, in base64. The largest of a few sizes that fits
            is taken; the smallest if none does, and then only as many pictures, in the order of shards, as fit.
    """
    ordinals: dict[str, set[int]] = defaultdict(set)
    for shard, sample in wanted:
        ordinals[shard].add(sample)
    pictures: dict[Place, Image.Image] = {}
    for shard in sorted(ordinals.keys() & urls.keys()):
        for sample, picture in _read_shard(urls[shard], ordinals[shard], max_pixels).items():
            pictures[shard, sample] = picture
    return _within(pictures, budget_bytes)


def data_url(picture: bytes) -> str:
    """Return a picture as a URL that holds it."""
    kind = "webp" if picture[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _read_shard(url: str, ordinals: Collection[int], max_pixels: int) -> dict[int, Image.Image]:
    pictures: dict[int, Image.Image] = {}
    last = max(ordinals)
    # What stands before the damage of a shard is shown; the rest is missing, and the page counts it.
    with suppress(ShardError):
        for sample in iter_samples(url, MemberCounts()):
            if sample.sample in ordinals and sample.status is SampleStatus.OK:
                with suppress(SampleError):  # damaged since it was evaluated
                    pictures[sample.sample] = _small(sample.data, max_pixels)
            if sample.sample >= last:
                break
    return pictures


def _small(data: bytes, max_pixels: int) -> Image.Image:
    picture = decode_image(data, max_pixels=max_pixels)
    picture.thumbnail((_SIZES[0][0], _SIZES[0][0]), Image.Resampling.LANCZOS)
    return picture


def _within(pictures: Mapping[Place, Image.Image], budget_bytes: int) -> dict[Place, bytes]:
    encoded: dict[Place, bytes] = {}
    for side, quality in _SIZES:
        encoded = {place: _encode(picture, side, quality) for place, picture in pictures.items()}
        if sum(map(_page_bytes, encoded.values())) <= budget_bytes:
            return encoded
    fitting: dict[Place, bytes] = {}
    for place, data in encoded.items():
        budget_bytes -= _page_bytes(data)
        if budget_bytes < 0:
            break
        fitting[place] = data
    return fitting


def _page_bytes(data: bytes) -> int:
    return len(data_url(data))


def _encode(picture: Image.Image, side: int, quality: int) -> bytes:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
