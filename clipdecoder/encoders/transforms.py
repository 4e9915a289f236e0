"""The model's own preprocessing in two halves: from a file to 8 bits on the CPU, arithmetic on the device.

Shapes: B batch, H W pixels of the model's input, C channels (3).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import Normalize, ToTensor

from clipdecoder.encoders.images import (
    DECODE_POLICY,
    FAST_POLICY,
    damage_refused,
    load_upright,
    open_image,
    orientation_of,
)
from clipdecoder.encoders.jpeg import decode_jpeg, is_plain_jpeg
from clipdecoder.encoders.resizing import TURNS, UPRIGHT, PixelSteps, Stored
from schemas.decoding import Decode
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


class Picture(NamedTuple):
    """A picture as the model takes it, and its size as a person sees it."""

    pixels_HWC: NDArray[np.uint8]  # C-contiguous
    width: int
    height: int
    lenient: bool = False  # a JPEG that the strict decoder refused, as it is not sound to the last byte


class ImageTransform:
    """The inference transform of one open_clip `PreprocessCfg` or one timm data config.

    `to_device_input(to_pixels(image))` equals open_clip's `image_transform_v2(config, is_train=False)(image)`, or
    timm's `create_transform(**data_config)(image)`; between the two halves a picture is uint8, a quarter of the bytes
    to keep and to copy. `read` makes the same of a file in a fraction of the time, at most 1/255 from it anywhere.
    """

    def __init__(self, config: PreprocessCfg | TimmPreprocess, device: torch.device, decode: Decode = "exact") -> None:
        steps = _timm_steps(config) if isinstance(config, TimmPreprocess) else _open_clip_steps(config)
        *self._picture_steps, to_tensor, normalize = steps
        if not isinstance(to_tensor, ToTensor) or not isinstance(normalize, Normalize):
            raise ModelError(f"the library's transform does not end in ToTensor and Normalize as expected: {steps}")
        self.config = config
        self.decode = decode
        self.size: tuple[int, int] = _height_and_width(config.size)
        self._resize_mode, self._scaled_size = _scaling(config, self.size)
        self._pixel_steps = PixelSteps(self._picture_steps, self.size)
        self._mean_C11 = _per_channel(normalize.mean, device)
        self._std_C11 = _per_channel(normalize.std, device)

    def read(self, data: bytes, *, max_pixels: int) -> Picture:
        """Return the picture in a file, at the model's size: within 1/255 of the library's transform of it.

        Called in threads: decoding and resizing release the lock, and use no further threads.

        Args:
            data: a whole image file.
            max_pixels: pictures of more pixels are refused, and thin ones that would be scaled to more.

        Raises:
            SampleError: as `decode_image` and `to_pixels`; nothing else. It carries the size where the picture could be
                decoded.
        """
        decoded, lenient = self._decode(data, max_pixels)
        if isinstance(decoded, Image.Image):
            if not self._pixel_steps.takes(decoded.height, decoded.width):
                return Picture(self.to_pixels(decoded, max_pixels=max_pixels), *decoded.size)
            decoded = Stored(np.array(decoded), UPRIGHT, *decoded.size)
        self._check_scaled_size((decoded.width, decoded.height), max_pixels)
        return Picture(self._pixel_steps.apply(decoded), decoded.width, decoded.height, lenient)

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

    @property
    def decode_policy(self) -> str:
        """All that decides pixels apart from `describe`, in words: what an id is made of."""
        return DECODE_POLICY if self.decode == "exact" else f"{DECODE_POLICY}; {FAST_POLICY}"

    def describe(self) -> dict[str, Any]:
        """Return every parameter in plain JSON types, equal for equal transforms: what an id is made of."""
        values = asdict(self.config)
        values |= {"size": list(self.size), "mean": [float(x) for x in self.config.mean]}
        return values | {"std": [float(x) for x in self.config.std]}

    def _decode(self, data: bytes, max_pixels: int) -> tuple[Stored | Image.Image, bool]:
        """Return the picture, and whether it is Pillow's because the strict decoder refused it."""
        with damage_refused(data):
            opened = open_image(data, max_pixels=max_pixels)
            if not self._takes_plainly(opened):
                return load_upright(opened), False
            stored = self._decode_plain_jpeg(data, opened)
            return (load_upright(opened), True) if stored is None else (stored, False)

    def _takes_plainly(self, opened: Image.Image) -> bool:
        """Whether a picture is for libjpeg-turbo; any other is for Pillow."""
        if not is_plain_jpeg(opened):
            return False
        width, height = _turned_size(opened)
        return self._pixel_steps.takes(height, width)

    def _decode_plain_jpeg(self, data: bytes, opened: Image.Image) -> Stored | None:
        """Return what libjpeg-turbo makes of it, or None where it refuses."""
        width, height = _turned_size(opened)
        shrink = self._pixel_steps.shrink(height, width) if self.decode == "fast" else 1
        pixels_HWC = decode_jpeg(data, opened.size, shrink=shrink)
        turn = TURNS[orientation_of(opened)]
        return None if pixels_HWC is None else Stored(pixels_HWC, turn, width, height, shrink)

    def _check_scaled_size(self, size: tuple[int, int], max_pixels: int) -> None:
        """Refuse what the resize before the crop would blow up, or make vanish."""
        width, height = size
        ratios = height / self._scaled_size[0], width / self._scaled_size[1]
        if self._resize_mode == "shortest" and width * height / min(ratios) ** 2 > max_pixels:
            detail = f"a picture as thin as {width}x{height}, scaled to the model's size, exceeds {max_pixels} pixels"
            raise SampleError(SampleStatus.TOO_LARGE, detail, size)
        if self._resize_mode == "longest" and min(round(height / max(ratios)), round(width / max(ratios))) == 0:
            detail = f"nothing is left of a picture as thin as {width}x{height} at the model's size"
            raise SampleError(SampleStatus.DECODE_ERROR, detail, size)


def _turned_size(opened: Image.Image) -> tuple[int, int]:
    """Return width and height as a person sees the picture."""
    width, height = opened.size
    return (height, width) if TURNS[orientation_of(opened)].swap else (width, height)


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
