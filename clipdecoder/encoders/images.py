"""Image bytes to RGB pixels, as a person sees the picture; everything that can be wrong with them has a short code.

Decisions are taken once, here, and `DECODE_POLICY` names them: a change of any of them changes every `encoder_id`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from schemas.errors import SampleError
from schemas.sample import SampleStatus

# What these words mean, in the order in which it happens:
# - first frame of animated GIF, WebP and PNG, first page of TIFF;
# - one-channel pictures of more than 8 bits are scaled to 8, never clipped (see `_grey_to_eight_bits`);
# - whatever is transparent, palettes included, is laid over white;
# - CMYK (Adobe's inverted kind too), YCbCr, grey and bilevel become RGB by Pillow's own formulas, ICC profiles ignored;
# - the EXIF orientation is applied, and left alone where the EXIF block is damaged.
# - sizes and filters of resizing are the model's own, in integer arithmetic, at most 1/255 from Pillow's.
DECODE_POLICY = "rgb-2: first frame; 16 bit scaled; alpha over white; icc ignored; exif orientation; integer resize"
# What `fast` decoding does besides.
FAST_POLICY = "jpeg at 1/2, 1/4 or 1/8, no side below twice its resized length"

# Only what shards hold. Pillow knows some forty formats more; EPS, for one, starts an interpreter on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

BACKGROUND = (255, 255, 255, 255)

# What Pillow raises on damaged bytes: OSError, SyntaxError and ValueError where it looks, the others where it does
# not and a parser trips (fuzzed; Pillow's own plugins catch the same set in places). UserWarning: Pillow warns of
# damaged metadata, and a process that turns warnings into errors must not lose its run to that.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    UserWarning,
)

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Return the picture in `data`: RGB, 8 bits a channel, fully loaded, upright.

    Args:
        data: a whole image file in one of `FORMATS`.
        max_pixels: width x height above which the picture is refused on its header, before anything is decoded.

    Raises:
        SampleError: with status `empty`, `unsupported`, `truncated`, `too_large` or `decode_error`; nothing else,
            whatever the bytes are.
    """
    with damage_refused(data):
        return load_upright(open_image(data, max_pixels=max_pixels))


@contextmanager
def damage_refused(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises on damaged bytes, in the block, into a SampleError of the right status."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise SampleError(SampleStatus.TOO_LARGE, str(error)) from None
    except UnidentifiedImageError:
        raise _failure(data, "no reader takes its header") from None
    except DAMAGE as error:
        raise _failure(data, f"{type(error).__name__}: {error}") from None


def open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """Return the picture in `data` with its header read and no pixel decoded; use it inside `damage_refused`.

    Raises:
        SampleError: `empty`, or `too_large` on the header.
    """
    if not data:
        raise SampleError(SampleStatus.EMPTY, "the file has no bytes")
    # Pillow's own size check warns through the process-wide `warnings`, which no thread can silence for itself. It is
    # off: `_check_size` refuses at the caller's limit, before a pixel is decoded.
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(image.size, max_pixels)
    return image


def load_upright(image: Image.Image) -> Image.Image:
    """Decode an opened picture to RGB, 8 bits a channel, upright; use it inside `damage_refused`."""
    image.load()
    method = _TRANSPOSES.get(orientation_of(image))
    picture = _to_rgb(image)
    return picture if method is None else picture.transpose(method)


def orientation_of(image: Image.Image) -> int:
    """Return what the EXIF block says of how a picture is held, 1 to 8; 1, upright, where it is damaged.

    Not `ImageOps.exif_transpose`: it also writes the block anew, and fails with the picture where the block is damaged.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        return int(orientation) if orientation in _TRANSPOSES else 1
    except DAMAGE:
        return 1


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SampleError(
            SampleStatus.TOO_LARGE, f"{width}x{height} is {width * height} pixels, more than the limit of {max_pixels}"
        )
    if width * height == 0:
        raise SampleError(SampleStatus.DECODE_ERROR, f"{width}x{height} is a picture without pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey_to_eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, BACKGROUND), picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale one channel of 16-bit, 32-bit or float values to 0..255, rounded.

    The file does not state the range of its values, so it is read from them: 0..1 for floats, 0..65535 for integers,
    and where they leave that range, from the least to the greatest.
    """
    values_HW = np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    if values_HW.min() < low or values_HW.max() > high:
        low, high = float(values_HW.min()), float(values_HW.max())
    grey_HW = np.subtract(values_HW, low, dtype=np.float64)
    grey_HW *= 255 / ((high - low) or 1.0)
    return Image.fromarray(np.rint(grey_HW, out=grey_HW).astype(np.uint8))


def _failure(data: bytes, reason: str) -> SampleError:
    """Which failure it is: no picture at all, one that ends early, or one that is damaged in some other way."""
    name = next((name for name, begins in _SIGNATURES.items() if begins(data)), None)
    if name is None:
        return SampleError(SampleStatus.UNSUPPORTED, f"not a picture in any of the formats {', '.join(FORMATS)}")
    if "truncated" in reason.lower() or _CUT_SHORT[name](data):
        return SampleError(SampleStatus.TRUNCATED, f"a {name} file that ends early, after {len(data)} bytes: {reason}")
    return SampleError(SampleStatus.DECODE_ERROR, f"a damaged {name} file: {reason}")


def _is_bmp(data: bytes) -> bool:
    # Texts begin with the letters BM too: look for the size of a known kind of header behind them.
    return data.startswith(b"BM") and data[14:18] in _BMP_HEADER_SIZES


def _tiff_cut_short(data: bytes) -> bool:
    """Whether the table of contents, which TIFF files state the place of, is beyond the end."""
    return len(data) < 8 or int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") >= len(data)


_BMP_HEADER_SIZES = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: data.startswith(b"\xff\xd8"),
    "PNG": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
    "GIF": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "TIFF": lambda data: data.startswith(_TIFF_SIGNATURES),
    "BMP": _is_bmp,
}
# Asked of files that could not be read, and whose reader did not say why: is the end that the format asks for missing?
_CUT_SHORT: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: b"\xff\xd9" not in data,
    "PNG": lambda data: b"IEND" not in data,
    "WEBP": lambda data: len(data) < 8 + int.from_bytes(data[4:8], "little"),
    "GIF": lambda data: not data.endswith(b";"),
    "TIFF": _tiff_cut_short,
    "BMP": lambda data: len(data) < int.from_bytes(data[2:6], "little"),
}
