"""Image bytes to embeddings: decoding in threads, the model in batches, one answer for every input, in order.

Shapes: B batch, D embedding width, T patch tokens, H W pixels, C channels of a picture or numbers in a token.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from clipdecoder.encoders.images import decode_image
from schemas.errors import SampleError
from schemas.sample import SampleStatus

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import Encoded
    from clipdecoder.encoders.transforms import ImageTransform


class PixelEncoder(Protocol):
    """What embeds: an `ImageEncoder`, or a whole `ClipModel`."""

    transform: ImageTransform

    def encode(self, pixels_BHWC: NDArray[np.uint8], *, tokens: bool = False) -> Encoded:
        """Return embeddings and, if asked for, patch tokens; a row that could not be computed is NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedImage:
    """What became of one image. `embedding` is there exactly where `status` is `OK`, and so are tokens if asked for."""

    width: int | None = None  # pixels, as a person sees the picture; absent where it could not be decoded
    height: int | None = None
    embedding: NDArray[np.float16] | None = None  # (D,), L2-normalised
    tokens: NDArray[np.float16] | None = None  # (T, C), not normalised
    status: SampleStatus = SampleStatus.OK
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    image: EmbeddedImage
    pixels_HWC: NDArray[np.uint8] | None


def embed_images(
    images: Iterable[bytes],
    model: PixelEncoder,
    *,
    batch_size: int,
    threads: int,
    max_pixels: int,
    clock: StageClock,
    tokens: bool = False,
) -> Iterator[EmbeddedImage]:
    """Yield one `EmbeddedImage` per input, in order: a bad image is a failure in its place, never an exception.

    While the model works on a batch, threads decode the next one. At most two batches and `threads` images are held,
    as pixels of the model's size, however many inputs there are.

    Args:
        images: whole image files; read only as far ahead as is needed.
        model: gives the transform and the embeddings.
        batch_size: images through the model at once. It moves embeddings by rounding only.
        threads: decoding threads; 0 for one per core. They change no result.
        max_pixels: pictures of more pixels are refused as `too_large`.
        clock: gets `decode` (seconds of all threads together) and `encode`.
        tokens: whether patch tokens are wanted too.
    """

    def prepare(data: bytes) -> _Prepared:
        with clock.stage("decode"):
            return _prepare(data, model, max_pixels)

    num_threads = threads or os.cpu_count() or 1
    prepared = _map_in_order(prepare, images, num_threads=num_threads, in_flight=batch_size + num_threads)
    while batch := list(islice(prepared, batch_size)):
        with clock.stage("encode"):
            embedded = _embed_batch(batch, model, tokens)
        yield from embedded


def _prepare(data: bytes, model: PixelEncoder, max_pixels: int) -> _Prepared:
    width = height = None
    try:
        picture = decode_image(data, max_pixels=max_pixels)
        width, height = picture.size
        pixels_HWC = model.transform.to_pixels(picture, max_pixels=max_pixels)
    except SampleError as error:
        failed = EmbeddedImage(width=width, height=height, status=error.status, error=error.detail)
        return _Prepared(failed, None)
    return _Prepared(EmbeddedImage(width=width, height=height), pixels_HWC)


def _embed_batch(batch: list[_Prepared], model: PixelEncoder, tokens: bool) -> list[EmbeddedImage]:
    pixels = [prepared.pixels_HWC for prepared in batch if prepared.pixels_HWC is not None]
    if not pixels:
        return [prepared.image for prepared in batch]
    encoded = model.encode(np.stack(pixels), tokens=tokens)
    tokens_BTC = encoded.tokens_BTC if encoded.tokens_BTC is not None else [None] * len(pixels)
    rows = zip(encoded.embeddings_BD, tokens_BTC, strict=True)
    return [
        prepared.image if prepared.pixels_HWC is None else _with_features(prepared.image, *next(rows))
        for prepared in batch
    ]


def _with_features(
    image: EmbeddedImage, embedding_D: NDArray[np.float16], tokens_TC: NDArray[np.float16] | None
) -> EmbeddedImage:
    if np.isfinite(embedding_D).all():
        return replace(image, embedding=embedding_D, tokens=tokens_TC)
    return replace(image, status=SampleStatus.NON_FINITE, error="the model gave numbers that are not finite")


def _map_in_order(
    prepare: Callable[[bytes], _Prepared], images: Iterable[bytes], *, num_threads: int, in_flight: int
) -> Iterator[_Prepared]:
    """Yield `prepare(image)` for each image in order, with at most `in_flight` handed to the threads ahead."""
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    waiting: deque[Future[_Prepared]] = deque()
    try:
        for image in images:
            waiting.append(pool.submit(prepare, image))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Also when the caller stops early: decode nothing more.
        pool.shutdown(cancel_futures=True)
