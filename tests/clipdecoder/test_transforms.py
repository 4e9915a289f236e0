"""The two halves together are open_clip's own transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipdecoder.transforms import ImageTransform
from schemas.errors import SampleError
from schemas.sample import SampleStatus

CPU = torch.device("cpu")
MAX_PIXELS = 10_000_000


def picture_of(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from([32, (32, 32), (24, 40), (40, 24)]),
    resize_mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill_color=st.sampled_from([0, 128]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_both_halves_equal_the_whole(
    size: int | tuple[int, int], resize_mode: str, interpolation: str, fill_color: int, width: int, height: int
) -> None:
    config = PreprocessCfg(
        size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        interpolation=interpolation,
        resize_mode=resize_mode,
        fill_color=fill_color,
    )
    transform, picture = ImageTransform(config, CPU), picture_of(width, height)
    try:
        pixels = transform.to_pixels(picture, max_pixels=MAX_PIXELS)
    except SampleError:
        # Thinner than 1 to 2 x 32: open_clip's own resize leaves no pixels.
        with pytest.raises(ValueError):
            image_transform_v2(config, is_train=False)(picture)
        return
    assert pixels.dtype == np.uint8 and pixels.shape == (*transform.size, 3)
    ours = transform.to_device_input(torch.from_numpy(pixels.copy())[None])[0]
    torch.testing.assert_close(ours, image_transform_v2(config, is_train=False)(picture), atol=1e-6, rtol=0)


def test_a_thin_picture_cannot_blow_up_the_resize() -> None:
    transform = ImageTransform(PreprocessCfg(size=224, resize_mode="shortest"), CPU)
    with pytest.raises(SampleError) as caught:
        transform.to_pixels(Image.new("RGB", (30_000, 2)), max_pixels=89_478_485)
    assert caught.value.status is SampleStatus.TOO_LARGE
    assert transform.to_pixels(Image.new("RGB", (3_000, 20)), max_pixels=89_478_485).shape == (224, 224, 3)


def test_a_picture_too_thin_to_leave_pixels_is_a_failure() -> None:
    transform = ImageTransform(PreprocessCfg(size=32, resize_mode="longest"), CPU)
    with pytest.raises(SampleError) as caught:
        transform.to_pixels(Image.new("RGB", (1, 500)), max_pixels=MAX_PIXELS)
    assert caught.value.status is SampleStatus.DECODE_ERROR


def test_equal_transforms_have_equal_descriptions() -> None:
    one = ImageTransform(PreprocessCfg(size=32, mean=(0.5, 0.5, 0.5)), CPU).describe()
    other = ImageTransform(PreprocessCfg(size=(32, 32), mean=[0.5, 0.5, 0.5]), CPU).describe()  # type: ignore[arg-type]
    assert one == other
    assert one != ImageTransform(PreprocessCfg(size=32, mean=(0.5, 0.5, 0.4)), CPU).describe()
