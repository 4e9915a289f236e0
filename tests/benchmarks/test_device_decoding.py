"""The decoder that a GPU is measured with makes the pictures that the product makes: here without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg

from benchmarks.device_decoding import (
    SIZE,
    Decoded,
    apart,
    decode_on,
    decoding_figures,
    decoding_table,
    measure_decoding,
)
from benchmarks.pictures import photo
from clipdecoder.encoders.transforms import ImageTransform
from schemas.config import MAX_PIXELS

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (448, 448)])
def test_it_makes_the_same_pictures(size: tuple[int, int]) -> None:
    files = [photo(*size, seed) for seed in range(2)]
    transform = ImageTransform(PreprocessCfg(size=SIZE), CPU)
    ours = np.stack([transform.read(data, max_pixels=MAX_PIXELS).pixels_HWC for data in files])
    found = decode_on(CPU, files).numpy()
    assert found.shape == ours.shape and found.dtype == np.uint8
    greatest, mean = apart(found, ours)
    # Ours rounds between the two passes of the resize, as Pillow does.
    assert greatest <= 2 and mean < 0.3


def test_both_are_measured_and_shown() -> None:
    found = measure_decoding(CPU, {500: 4})
    table, [figure] = list(decoding_table(found)), decoding_figures(found, CPU)
    assert len({line.count("|") for line in table}) == 1 and "500x375 to 224" in table[-1]
    assert figure.value > 0 and figure.name == "torchvision's decoder over our decoder, 500 px"
    missing = [Decoded(width=500, processor=1.0, device=0.0, problem="RuntimeError: no nvJPEG")]
    assert "not to be had: RuntimeError: no nvJPEG" in list(decoding_table(missing))[-1]
    assert list(decoding_table(missing))[-1].count("|") == table[0].count("|")
    assert not list(decoding_figures(missing, CPU))
