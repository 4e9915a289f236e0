"""Image bytes to embeddings: decoding in threads, the model in batches, one answer for every input, in order.

Shapes: B batch, D embedding width, T patch tokens, H W pixels, C channels of a picture or numbers in a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clipdecoder.clock import StageClock
from clipdecoder.encoders.feeding import DecodedImage, Feeder, PictureBatch
from clipdecoder.pipes import Crew
from schemas.sample import SampleStatus

if TYPE_CHECKING:
    from clipdecoder.encoders.encoded import Encoded
    from clipdecoder.encoders.transforms import ImageTransform


class PixelEncoder(Protocol):
    """What embeds: an `ImageEncoder`, or a whole `ClipModel`."""

    transform: ImageTransform

    def encode(self, pixels_BHWC: NDArray[np.uint8], *, tokens: bool = False) -> Encoded:
        """Return embeddings and, if asked for, patch tokens; a row that could not be computed is NaN."""


NON_FINITE_ERROR = "the model gave numbers that are not finite"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedImage:
    """What became of one image. `embedding` is there exactly where `status` is `OK`, and so are tokens if asked for."""

    width: int | None = None  # pixels, as a person sees the picture; absent where it could not be decoded
    height: int | None = None
    embedding: NDArray[np.float16] | None = None  # (D,), L2-normalised
    tokens: NDArray[np.float16] | None = None  # (T, C), not normalised
    status: SampleStatus = SampleStatus.OK
    error: str | None = None


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

    While the model works on a batch, threads read and decode the next ones, as far ahead as a `Feeder` goes.

    Args:
        images: whole image files; read in another thread.
        model: gives the transform and the embeddings.
        batch_size: images through the model at once. It moves embeddings by rounding only.
        threads: decoding threads; 0 for one per core. They change no result.
        max_pixels: pictures of more pixels are refused as `too_large`.
        clock: gets `decode` (seconds of all threads together) and `encode`.
        tokens: whether patch tokens are wanted too.
    """
    source = ((None, image) for image in images)
    with Crew() as crew:
        feeder: Feeder[None, None] = Feeder(
            crew, source, model.transform, batch_size=batch_size, threads=threads, max_pixels=max_pixels
        )
        for batch in feeder.batches():
            clock.add("decode", sum(image.seconds for image in batch.images))
            with clock.stage("encode"):
                embedded = list(_embed_batch(batch, model, tokens))
            feeder.free(batch)
            yield from embedded


def _embed_batch(batch: PictureBatch[None, None], model: PixelEncoder, tokens: bool) -> Iterator[EmbeddedImage]:
    encoded = model.encode(batch.pixels_BHWC[: batch.count], tokens=tokens) if batch.count else None
    row = 0
    for image in batch.images:
        if encoded is None or image.status is not SampleStatus.OK:
            yield EmbeddedImage(width=image.width, height=image.height, status=image.status, error=image.error)
            continue
        tokens_TC = encoded.tokens_BTC[row] if encoded.tokens_BTC is not None else None
        yield _with_features(image, encoded.embeddings_BD[row], tokens_TC)
        row += 1


def _with_features(
    image: DecodedImage, embedding_D: NDArray[np.float16], tokens_TC: NDArray[np.float16] | None
) -> EmbeddedImage:
    if not np.isfinite(embedding_D).all():
        return EmbeddedImage(
            width=image.width, height=image.height, status=SampleStatus.NON_FINITE, error=NON_FINITE_ERROR
        )
    return EmbeddedImage(width=image.width, height=image.height, embedding=embedding_D, tokens=tokens_TC)
