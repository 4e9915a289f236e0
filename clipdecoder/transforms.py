"""The model's own preprocessing, exactly, in two halves: resize and crop on the CPU, arithmetic on the device.

Shapes: B batch, H W pixels of the model's input, C channels (3).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize

from schemas.errors import ModelError, SampleError
from schemas.sample import SampleStatus


class ImageTransform:
    """open_clip's inference transform of one `PreprocessCfg`.

    `to_device_input(to_pixels(image))` equals `image_transform_v2(config, is_train=False)(image)`; between the two
    halves a picture is uint8, a quarter of the bytes to keep and to copy.
    """

    def __init__(self, config: PreprocessCfg, device: torch.device) -> None:
        steps = image_transform_v2(config, is_train=False).transforms
        *self._picture_steps, to_tensor, normalize = steps
        if not isinstance(to_tensor, MaybeToTensor) or not isinstance(normalize, Normalize):
            raise ModelError(f"open_clip's transform does not end in ToTensor and Normalize as expected: {steps}")
        self.config = config
        self.size: tuple[int, int] = _height_and_width(config.size)
        self._mean_C11 = torch.tensor(normalize.mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._std_C11 = torch.tensor(normalize.std, dtype=torch.float32, device=device).view(-1, 1, 1)

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
        ratios = height / self.size[0], width / self.size[1]
        if self.config.resize_mode == "shortest" and width * height / min(ratios) ** 2 > max_pixels:
            detail = f"a picture as thin as {width}x{height}, scaled to the model's size, exceeds {max_pixels} pixels"
            raise SampleError(SampleStatus.TOO_LARGE, detail)
        if self.config.resize_mode == "longest" and min(round(height / max(ratios)), round(width / max(ratios))) == 0:
            detail = f"nothing is left of a picture as thin as {width}x{height} at the model's size"
            raise SampleError(SampleStatus.DECODE_ERROR, detail)


def _height_and_width(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)
