"""JPEGs decoded and resized by torchvision on a device, which on a GPU is nvJPEG, beside the product's own decoder.

Shapes: B batch, N pictures, H W pixels, C channels (3).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.figures import Figure
from benchmarks.pictures import photos
from benchmarks.rounds import seconds
from benchmarks.stages import decode
from clipdecoder.encoders.transforms import ImageTransform

SIZE = 224  # of the model
BATCH = 128
SIDES = {500: 375, 2000: 1500}


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Pictures of one size by both ways."""

    width: int
    processor: float  # images per second: the product's decoder, all cores
    device: float  # and torchvision's on the device, from bytes in memory to pixels there; 0 where it is not to be had
    greatest: int = 0  # difference of a value, of 255
    mean: float = 0.0
    problem: str = ""


def decode_on(device: torch.device, pictures: Sequence[bytes]) -> Tensor:
    """Return pixels_NHWC, uint8, on the device: short side resized to the model's, then the middle cut out."""
    batches = []
    for start in range(0, len(pictures), BATCH):
        files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in pictures[start : start + BATCH]]
        with warnings.catch_warnings():
            # Deprecated since torchvision 0.29 in favour of TorchCodec: said once here, and not for every batch.
            warnings.simplefilter("ignore", DeprecationWarning)
            # All files of a batch at once: that is what nvJPEG is fast at.
            decoded = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
        batches.append(torch.stack([_resized(one_CHW) for one_CHW in decoded]))
    return torch.cat(batches).permute(0, 2, 3, 1).contiguous()


def _resized(pixels_CHW: Tensor) -> Tensor:
    height, width = pixels_CHW.shape[1:]
    rows, columns = (SIZE, SIZE * width // height) if height <= width else (SIZE * height // width, SIZE)
    # In floats: PyTorch resizes integers on processors only.
    scaled_1CHW = F.interpolate(pixels_CHW[None].float(), (rows, columns), mode="bicubic", antialias=True)
    top, left = round((rows - SIZE) / 2.0), round((columns - SIZE) / 2.0)
    middle_CHW = scaled_1CHW[0, :, top : top + SIZE, left : left + SIZE]
    return middle_CHW.round().clamp(0, 255).to(torch.uint8)


def measure_decoding(device: torch.device, counts: dict[int, int]) -> list[Decoded]:
    """Measure both ways on some pictures of each width."""
    transform = ImageTransform(PreprocessCfg(size=SIZE), torch.device("cpu"))
    found = []
    for width, count in counts.items():
        pictures = list(photos(count, width, SIDES[width]))
        decode(pictures[:4], transform)  # warm up
        processor = count / seconds(lambda pictures=pictures: decode(pictures, transform))  # type: ignore[misc]
        try:
            pixels_NHWC = decode_on(device, pictures[:BATCH]).cpu().numpy()  # warm up
            rate = count / seconds(lambda pictures=pictures: decode_on(device, pictures).cpu())  # type: ignore[misc]
        except RuntimeError as error:  # a torchvision without it
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            found.append(Decoded(width=width, processor=processor, device=0.0, problem=problem))
            continue
        greatest, mean = apart(pixels_NHWC[:8], decode(pictures[:8], transform))
        found.append(Decoded(width=width, processor=processor, device=rate, greatest=greatest, mean=mean))
    return found


def apart(one_NHWC: NDArray[np.uint8], other_NHWC: NDArray[np.uint8]) -> tuple[int, float]:
    """Return the greatest and the mean difference of two sets of pixels."""
    difference_NHWC = np.abs(one_NHWC.astype(np.int16) - other_NHWC)
    return int(difference_NHWC.max()), float(difference_NHWC.mean())


def decoding_table(found: Sequence[Decoded]) -> Iterator[str]:
    """Yield the table."""
    yield "| picture | images per second, ours, all cores | torchvision on the device | largest difference | mean |"
    yield "|---|---:|---:|---:|---:|"
    for one in found:
        theirs = f"not to be had: {one.problem} | | " if one.problem else f"{one.device:,.0f} | {one.greatest} | "
        mean = "" if one.problem else f"{one.mean:.3f}"
        yield f"| {one.width}x{SIDES[one.width]} to {SIZE} | {one.processor:,.0f} | {theirs}{mean} |"


def decoding_figures(found: Sequence[Decoded], device: torch.device) -> Iterator[Figure]:
    """Yield how much faster the device is."""
    name = "nvJPEG" if device.type == "cuda" else "torchvision's decoder"
    for one in found:
        if not one.problem:
            yield Figure(
                name=f"{name} over our decoder, {one.width} px",
                value=one.device / one.processor,
                unit="times",
                basis=f"images per second, ours on all cores; up to {one.greatest} of 255 apart",
            )
