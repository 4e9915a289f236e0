"""The two halves together are the library's own transform."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data import create_transform

from clipdecoder.encoders.transforms import ImageTransform, TimmPreprocess
from schemas.errors import ModelError, SampleError
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


def timm_config(**values: Any) -> TimmPreprocess:
    defaults = {"size": (32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic"}
    return TimmPreprocess(**defaults | {"crop_pct": 0.875, "crop_mode": "center"} | values)


@settings(max_examples=80, deadline=None)
@given(
    size=st.sampled_from([(32, 32), (24, 40)]),
    crop_mode=st.sampled_from(["center", "border", "squash"]),
    crop_pct=st.sampled_from([0.5, 0.875, 1.0]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "nearest", "lanczos"]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
)
def test_both_halves_equal_timms_whole(
    size: tuple[int, int], crop_mode: str, crop_pct: float, interpolation: str, width: int, height: int
) -> None:
    config = timm_config(size=size, crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation)
    transform, picture = ImageTransform(config, CPU), picture_of(width, height)
    whole = create_transform(**_data_config(config))
    try:
        pixels = transform.to_pixels(picture, max_pixels=MAX_PIXELS)
    except SampleError:
        with pytest.raises(ValueError):
            whole(picture)
        return
    assert pixels.dtype == np.uint8 and pixels.shape == (*size, 3)
    ours = transform.to_device_input(torch.from_numpy(pixels.copy())[None])[0]
    torch.testing.assert_close(ours, whole(picture), atol=1e-6, rtol=0)


def _data_config(config: TimmPreprocess) -> dict[str, Any]:
    """The same as timm has it."""
    values = asdict(config)
    return {"input_size": (3, *values.pop("size"))} | values


def test_a_thin_picture_is_measured_at_the_scale_before_the_crop() -> None:
    picture = Image.new("RGB", (600, 20))
    limit = 32 * 32 * 30
    assert ImageTransform(timm_config(crop_pct=1.0), CPU).to_pixels(picture, max_pixels=limit).shape == (32, 32, 3)
    with pytest.raises(SampleError, match="too_large"):
        ImageTransform(timm_config(crop_pct=0.5), CPU).to_pixels(picture, max_pixels=limit)


@pytest.mark.parametrize(
    "wrong",
    [{"crop_mode": "centre"}, {"interpolation": "random"}, {"crop_pct": 0.0}, {"crop_pct": 1.2}, {"std": (0.0,)}],
)
def test_a_data_config_that_timm_would_read_otherwise_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=str(next(iter(wrong)))):
        timm_config(**wrong)


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
    assert ImageTransform(timm_config(), CPU).describe() == ImageTransform(timm_config(size=[32, 32]), CPU).describe()
    assert ImageTransform(timm_config(), CPU).describe() != ImageTransform(timm_config(crop_pct=0.9), CPU).describe()
