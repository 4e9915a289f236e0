"""A library's steps from a picture to the model's size, on arrays of 8 bits: same sizes, same filters, less time.

Shapes: H W pixels, C channels (3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import open_clip.transform
import timm.data.transforms
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, Resize

from schemas.errors import ModelError

# Filters that PyTorch has in integer arithmetic. Pillow's is more precise: each of the two passes differs by 1/255 here
# and there.
FILTERS = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.BILINEAR: "bilinear"}
# Where a picture is made smaller by less, single pixels get so much weight that the differences of both passes often
# meet: up to 2/255 in a few of a million values. Such pictures are small, and Pillow resizes them. From here on it was
# none in 15 million values of photographs, and one in a million where a JPEG is so coarse that its blocks show.
MIN_SHRINK = 1.6

_KEEP_RATIO = (open_clip.transform.ResizeKeepRatio, timm.data.transforms.ResizeKeepRatio)


class Turn(NamedTuple):
    """What brings a picture as it lies in a file upright: rows and columns change places, then are reversed."""

    swap: bool
    reverse_rows: bool
    reverse_columns: bool


# By EXIF orientation.
TURNS = {
    1: Turn(False, False, False),
    2: Turn(False, False, True),
    3: Turn(False, True, True),
    4: Turn(False, True, False),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}
UPRIGHT = TURNS[1]


class Stored(NamedTuple):
    """A picture as it lies in a file, and what it is like upright."""

    pixels_HWC: NDArray[np.uint8]  # writable
    turn: Turn  # done after the resize, on far fewer pixels
    width: int  # as a person sees it, in full
    height: int
    shrunk: int = 1  # `pixels_HWC` has this part of the full size, rounded up

    @property
    def full_rows(self) -> int:
        """Rows of the file."""
        return self.width if self.turn.swap else self.height

    @property
    def full_columns(self) -> int:
        """Columns of the file."""
        return self.height if self.turn.swap else self.width


class PixelSteps:
    """The steps of a library's transform that work on pictures: a resize, and what crops or pads after it."""

    def __init__(self, steps: Sequence[Any], size: tuple[int, int]) -> None:
        """Take the steps apart.

        Args:
            steps: of open_clip's or timm's evaluation transform, before the one that makes a tensor.
            size: height and width that they end in.

        Raises:
            ModelError: the first step is no resize that is known here.
        """
        self._resize, *self._crop_steps = steps
        if not isinstance(self._resize, (Resize, *_KEEP_RATIO)):
            raise ModelError(f"the library's transform does not begin with a resize as expected: {steps}")
        self.size = size

    def takes(self, height: int, width: int) -> bool:
        """Whether `apply` is within 1/255 of the library's steps, for an upright picture of this size."""
        rows, columns = self.scaled_size(height, width)
        small_enough = height >= MIN_SHRINK * rows and width >= MIN_SHRINK * columns
        return small_enough and self._resize.interpolation in FILTERS

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after the resize, before the crop, as the library rounds them."""
        wanted = self._resize.size
        if isinstance(self._resize, _KEEP_RATIO):
            ratios = height / wanted[0], width / wanted[1]
            # As the libraries write it: `longest` is 1 or 0 here.
            ratio = max(ratios) * self._resize.longest + min(ratios) * (1.0 - self._resize.longest)
            return round(height / ratio), round(width / ratio)
        if not isinstance(wanted, int):
            return wanted[0], wanted[1]
        if height <= width:
            return wanted, int(wanted * width / height)
        return int(wanted * height / width), wanted

    def shrink(self, height: int, width: int) -> int:
        """Return by how much a picture may be made smaller before the resize, so that twice its result is left."""
        rows, columns = self.scaled_size(height, width)
        return next((by for by in (8, 4, 2) if height >= 2 * by * rows and width >= 2 * by * columns), 1)

    def apply(self, stored: Stored) -> NDArray[np.uint8]:
        """Return pixels_HWC of the model's size, contiguous: what the steps make of a picture that is taken."""
        return np.ascontiguousarray(self._crop(_upright(self._resized(stored), stored.turn)))

    def _resized(self, stored: Stored) -> NDArray[np.uint8]:
        scaled = self.scaled_size(stored.height, stored.width)
        rows_first = _height_first((stored.height, stored.width), scaled) != stored.turn.swap
        rows, columns = scaled[::-1] if stored.turn.swap else scaled
        factors = stored.shrunk * rows / stored.full_rows, stored.shrunk * columns / stored.full_columns
        mode = FILTERS[self._resize.interpolation]
        pixels_HWC = stored.pixels_HWC
        if rows_first:
            pixels_HWC = _interpolated(pixels_HWC, (factors[0], 1.0), mode)
            factors = 1.0, factors[1]
        return _interpolated(pixels_HWC, factors, mode)

    def _crop(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = self.size
        more_rows, more_columns = pixels_HWC.shape[0] - height, pixels_HWC.shape[1] - width
        if more_rows < 0 or more_columns < 0:  # to be padded, each library in its own way
            image = Image.fromarray(pixels_HWC)
            for step in self._crop_steps:
                image = step(image)
            return np.asarray(image)
        # As both libraries round it.
        top, left = round(more_rows / 2.0), round(more_columns / 2.0)
        return pixels_HWC[top : top + height, left : left + width]


def _height_first(size: tuple[int, int], scaled: tuple[int, int]) -> bool:
    """Whether an upright picture is resized along its height and then along its width, or the other way round.

    It matters: what leaves 0..255 in between is cut off, as much as 17/255 on noise. This is Pillow's rule since its
    version 13; before, the width was always first.
    """
    less_height, less_width = size[0] - scaled[0], size[1] - scaled[1]
    return less_height > max(0, 2 * less_width)


def _interpolated(pixels_HWC: NDArray[np.uint8], factors: tuple[float, float], mode: str) -> NDArray[np.uint8]:
    """Resize by a factor for rows and columns, with antialiasing, columns first.

    Channels stay last, which is what PyTorch's fast kernel asks for. It takes the whole part of size times factor: let
    that be no less than meant.
    """
    x_1CHW = torch.from_numpy(pixels_HWC[None]).permute(0, 3, 1, 2)
    factor = [value * (1 + 1e-9) for value in factors]
    resized_1CHW = F.interpolate(x_1CHW, scale_factor=factor, mode=mode, antialias=True, align_corners=False)
    return resized_1CHW[0].permute(1, 2, 0).numpy()


def _upright(pixels_HWC: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    if turn.swap:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if turn.reverse_rows:
        pixels_HWC = pixels_HWC[::-1]
    if turn.reverse_columns:
        pixels_HWC = pixels_HWC[:, ::-1]
    return pixels_HWC
