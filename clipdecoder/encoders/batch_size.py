"""How many pictures at once a device takes best: found by trying, on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from clipdecoder.encoders.encoder import ImageEncoder

SMALLEST, LARGEST = 32, 2048
_WORTH_IT = 1.03  # a doubling that gains less only makes batches late, and takes memory
_CPU_PIXELS = 16 * 224 * 224  # activations of about so many pixels are fastest on a processor
_SECONDS = 0.3  # each size is tried for


def find_batch_size(encoder: ImageEncoder) -> int:
    """Return how many pictures at once to give the encoder: a multiple of 8.

    On a GPU sizes are doubled until pictures per second hardly grow any more, or its memory ends: some seconds. On a
    processor it follows from the model's size.
    """
    height, width = encoder.transform.size
    if encoder.device.type != "cuda":
        return max(8, min(64, _CPU_PIXELS // (height * width) // 8 * 8))
    size = largest_that_pays(lambda size: _rate(encoder, size))
    torch.cuda.empty_cache()
    return size


def largest_that_pays(rate: Callable[[int], float]) -> int:
    """Return the size, from `SMALLEST` doubled up to `LARGEST`, beyond which the rate hardly grows.

    Args:
        rate: pictures per second at a size; 0 where the memory is too small for so many.
    """
    size, best = SMALLEST, rate(SMALLEST)
    while size < LARGEST and (faster := rate(2 * size)) > _WORTH_IT * best:
        size, best = 2 * size, faster
    return size


def _rate(encoder: ImageEncoder, size: int) -> float:
    """Return pictures per second; 0 where the memory is too small for so many."""
    pixels_BHWC = torch.zeros(size, *encoder.transform.size, 3, dtype=torch.uint8, device=encoder.device)
    if not encoder.takes(pixels_BHWC):
        return 0.0
    torch.cuda.synchronize(encoder.device)
    started, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < _SECONDS:
        encoder.device_encode(pixels_BHWC, tokens=False)
        torch.cuda.synchronize(encoder.device)
        done += size
    return done / passed
