"""Batches of pixels to what a run keeps of them: embeddings, the scores worth keeping, patch tokens where wanted.

Shapes: B batch, H W pixels, C channels of a picture or numbers in a token, D embedding width, T patch tokens, K labels,
N stored samples.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdecoder.encoders.encoded import DeviceEncoded
from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.transforms import ImageTransform
from clipdecoder.scoring.scores import KeptScores, VocabularyScorer, keep_scores, sorted_by_label, tensor_of
from clipdecoder.scoring.selection import kept_cells
from schemas.errors import RunError

# On a CPU matrix products of a multiple of this many pictures give each picture the same bits (measured with MKL on
# AVX2, with MKL and oneDNN on AVX-512), and so do those of 1, of 2 and of 4, each among themselves; of other counts the
# last few are rounded otherwise.
# `cosine.TILE` is the same of products whose rows are single vectors; here most have as many rows a picture as it has
# patches, and filling up to more would cost a small run its speed.
ROWS_AT_ONCE = 8
_WAITING = "waiting"  # no stage: the device had nothing to do for the batch


@dataclass(frozen=True, kw_only=True)
class TaggedBatch:
    """What came of one batch of `count` pictures. A row that failed is NaN throughout and has no scores."""

    embeddings_BD: NDArray[np.float16]  # L2-normalised, then rounded
    tokens_BTC: NDArray[np.float16] | None  # where they are wanted back
    kept: KeptScores | None  # `sample` is the row in the batch; None where nothing is scored
    seconds: Mapping[str, float]  # that the device was busy with it, by stage: `encode`, `score`


class StartedBatch:
    """A batch on its way through the device."""

    def __init__(self, tagger: BatchTagger, encoded: DeviceEncoded, logits_BK: Tensor | None, lane: _Lane) -> None:
        self._tagger = tagger
        self._encoded = encoded
        self._logits_BK = logits_BK
        self._lane = lane

    def finish(self) -> TaggedBatch:
        """Wait for the batch and return it.

        Raises:
            RunError: the device has no memory to choose among so many scores.
        """
        with self._lane.resume(), _memory_for(len(self._encoded.embeddings_BD)):
            self._lane.mark(_WAITING)
            tokens = self._encoded.tokens_BTC if self._tagger.wants_tokens else None
            kept = self._tagger.keep(self._logits_BK) if self._logits_BK is not None else None
            self._lane.mark("score")
            return TaggedBatch(
                embeddings_BD=self._encoded.embeddings_BD.cpu().numpy(),
                tokens_BTC=None if tokens is None else tokens.cpu().numpy(),
                kept=kept,
                seconds=self._lane.seconds(),
            )


class BatchTagger:
    """An encoder and, where scores are wanted, a vocabulary. One per run and device; several threads may share it.

    Scores are computed from the rounded embeddings and tokens, so those of fresh and of stored features are the same.
    On a GPU each batch under way has a stream of its own: while one is computed another is copied, and what is kept of
    a third comes back. What is not kept stays there. Batches are computed one after the other: two that share the
    device end no sooner, and neither's seconds would be its own.

    Args:
        encoder: makes embeddings, and patch tokens where they are looked at or wanted back.
        scorer: the vocabulary; None where only features are wanted.
        floor: lowest score kept for any sample.
        top_k: labels kept per sample whatever their score.
        tokens: whether patch tokens are wanted back, to be stored.
    """

    def __init__(
        self, encoder: ImageEncoder, scorer: VocabularyScorer | None, *, floor: float, top_k: int, tokens: bool
    ) -> None:
        self.transform: ImageTransform = encoder.transform
        self.encoder = encoder
        self.wants_tokens = tokens
        self._scorer = scorer
        self._floor = floor
        self._top_k = top_k
        self._lanes = _lanes(encoder.device)
        self._lock = threading.Lock()
        self._last_end: Any = None  # of what was begun last, where the device works by itself
        if encoder.device.type == "cuda":
            # What is made once, for all streams, must be whole before another stream looks at it: first what was made
            # until now, such as weights, then what the first batch makes.
            torch.cuda.synchronize(encoder.device)
            self.start(self.buffer(1), 1).finish()
            torch.cuda.synchronize(encoder.device)

    def buffer(self, rows: int) -> NDArray[np.uint8]:
        """Return zeroed pixels_BHWC that `start` can send without another copy, of so many rows or a few more.

        Decoding threads fill it.
        """
        pinned = self.encoder.device.type == "cuda"
        return torch.zeros(_round(rows), *self.transform.size, 3, dtype=torch.uint8, pin_memory=pinned).numpy()

    def start(
        self, pixels_BHWC: NDArray[np.uint8], count: int, *, stored_BD: NDArray[np.float16] | None = None
    ) -> StartedBatch:
        """Copy a batch to the device and begin it; returns without waiting where the device works by itself.

        Args:
            pixels_BHWC: one of `buffer`, for the run's batch size; it must not be touched before `finish`.
            count: how many of its first rows are pictures. As many of the others go along as it takes for a picture
                to have the same bits whatever is beside it; what comes back has `count` rows.
            stored_BD: embeddings that the store has of some of these `count` pictures, NaN for the others. They count
                instead of those made now, which another batch size or device may have rounded otherwise.

        Raises:
            RunError: the device has no memory for a single picture, or for the scores of so many.
            ModelError: patch tokens are wanted and the tower has none.
        """
        with self._lock:
            stream = next(self._lanes)
        lane = _Lane(stream)
        with lane.resume(), torch.inference_mode(), _memory_for(count):
            rows = torch.from_numpy(pixels_BHWC[: _rows(count, len(pixels_BHWC))])
            pixels = rows.to(self.encoder.device, non_blocking=True)
            lane.follow(self._last_end)
            lane.mark(_WAITING)
            look = self.wants_tokens or (self._scorer is not None and self._scorer.needs_tokens)
            made = self.encoder.device_encode(pixels, tokens=look)
            encoded = DeviceEncoded(
                self._with_stored(made.embeddings_BD[:count], stored_BD),
                None if made.tokens_BTC is None else made.tokens_BTC[:count],
            )
            lane.mark("encode")
            # A row that failed is NaN, so are its logits, and none of them is kept.
            logits_BK = self._scorer.device_logits(*encoded) if self._scorer is not None else None
            self._last_end = lane.mark("score")
            return StartedBatch(self, encoded, logits_BK, lane)

    def score(self, embeddings_ND: NDArray[np.float16], tokens_NTC: NDArray[np.float16] | None) -> KeptScores:
        """Return the scores to keep of stored features: the same numbers as `start` gives of their pictures."""
        assert self._scorer is not None
        return keep_scores(embeddings_ND, tokens_NTC, self._scorer, floor=self._floor, top_k=self._top_k)

    def keep(self, logits_BK: Tensor) -> KeptScores:
        """Return the scores to keep of a batch; `sample` is the row."""
        assert self._scorer is not None
        return sorted_by_label([kept_cells(logits_BK, self._scorer.maps, self._floor, self._top_k)])

    def _with_stored(self, made_BD: Tensor, stored_BD: NDArray[np.float16] | None) -> Tensor:
        if stored_BD is None:
            return made_BD
        stored = tensor_of(stored_BD, self.encoder.device)
        return torch.where(made_BD.isfinite() & stored.isfinite(), stored, made_BD)


def _rows(count: int, rows: int) -> int:
    """Return how many rows of a buffer are computed: all of a small one, or those of the pictures, rounded up."""
    return rows if rows < ROWS_AT_ONCE else -(-count // ROWS_AT_ONCE) * ROWS_AT_ONCE


def _round(rows: int) -> int:
    """Return as many rows or a few more: a number with which no picture is rounded otherwise than another."""
    return 1 << (rows - 1).bit_length() if rows < ROWS_AT_ONCE else -(-rows // ROWS_AT_ONCE) * ROWS_AT_ONCE


def _lanes(device: torch.device) -> Iterator[Any]:
    """Return streams by turns, as many as batches are usefully under way; on a processor None."""
    if device.type != "cuda":
        return cycle([None])
    return cycle([torch.cuda.Stream(device), torch.cuda.Stream(device)])  # type: ignore[no-untyped-call]


@contextmanager
def _memory_for(count: int) -> Iterator[None]:
    """Say what to do where the device's memory ends outside of the encoder, which helps itself."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the device has no memory for {count} pictures and their scores at once ({error}); use a smaller "
            "--batch-size, or --device cpu"
        ) from error


class _Lane:
    """The stream of one batch, and when its stages ended: by the device's clock where it has one."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._marks: list[tuple[str, Any]] = []

    def resume(self) -> AbstractContextManager[Any]:
        """Return the context in which whatever is launched belongs to this batch."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def follow(self, end: Any) -> None:
        """Let the device do what is launched from now on only after another batch's mark, if there is one."""
        if self._stream is not None and end is not None:
            self._stream.wait_event(end)

    def mark(self, stage: str) -> Any:
        """Note that a stage ends here, and return when: an event of the device, or seconds."""
        end: Any = time.perf_counter()
        if self._stream is not None:
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end.record(self._stream)
        self._marks.append((stage, end))
        return end

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage; they have to be over."""
        if self._stream is not None:
            self._stream.synchronize()
        seconds: dict[str, float] = {}
        for (_, start), (stage, end) in pairwise(self._marks):
            if stage != _WAITING:
                passed = end - start if self._stream is None else start.elapsed_time(end) / 1000
                seconds[stage] = seconds.get(stage, 0.0) + passed
        return seconds
