"""Statistics of pictures: what they mean, what they do not depend on, and what cannot be measured."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from clipdecoder.curation.image_statistics import SIDE, image_statistics, statistics_of
from schemas.errors import SampleError
from schemas.sample import SampleStatus
from tests.nasty import (
    TEXT_AS_JPEG,
    bomb_png,
    cmyk_jpeg,
    encoded,
    gif,
    grey16_png,
    jpeg,
    palette_png,
    picture,
    png,
    progressive_jpeg,
    rgba_png,
    tiff,
    truncated_jpeg,
    webp,
)

LIMIT = 10**7


def differing(one: int | None, other: int | None) -> int:
    assert one is not None and other is not None
    return (one ^ other).bit_count()


def detailed(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Return a picture with detail of every scale."""
    random = np.random.default_rng(seed)
    layers = [picture(seed, width, height), picture(seed + 1, width // 2, height // 2)]
    noise = random.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    layers.append(Image.fromarray(noise))
    same_size = [np.asarray(layer.resize((width, height)), np.float32) for layer in layers]
    return Image.fromarray((0.6 * same_size[0] + 0.3 * same_size[1] + 0.1 * same_size[2]).astype(np.uint8))


def test_one_colour_has_a_brightness_and_nothing_else() -> None:
    for grey in (0, 51, 255):
        found = image_statistics(encoded(Image.new("RGB", (30, 20), (grey,) * 3), "PNG"), max_pixels=LIMIT)
        assert found.brightness == pytest.approx(grey / 255, abs=1e-6)
        assert (found.contrast, found.sharpness, found.phash) == (0.0, 0.0, None)


def test_half_black_and_half_white_is_all_the_contrast_there_is() -> None:
    halves = Image.fromarray(np.repeat([[0, 255]], 256, axis=1).astype(np.uint8).repeat(256, axis=0))
    found = statistics_of(halves)
    assert found.brightness == pytest.approx(0.5, abs=0.01) and found.contrast == pytest.approx(0.5, abs=0.01)


def test_sharpness_is_the_variance_of_the_laplacian_of_the_preview() -> None:
    image = picture(3, SIDE, SIDE // 2).convert("L")
    luma = np.asarray(image, np.float64)
    padded = np.pad(luma, 1, mode="reflect")
    rows = [
        sum(padded[r + y, c + x] * w for y, x, w in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, -4)))
        for r in range(8)
        for c in range(SIDE)
    ]
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * luma
    np.testing.assert_allclose(laplacian[:8].reshape(-1), rows)
    assert statistics_of(image).sharpness == pytest.approx(laplacian.var(), rel=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(1.5, 4))
def test_blur_takes_sharpness_and_leaves_brightness_and_the_hash(seed: int, radius: float) -> None:
    sharp = detailed(seed).convert("L")
    once = sharp.filter(ImageFilter.GaussianBlur(radius))
    twice = once.filter(ImageFilter.GaussianBlur(radius))
    found = [statistics_of(image) for image in (sharp, once, twice)]
    assert found[0].sharpness > found[1].sharpness > found[2].sharpness
    assert max(each.brightness for each in found) - min(each.brightness for each in found) < 0.01
    assert differing(found[0].phash, found[1].phash) <= 6


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(40, 200), st.integers(40, 200))
def test_equal_pixels_are_equal_whatever_file_they_stand_in(seed: int, width: int, height: int) -> None:
    image = picture(seed, width, height)
    files = [
        encoded(image, "PNG"),
        encoded(image, "BMP"),
        encoded(image, "TIFF"),
        encoded(image, "WEBP", lossless=True),
    ]
    first, *others = (image_statistics(data, max_pixels=LIMIT) for data in files)
    assert others == [first] * 3


def test_copies_have_nearly_the_same_hash_and_other_pictures_have_not() -> None:
    pictures = [detailed(10 * seed) for seed in range(8)]
    hashes = [image_statistics(encoded(image, "PNG"), max_pixels=LIMIT).phash for image in pictures]
    for image, phash in zip(pictures, hashes, strict=True):
        copies = [
            encoded(image, "JPEG", quality=60),
            encoded(image.resize((160, 120)), "JPEG", quality=90),
            encoded(ImageEnhance.Brightness(image).enhance(0.9), "PNG"),
        ]
        for data in copies:
            assert differing(image_statistics(data, max_pixels=LIMIT).phash, phash) <= 6
    others = [differing(one, other) for n, one in enumerate(hashes) for other in hashes[:n]]
    assert min(others) >= 12 and 24 <= np.mean(others) <= 40


@pytest.mark.parametrize("size", [(640, 480), (1500, 1100), (2400, 1600)])
def test_a_jpeg_that_is_decoded_small_is_nearly_what_it_is_in_full(size: tuple[int, int]) -> None:
    data = encoded(detailed(5, *size), "JPEG", quality=92)
    full = Image.open(io.BytesIO(data)).convert("L")
    quick, exact = image_statistics(data, max_pixels=LIMIT), statistics_of(full)
    assert quick.brightness == pytest.approx(exact.brightness, abs=0.005)
    assert quick.contrast == pytest.approx(exact.contrast, abs=0.005)
    assert quick.sharpness == pytest.approx(exact.sharpness, rel=0.25)
    assert differing(quick.phash, exact.phash) <= 2


def test_a_picture_is_measured_upright_and_over_white() -> None:
    image = detailed(7, 300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    upright = image_statistics(encoded(image, "JPEG", quality=95), max_pixels=LIMIT)
    assert differing(image_statistics(turned, max_pixels=LIMIT).phash, upright.phash) <= 4
    clear = encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")
    assert image_statistics(clear, max_pixels=LIMIT).brightness == 1


@pytest.mark.parametrize(
    "data",
    [
        *(jpeg(1), png(1), webp(1), gif(1), tiff(1), progressive_jpeg(1), cmyk_jpeg(1), rgba_png(1), palette_png(1)),
        *(grey16_png(1), encoded(picture(1).convert("L"), "JPEG"), jpeg(1, 1, 1), png(1, 1000, 1), jpeg(1, 3, 900)),
    ],
)
def test_every_kind_of_picture_is_measured_within_the_ranges(data: bytes) -> None:
    found = image_statistics(data, max_pixels=LIMIT)
    assert 0 <= found.brightness <= 1 and 0 <= found.contrast <= 0.5 and found.sharpness >= 0
    assert found.phash is None or 0 <= found.phash < 2**64


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", SampleStatus.EMPTY),
        (TEXT_AS_JPEG, SampleStatus.UNSUPPORTED),
        (truncated_jpeg(), SampleStatus.TRUNCATED),
        (bomb_png(), SampleStatus.TOO_LARGE),
        (jpeg(1, 4000, 4000), SampleStatus.TOO_LARGE),
    ],
)
def test_what_cannot_be_decoded_is_refused_as_it_is_when_tagged(data: bytes, status: SampleStatus) -> None:
    with pytest.raises(SampleError) as raised:
        image_statistics(data, max_pixels=LIMIT)
    assert raised.value.status is status
