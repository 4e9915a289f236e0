"""Every kind of picture comes out as a person sees it; every kind of damage has its code, and nothing else escapes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from clipdecoder.encoders.images import DECODE_POLICY, decode_image
from schemas.errors import SampleError
from schemas.sample import SampleStatus

MAX_PIXELS = 1_000_000


def as_file(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    image = decode_image(data, max_pixels=MAX_PIXELS)
    assert image.mode == "RGB"
    return np.asarray(image)


def status_of(data: bytes, max_pixels: int = MAX_PIXELS) -> SampleStatus:
    with pytest.raises(SampleError) as caught:
        decode_image(data, max_pixels=max_pixels)
    assert caught.value.detail
    return caught.value.status


def smooth(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 2)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_lossless_formats_give_the_saved_pixels(format: str, options: dict[str, Any]) -> None:
    assert np.array_equal(pixels_of(as_file(smooth(), format, **options)), np.asarray(smooth()))


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 95, "progressive": True}])
def test_jpeg_is_what_pillow_decodes(options: dict[str, Any]) -> None:
    data = as_file(smooth(), "JPEG", **options)
    assert np.array_equal(pixels_of(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    # Top left black, the rest white: where black ends up is what the orientation decides.
    picture = Image.new("L", (32, 16), 255)
    picture.paste(0, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = pixels_of(as_file(picture.convert("RGB"), format, exif=exif))
    assert pixels.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    height, width = pixels.shape[:2]
    corners = {
        (row, column): pixels[height * (1 + 2 * row) // 4, width * (1 + 2 * column) // 4, 0] < 128
        for row in (0, 1)
        for column in (0, 1)
    }
    expected = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert [corner for corner, black in corners.items() if black] == [expected]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = as_file(smooth(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\xff\xff\xff\xff\xff\xff")
    assert np.array_equal(pixels_of(data), np.asarray(smooth()))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 1] = (200, 0, 0, 128)
    rgba[:, 2] = (0, 0, 200, 255)
    half = (227, 127, 127)
    for format in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        pixels = pixels_of(as_file(Image.fromarray(rgba), format, **options))
        assert pixels[0].tolist() == [[255, 255, 255], list(half), [0, 0, 200]]


def test_transparent_palettes_and_colour_keys_are_laid_over_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        assert pixels_of(as_file(palette, format, transparency=0))[0].tolist() == [[255] * 3, [10, 20, 30]]
    assert pixels_of(as_file(palette, "PNG", transparency=b"\0\xff"))[0].tolist() == [[255] * 3, [10, 20, 30]]
    assert pixels_of(as_file(palette.convert("RGB"), "PNG", transparency=(0, 0, 0)))[0, 0].tolist() == [255] * 3
    grey_alpha = Image.merge("LA", (Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 0)))
    assert pixels_of(as_file(grey_alpha, "PNG"))[0, 0].tolist() == [255] * 3


def test_palette_grey_and_bilevel_become_rgb() -> None:
    palette = smooth().quantize(8)
    assert np.array_equal(pixels_of(as_file(palette, "PNG")), np.asarray(palette.convert("RGB")))
    grey = smooth().convert("L")
    assert np.array_equal(pixels_of(as_file(grey, "PNG")), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert set(np.unique(pixels_of(as_file(smooth().convert("1"), "PNG")))) == {0, 255}


def test_cmyk_looks_like_its_rgb_original() -> None:
    for quality in (95, 100):
        pixels = pixels_of(as_file(smooth().convert("CMYK"), "JPEG", quality=quality)).astype(int)
        assert np.abs(pixels - np.asarray(smooth())).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]
    assert pixels_of(as_file(Image.fromarray(values), "PNG"))[0, :, 0].tolist() == expected
    assert pixels_of(as_file(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected
    assert pixels_of(as_file(Image.fromarray(values.astype(np.int32)), "TIFF"))[0, :, 0].tolist() == expected


def test_integers_and_floats_beyond_their_range_are_stretched() -> None:
    wide = Image.fromarray(np.array([[-1000, 0, 99000]], np.int32))
    assert pixels_of(as_file(wide, "TIFF"))[0, :, 0].tolist() == [0, 3, 255]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert pixels_of(as_file(unit, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    extreme = Image.fromarray(np.array([[-3e38, np.nan, np.inf, 3e38]], np.float32))
    assert pixels_of(as_file(extreme, "TIFF"))[0, :, 0].tolist() == [0, 128, 128, 255]
    constant = Image.fromarray(np.full((2, 2), 7.5, np.float32))
    assert pixels_of(as_file(constant, "TIFF")).max() == 0


def test_sixteen_bit_colour_keeps_its_brightness() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0, 32896, 65535)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    )
    assert pixels_of(data)[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP"])
def test_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = as_file(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


def test_colour_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels_of(as_file(smooth(), "PNG", icc_profile=profile)), np.asarray(smooth()))
    assert "icc ignored" in DECODE_POLICY


def test_no_bytes_are_empty() -> None:
    assert status_of(b"") is SampleStatus.EMPTY


def test_what_is_no_picture_is_unsupported() -> None:
    for data in (b"BMW is a car maker\n", b"{}", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"):
        assert status_of(data) is SampleStatus.UNSUPPORTED
    # A format that Pillow reads and we do not.
    assert status_of(as_file(smooth(), "PPM")) is SampleStatus.UNSUPPORTED


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_cut_file_is_truncated(format: str, options: dict[str, Any], share: float) -> None:
    data = as_file(smooth(200, 150), format, **options)
    # Of a BMP the first bytes say too little to know it by.
    if format != "BMP" or share > 0.1:
        assert status_of(data[: max(20, int(len(data) * share))]) is SampleStatus.TRUNCATED


def test_damage_in_the_middle_is_a_decode_error() -> None:
    data = as_file(smooth(), "PNG")
    assert status_of(data.replace(b"IDAT", b"I\x01AT", 1)) is SampleStatus.DECODE_ERROR
    header_damaged = bytearray(data)
    header_damaged[24] = 77
    assert status_of(bytes(header_damaged)) is SampleStatus.DECODE_ERROR


def test_a_bomb_is_refused_on_its_header() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert status_of(bomb, 89_478_485) is SampleStatus.TOO_LARGE
    assert status_of(as_file(smooth(11, 10), "GIF"), 109) is SampleStatus.TOO_LARGE
    assert decode_image(as_file(smooth(11, 10), "GIF"), max_pixels=110).size == (11, 10)


def test_no_warning_about_bombs_in_any_thread() -> None:
    bomb = as_file(Image.new("1", (12_000, 8_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: status_of(bomb, 89_478_485), range(16)))
        assert decode_image(bomb, max_pixels=10**8).size == (12_000, 8_000)
    assert set(statuses) == {SampleStatus.TOO_LARGE}


def samples() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    grey16 = Image.fromarray((np.arange(300).reshape(15, 20) * 200).astype(np.uint16))
    frames = {"save_all": True, "append_images": [smooth().rotate(90)]}
    return [
        as_file(smooth(), "JPEG", exif=exif),
        as_file(smooth(), "JPEG", progressive=True),
        as_file(smooth().convert("CMYK"), "JPEG"),
        as_file(smooth(), "PNG", exif=exif),
        as_file(smooth().quantize(8), "PNG", transparency=3),
        as_file(grey16, "PNG"),
        as_file(smooth(), "WEBP", exif=exif),
        as_file(smooth(), "BMP"),
        as_file(smooth(), "GIF", **frames),
        as_file(smooth(), "TIFF", exif=exif),
        as_file(Image.fromarray(np.eye(9, dtype=np.float32)), "TIFF"),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.sampled_from(samples()),
    edits=st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=6), st.integers(0, 8)), min_size=1, max_size=8),
)
def test_hostile_bytes_give_a_picture_or_a_sample_error(data: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for at, replacement, removed in edits:
        position = at % (len(data) + 1)
        data = data[:position] + replacement + data[position + removed :]
    try:
        image = decode_image(data, max_pixels=MAX_PIXELS)
    except SampleError as error:
        assert error.status is not SampleStatus.OK
    else:
        assert image.mode == "RGB"
        np.asarray(image)


def test_the_package_itself_does_not_import_torch() -> None:
    code = (
        "import sys, clipdecoder.encoders.images, clipdecoder.scoring.label_maps, clipdecoder.encoders.predict;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
