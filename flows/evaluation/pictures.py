"""Small pictures for pages (evaluation, review, search, report), read back from shards within a budget of bytes."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import MappingProxyType

from PIL import Image

from flows.thumbnails import encode_small, small_webp
from schemas.errors import SampleError
from storage.shard_pictures import StoredShard, read_pictures

Place = tuple[str, int]  # shard and ordinal of a sample
Size = tuple[int, int]  # longest side in pixels, and WebP quality

_READERS = 8  # shards at a time; of an object store the round trips are what takes long

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
    stored: Mapping[str, StoredShard] = MappingProxyType({}),
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Place, bytes]:
    """Return the wanted samples as small WebP pictures. Of each shard these are read, and what it takes to find them.

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
        stored: shard id -> what a store knows of the shard, which spares reading headers in object stores.
        on_shard: told how many shards are read, of how many.
    """
    ordinals: dict[str, set[int]] = defaultdict(set)
    for shard, sample in wanted:
        ordinals[shard].add(sample)
    pictures: dict[Place, bytes] = {}
    shards = sorted(ordinals.keys() & urls.keys())

    def read(shard: str) -> dict[Place, bytes]:
        found = read_pictures(urls[shard], ordinals[shard], stored.get(shard))
        own = {(shard, sample): data for sample, data in found.items()}
        return dict(_encoded(own, contents, max_pixels, sizes[0]))

    with ThreadPoolExecutor(_READERS, thread_name_prefix="pictures") as pool:
        for number, own in enumerate(pool.map(read, shards), start=1):
            pictures |= own
            on_shard(number, len(shards))
    return _within(pictures, budget_bytes, sizes)


def _encoded(
    found: Mapping[Place, bytes], contents: Mapping[Place, str] | None, max_pixels: int, size: Size
) -> Iterator[tuple[Place, bytes]]:
    """Yield small pictures of what was read, without what is not as it was when it was scored."""
    for place, data in found.items():
        if contents is None or contents.get(place) == hashlib.sha256(data).hexdigest():
            with suppress(SampleError):
                yield place, small_webp(data, *size, max_pixels=max_pixels)


def data_url(picture: bytes) -> str:
    """Return a picture as a URL that holds it."""
    kind = "webp" if picture[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _within(pictures: Mapping[Place, bytes], budget_bytes: int, sizes: Sequence[Size]) -> dict[Place, bytes]:
    """Return the pictures as they are if they fit, else smaller, else fewer."""
    encoded = dict(pictures)
    for side, quality in sizes[1:]:
        if sum(map(_page_bytes, encoded.values())) <= budget_bytes:
            break
        encoded = {place: encode_small(Image.open(io.BytesIO(data)), side, quality) for place, data in pictures.items()}
    fitting: dict[Place, bytes] = {}
    for place, data in encoded.items():
        budget_bytes -= _page_bytes(data)
        if budget_bytes < 0:
            break
        fitting[place] = data
    return fitting


def _page_bytes(data: bytes) -> int:
    return len(data_url(data))
