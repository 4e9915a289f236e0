"""The model's own preprocessing, exactly, in two halves: resize and crop on the CPU, arithmetic on the device.

Shapes: B batch, H W pixels of the model's input, C channels (3).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import Normalize, ToTensor

from schemas.errors import ModelError, SampleError
from schemas.sample import SampleStatus

# What timm's crop modes do before they crop, in open_clip's words.
_RESIZE_MODES = {"center": "shortest", "border": "longest", "squash": "squash"}
_INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")


@dataclass(frozen=True, kw_only=True)
class TimmPreprocess:
    """What timm calls a data config: all that its evaluation transform depends on."""

    size: tuple[int, int]  # height, width of the model's input
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float  # the picture is scaled to size / crop_pct, then cropped to size
    crop_mode: str

    def __post_init__(self) -> None:
        if self.crop_mode not in _RESIZE_MODES:  # timm takes any other word for "center"
            raise ModelError(f"unknown crop_mode {self.crop_mode!r}; known: {', '.join(sorted(_RESIZE_MODES))}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ModelError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(_INTERPOLATIONS)}")
        if not (0 < self.crop_pct <= 1 and min(self.size) > 0 and all(value > 0 for value in self.std)):
            raise ModelError(f"crop_pct lies in (0, 1], size and std are above 0; got {self}")


class ImageTransform:
    """The inference transform of one open_clip `PreprocessCfg` or one timm data config.

    `to_device_input(to_pixels(image))` equals open_clip's `image_transform_v2(config, is_train=False)(image)`, or
    timm's `create_transform(**data_config)(image)`; between the two halves a picture is uint8, a quarter of the bytes
    to keep and to copy.
    """

    def __init__(self, config: PreprocessCfg | TimmPreprocess, device: torch.device) -> None:
        steps = _timm_steps(config) if isinstance(config, TimmPreprocess) else _open_clip_steps(config)
        *self._picture_steps, to_tensor, normalize = steps
        if not isinstance(to_tensor, ToTensor) or not isinstance(normalize, Normalize):
            raise ModelError(f"the library's transform does not end in ToTensor and Normalize as expected: {steps}")
        self.config = config
        self.size: tuple[int, int] = _height_and_width(config.size)
        self._resize_mode, self._scaled_size = _scaling(config, self.size)
        self._mean_C11 = _per_channel(normalize.mean, device)
        self._std_C11 = _per_channel(normalize.std, device)

    def to_pixels(self, image: Image.Image, *, max_pixels: int) -> NDArray[np.uint8]:
        """Return pixels_HWC, uint8: an RGB picture resized, cropped or padded to the model's size.

        Raises:
            SampleError: `too_large` where a very thin picture would be scaled to more than `max_pixels` before it is
                cropped, `decode_error` where nothing of it would be left.
        """
        self._check_scaled_size(image.size, max_pixels)
        for step in self._picture_steps:
            image = step(image)
        return np.asarray(image, dtype=np.uint8)

    def to_device_input(self, pixels_BHWC: Tensor) -> Tensor:
        """Return x_BCHW, float32, from uint8 pixels on the device."""
        x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return x_BCHW.div_(255).sub_(self._mean_C11).div_(self._std_C11)

    def describe(self) -> dict[str, Any]:
        """Return every parameter in plain JSON types, equal for equal transforms: what an id is made of."""
        values = asdict(self.config)
        values |= {"size": list(self.size), "mean": [float(x) for x in self.config.mean]}
        return values | {"std": [float(x) for x in self.config.std]}

    def _check_scaled_size(self, size: tuple[int, int], max_pixels: int) -> None:
        """Refuse what the resize before the crop would blow up, or make vanish."""
        width, height = size
        ratios = height / self._scaled_size[0], width / self._scaled_size[1]
        if self._resize_mode == "shortest" and width * height / min(ratios) ** 2 > max_pixels:
            detail = f"a picture as thin as {width}x{height}, scaled to the model's size, exceeds {max_pixels} pixels"
            raise SampleError(SampleStatus.TOO_LARGE, detail)
        if self._resize_mode == "longest" and min(round(height / max(ratios)), round(width / max(ratios))) == 0:
            detail = f"nothing is left of a picture as thin as {width}x{height} at the model's size"
            raise SampleError(SampleStatus.DECODE_ERROR, detail)


def _open_clip_steps(config: PreprocessCfg) -> list[Any]:
    return list(image_transform_v2(config, is_train=False).transforms)


def _timm_steps(config: TimmPreprocess) -> list[Any]:
    values = asdict(config)
    transform = create_transform(input_size=(3, *values.pop("size")), is_training=False, **values)
    return list(transform.transforms)


def _scaling(config: PreprocessCfg | TimmPreprocess, size: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """Return how pictures are resized before they are cropped, and to which height and width."""
    if not isinstance(config, TimmPreprocess):
        return config.resize_mode, size
    height, width = (math.floor(pixels / config.crop_pct) for pixels in size)
    return _RESIZE_MODES[config.crop_mode], (height, width)


def _per_channel(values: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).to(device).view(-1, 1, 1)


def _height_and_width(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
