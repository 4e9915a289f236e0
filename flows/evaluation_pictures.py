"""Small pictures for the pages of evaluation and review, read back from the shards, within a budget of bytes."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from PIL import Image

from clipdecoder.encoders.images import decode_image
from schemas.errors import SampleError, ShardError
from schemas.sample import MemberCounts, SampleStatus
from storage.shards import iter_samples

Place = tuple[str, int]  # shard and ordinal of a sample
Size = tuple[int, int]  # longest side in pixels, and WebP quality

# The best first. A page takes the first that fits its budget.
_SIZES: Sequence[Size] = ((112, 70), (96, 60), (80, 50), (72, 40), (64, 30), (48, 20), (32, 10))


def read_thumbnails(
    wanted: Collection[Place],
    urls: Mapping[str, str],
    *,
    max_pixels: int,
    budget_bytes: int = 300_000,
    sizes: Sequence[Size] = _SIZES,
    contents: Mapping[Place, str] | None = None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Place, bytes]:
    """Return the wanted samples as small WebP pictures, each shard read once and only as far as needed.

    What cannot be read any more, a sample or a whole shard, is absent from the answer: a page that is to be written
    does not fail for its pictures, and says how many are missing.

    Args:
        wanted: samples, by shard id and ordinal.
        urls: shard id -> what fsspec opens.
        max_pixels: as in `decode_image`.
        budget_bytes: of all pictures together as the page holds them, in base64. The first of `sizes` that fits is
            taken; the last if none does, and then only as many pictures, in the order of shards, as fit.
        sizes: side and quality to choose from, the best first.
        contents: SHA-256 of the bytes that a sample must have; where it has others now, it is absent.
        on_shard: told how many shards are read, of how many.
    """
    ordinals: dict[str, set[int]] = defaultdict(set)
    for shard, sample in wanted:
        ordinals[shard].add(sample)
    pictures: dict[Place, bytes] = {}
    shards = sorted(ordinals.keys() & urls.keys())
    for number, shard in enumerate(shards, start=1):
        for sample, data in _iter_wanted(urls[shard], ordinals[shard]):
            if contents is None or contents.get((shard, sample)) == hashlib.sha256(data).hexdigest():
                with suppress(SampleError):  # damaged since it was scored
                    pictures[shard, sample] = _encode(decode_image(data, max_pixels=max_pixels), *sizes[0])
        on_shard(number, len(shards))
    return _within(pictures, budget_bytes, sizes)


def data_url(picture: bytes) -> str:
    """Return a picture as a URL that holds it."""
    kind = "webp" if picture[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _iter_wanted(url: str, ordinals: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the wanted samples' ordinals and bytes."""
    last = max(ordinals)
    # What stands before the damage of a shard is shown; the rest is missing, and the page counts it.
    with suppress(ShardError):
        for sample in iter_samples(url, MemberCounts()):
            if sample.sample in ordinals and sample.status is SampleStatus.OK:
                yield sample.sample, sample.data
            if sample.sample >= last:
                break


def _within(pictures: Mapping[Place, bytes], budget_bytes: int, sizes: Sequence[Size]) -> dict[Place, bytes]:
    """Return the pictures as they are if they fit, else smaller, else fewer."""
    encoded = dict(pictures)
    for side, quality in sizes[1:]:
        if sum(map(_page_bytes, encoded.values())) <= budget_bytes:
            break
        encoded = {place: _encode(Image.open(io.BytesIO(data)), side, quality) for place, data in pictures.items()}
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
