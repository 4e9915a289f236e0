"""Image files to batches of pixels, ahead of whoever computes with them: one thread reads, others decode.

Shapes: B batch, H W pixels, C channels of a picture.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipdecoder.pipes import Crew, Latch, Meter, Pipe
from schemas.errors import SampleError
from schemas.sample import SampleStatus

if TYPE_CHECKING:
    from clipdecoder.encoders.transforms import Picture

READ_AHEAD_BYTES = 64 * 2**20
# What a decoding thread takes at once: little enough that a few large pictures do not wait behind each other, and
# enough that handing it over costs nothing beside decoding it.
_UNIT_PICTURES, _UNIT_BYTES = 8, 2 * 2**20

OwnerT = TypeVar("OwnerT")
MarkT = TypeVar("MarkT")
# What is read, in order: an owner with the bytes of one of its image files, or with something else that is to reach
# whoever takes the batches in its turn among them.
Source = Generator[tuple[OwnerT, bytes | MarkT], None, None]


class Reader(Protocol):
    """What makes pixels of files: an `ImageTransform`."""

    size: tuple[int, int]

    def read(self, data: bytes, *, max_pixels: int) -> Picture:
        """Return the picture in a file, or raise a SampleError."""


@dataclass(slots=True)
class DecodedImage:
    """What became of one file. Where its status is `OK`, its pixels are in the batch."""

    width: int | None  # as a person sees the picture; absent where it could not be decoded
    height: int | None
    status: SampleStatus
    error: str | None
    sha256: str  # of the file
    seconds: float  # that its thread took
    lenient: bool = False  # a JPEG that the strict decoder refused and Pillow read


@dataclass(kw_only=True)
class PictureBatch(Generic[OwnerT, MarkT]):
    """Pictures in the order in which they were read, of one owner after the other.

    The pixels of those that could be decoded are the first `count` rows; what the others hold means nothing.
    """

    pixels_BHWC: NDArray[np.uint8]
    owners: list[OwnerT] = field(default_factory=list)  # of each picture
    images: list[DecodedImage] = field(default_factory=list)
    marks: list[tuple[OwnerT, MarkT]] = field(default_factory=list)  # what stood behind the owner's pictures up to here
    count: int = 0

    def spans(self) -> Iterator[tuple[OwnerT, list[DecodedImage]]]:
        """Yield each owner with its pictures in this batch."""
        start = 0
        for _, group in groupby(self.owners, key=id):
            end = start + sum(1 for _ in group)
            yield self.owners[start], self.images[start:end]
            start = end

    def pack(self) -> None:
        """Move the pixels of the pictures that could be decoded to the front."""
        good = [row for row, image in enumerate(self.images) if image.status is SampleStatus.OK]
        self.count = len(good)
        if good and good[-1] >= self.count:
            self.pixels_BHWC[: self.count] = self.pixels_BHWC[good]


@dataclass
class _Filling(Generic[OwnerT, MarkT]):
    """A batch that is being filled."""

    batch: PictureBatch[OwnerT, MarkT]
    latch: Latch


@dataclass
class _Unit(Generic[OwnerT, MarkT]):
    """Some neighbouring files of one batch, for one thread."""

    filling: _Filling[OwnerT, MarkT]
    first: int
    files: list[bytes] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.files) >= _UNIT_PICTURES or self.num_bytes >= _UNIT_BYTES


_PENDING = DecodedImage(None, None, SampleStatus.OK, None, "", 0.0)


class Feeder(Generic[OwnerT, MarkT]):
    """Reads and decodes ahead for one `Crew`, whose block must iterate over `batches`.

    Memory is bounded however much there is to read: `READ_AHEAD_BYTES` of files and what the threads have in hand
    (2 MiB or one file each, and one whole picture); of pixels two batches and as many more as the threads work on; and
    two marks that stand before their owner's pictures.

    Args:
        crew: its threads are started here.
        source: read in a thread of its own; only as far ahead as is needed. It is closed there.
        reader: makes pixels of files.
        batch_size: rows of a batch. All are full but the last.
        threads: decoding threads; 0 for one per core. They change no result.
        max_pixels: pictures of more pixels are refused as `too_large`.
        buffer: returns pixels_BHWC for a number of rows; by default plain memory.
    """

    def __init__(
        self,
        crew: Crew,
        source: Source[OwnerT, MarkT],
        reader: Reader,
        *,
        batch_size: int,
        threads: int,
        max_pixels: int,
        buffer: Callable[[int], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.threads = num_threads(threads)
        self.decoded = Meter()  # pictures that wait for whoever takes the batches
        self._crew = crew
        self._reader = reader
        self._batch_size = batch_size
        self._max_pixels = max_pixels
        self._buffer = buffer or (lambda rows: np.zeros((rows, *reader.size, 3), np.uint8))
        self._free: list[NDArray[np.uint8]] = []
        self._ahead = max(2, -(-2 * self.threads * _UNIT_PICTURES // batch_size))
        self._filled: Pipe[_Filling[OwnerT, MarkT]] = crew.pipe(self._ahead)
        self._units: Pipe[_Unit[OwnerT, MarkT]] = crew.pipe(READ_AHEAD_BYTES)
        self._filling: _Filling[OwnerT, MarkT] | None = None  # these two are the reading thread's own
        self._unit: _Unit[OwnerT, MarkT] | None = None
        crew.start("read", lambda: self._read(source))
        for _ in range(self.threads):
            crew.start("decode", self._decode)

    @property
    def files(self) -> Meter:
        """Measures what waits to be decoded, in handfuls of up to eight files."""
        return self._units.meter

    def batches(self) -> Iterator[PictureBatch[OwnerT, MarkT]]:
        """Yield full batches, then the last; and empty ones, for marks that have no pictures of theirs to wait for.

        Raises:
            Ended: the crew has ended.
        """
        for filling in self._filled:
            batch = filling.batch
            self.decoded.wait(to_get=filling.latch.wait())
            self.decoded.change(-len(batch.images))
            batch.pack()
            yield batch

    def free(self, batch: PictureBatch[OwnerT, MarkT]) -> None:
        """Take a batch's pixels back: nobody looks at them any more."""
        if len(batch.pixels_BHWC):
            self._free.append(batch.pixels_BHWC)

    def _read(self, source: Source[OwnerT, MarkT]) -> None:
        with closing(source):  # it may hold a file open
            for owner, item in source:
                if isinstance(item, bytes):
                    self._add(owner, item)
                elif self._filling is not None and self._filling.batch.owners[-1] is owner:
                    self._filling.batch.marks.append((owner, item))
                else:
                    # A mark may be large: no more than two are held, where there are many small batches too.
                    self._filled.put(self._new_filling(0, (owner, item)), self._ahead // 2)
        self._send_batch()
        self._units.close()
        self._filled.close()

    def _add(self, owner: OwnerT, data: bytes) -> None:
        if self._filling is None:
            self._filling = self._new_filling(self._batch_size)
        batch = self._filling.batch
        if self._unit is None:
            self._unit = _Unit(self._filling, len(batch.owners))
        batch.owners.append(owner)
        batch.images.append(_PENDING)
        self._unit.files.append(data)
        self._unit.num_bytes += len(data)
        if self._unit.full or len(batch.owners) == self._batch_size:
            self._send_unit()
        if len(batch.owners) == self._batch_size:
            self._send_batch()

    def _new_filling(self, rows: int, *marks: tuple[OwnerT, MarkT]) -> _Filling[OwnerT, MarkT]:
        """Return a batch to be filled; one without rows is already."""
        if not rows:
            pixels_BHWC = np.empty((0, *self._reader.size, 3), np.uint8)
        else:
            pixels_BHWC = self._free.pop() if self._free else self._buffer(rows)
        filling = _Filling(PictureBatch(pixels_BHWC=pixels_BHWC, marks=list(marks)), self._crew.latch())
        if not rows:
            filling.latch.close()
        return filling

    def _send_unit(self) -> None:
        if self._unit is not None:
            unit, self._unit = self._unit, None
            unit.filling.latch.begin()
            self._units.put(unit, unit.num_bytes)

    def _send_batch(self) -> None:
        self._send_unit()
        if self._filling is not None:
            filling, self._filling = self._filling, None
            filling.latch.close()
            self._filled.put(filling)

    def _decode(self) -> None:
        permits = _permits(self.threads)
        for unit in self._units:
            batch = unit.filling.batch
            with permits:
                for row, data in enumerate(unit.files, unit.first):
                    batch.images[row] = self._decoded(data, batch.pixels_BHWC[row])
            self.decoded.change(len(unit.files))
            unit.filling.latch.done()

    def _decoded(self, data: bytes, into_HWC: NDArray[np.uint8]) -> DecodedImage:
        started = time.perf_counter()
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            picture = self._reader.read(data, max_pixels=self._max_pixels)
        except SampleError as error:
            width, height = error.size or (None, None)
            seconds = time.perf_counter() - started
            return DecodedImage(width, height, error.status, error.detail, sha256, seconds)
        into_HWC[:] = picture.pixels_HWC
        seconds = time.perf_counter() - started
        return DecodedImage(picture.width, picture.height, SampleStatus.OK, None, sha256, seconds, picture.lenient)


@lru_cache
def _permits(threads: int) -> threading.Semaphore:
    """Return what all feeders of the process with so many threads share: together they decode as many files at once."""
    return threading.Semaphore(threads)


def num_threads(threads: int) -> int:
    """Return how many threads decode: as many as asked for, or for 0 one per core."""
    return threads or os.cpu_count() or 1
