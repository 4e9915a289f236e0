"""`ImageTransform.read`: within 1/255 of the library's transform, with the same failures, in a fraction of the time."""

from __future__ import annotations

import io
import tarfile
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg

from clipdecoder.encoders.images import decode_image
from clipdecoder.encoders.transforms import ImageTransform, Picture, TimmPreprocess
from schemas.errors import SampleError
from schemas.sample import SampleStatus
from tests.clipdecoder.photos import jpeg_flavours, oriented, photo
from tests.nasty import encoded, nasty_shard, truncated_jpeg

CPU = torch.device("cpu")
MAX_PIXELS = 20_000_000


def transform_of(size: int | tuple[int, int] = 224, mode: str = "shortest", **options: Any) -> ImageTransform:
    return ImageTransform(PreprocessCfg(size=size, resize_mode=mode, **options), CPU)


def by_pillow(transform: ImageTransform, data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Return what Pillow and the library's own steps make of a file."""
    image = decode_image(data, max_pixels=max_pixels)
    return Picture(transform.to_pixels(image, max_pixels=max_pixels), *image.size)


def differences(transform: ImageTransform, data: bytes) -> NDArray[np.int16]:
    ours, theirs = transform.read(data, max_pixels=MAX_PIXELS), by_pillow(transform, data)
    assert (ours.width, ours.height) == (theirs.width, theirs.height)
    assert ours.pixels_HWC.dtype == np.uint8 and ours.pixels_HWC.shape == theirs.pixels_HWC.shape
    assert ours.pixels_HWC.flags.c_contiguous
    return np.abs(ours.pixels_HWC.astype(np.int16) - theirs.pixels_HWC)


def assert_equal_enough(transform: ImageTransform, data: bytes, what: object) -> None:
    difference = differences(transform, data)
    # Where a JPEG is so coarse that its blocks show, the differences of both passes meet in one of a million values.
    assert difference.max() <= (2 if "coarse" in str(what) else 1), (what, difference.max())
    assert (difference > 1).mean() < 1e-4
    assert difference.mean() < 0.01, (what, difference.mean())  # of 255


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(200, 200), (200, 320), (640, 427), (211, 1000)])
def test_every_flavour_of_jpeg_is_within_one_of_the_librarys_transform(size: tuple[int, int], mode: str) -> None:
    transforms = [transform_of(side, mode) for side in (64, 224, 336)]
    for name, data in jpeg_flavours(photo(*size)).items():
        for transform in transforms:
            assert_equal_enough(transform, data, (name, size, transform.size))


@pytest.mark.parametrize(("size", "orientation", "mode"), [((1999, 1501), 1, "longest"), ((4000, 3000), 6, "shortest")])
def test_a_large_picture_is_within_one_of_the_librarys_transform(
    size: tuple[int, int], orientation: int, mode: str
) -> None:
    data = oriented(photo(*size), orientation)
    for side in (64, 336) if size[0] < 3000 else (64,):
        assert_equal_enough(transform_of(side, mode), data, (size, side))


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "L")]
)
def test_other_formats_are_within_one_of_the_librarys_transform(format: str, mode: str) -> None:
    for size in ((500, 375), (230, 240)):
        assert_equal_enough(transform_of(), encoded(photo(*size).convert(mode), format), size)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    size=st.sampled_from([32, (24, 40), (40, 24), 96]),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    orientation=st.integers(1, 8),
)
def test_any_size_and_orientation(
    width: int, height: int, size: int | tuple[int, int], mode: str, interpolation: str, orientation: int
) -> None:
    transform = transform_of(size, mode, interpolation=interpolation, fill_color=128)
    data = oriented(photo(width, height, seed=width), orientation)
    assert outcome(transform, data) == expected_outcome(transform, data)
    if outcome(transform, data)[0] == "ok":
        assert differences(transform, data).max() <= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    width=st.integers(20, 500),
    height=st.integers(20, 500),
    size=st.sampled_from([(48, 48), (24, 40)]),
    crop_mode=st.sampled_from(["center", "border", "squash"]),
    crop_pct=st.sampled_from([0.5, 0.875, 1.0]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos", "nearest"]),
)
def test_timms_crops(
    width: int, height: int, size: tuple[int, int], crop_mode: str, crop_pct: float, interpolation: str
) -> None:
    config = TimmPreprocess(
        size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    transform, data = ImageTransform(config, CPU), encoded(photo(width, height), "JPEG")
    assert outcome(transform, data) == expected_outcome(transform, data)
    if outcome(transform, data)[0] == "ok":
        assert differences(transform, data).max() <= 1


def test_reading_takes_no_further_threads() -> None:
    data, transform = encoded(photo(2000, 1500), "JPEG"), transform_of()
    transform.read(data, max_pixels=MAX_PIXELS)
    all_before, own_before = time.process_time(), time.thread_time()
    for _ in range(3):
        transform.read(data, max_pixels=MAX_PIXELS)
    own = time.thread_time() - own_before
    assert time.process_time() - all_before < 1.3 * own


# --- failures --------------------------------------------------------------------------------------------------------


def outcome(transform: ImageTransform, data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Any, ...]:
    try:
        picture = transform.read(data, max_pixels=max_pixels)
    except SampleError as error:
        return str(error.status), error.detail, error.size
    return "ok", picture.width, picture.height


def expected_outcome(transform: ImageTransform, data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Any, ...]:
    try:
        picture = by_pillow(transform, data, max_pixels)
    except SampleError as error:
        return str(error.status), error.detail, error.size
    return "ok", picture.width, picture.height


def test_every_nasty_image_ends_as_it_does_with_pillow() -> None:
    transform = transform_of(16)
    shard = nasty_shard()
    with tarfile.open(fileobj=io.BytesIO(shard.data)) as tar:
        images = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
    for path in shard.statuses:
        data = images[path].read()  # type: ignore[union-attr]
        assert outcome(transform, data) == expected_outcome(transform, data), path


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_cut_jpeg_ends_as_it_does_with_pillow_wherever_it_is_cut(options: dict[str, Any]) -> None:
    whole, transform = encoded(photo(160, 120), "JPEG", **options), transform_of(32)
    ends = {outcome(transform, whole[:length]) for length in range(len(whole) // 3, len(whole) - 2, 97)}
    assert {end[0] for end in ends} == {"truncated"}
    for length in (*range(0, 700, 23), *range(len(whole) - 40, len(whole) + 1)):
        data = whole[:length]
        assert outcome(transform, data) == expected_outcome(transform, data), length


def jpegs() -> list[bytes]:
    flavours = jpeg_flavours(photo(120, 90))
    return [flavours[name] for name in ("4:2:0", "4:4:4", "progressive", "restart markers", "grey", "cmyk", "exif 6")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.sampled_from(jpegs()),
    edits=st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=6), st.integers(0, 8)), min_size=1, max_size=6),
)
def test_damaged_jpegs_end_as_they_do_with_pillow(data: bytes, edits: list[tuple[int, bytes, int]]) -> None:
    for at, replacement, removed in edits:
        position = at % (len(data) + 1)
        data = data[:position] + replacement + data[position + removed :]
    transform = transform_of(32)
    ends = outcome(transform, data, 1_000_000)
    assert ends == expected_outcome(transform, data, 1_000_000)
    if ends[0] == "ok":
        assert differences(transform, data).max() <= 2  # damage can look like the noise that both passes differ on


def test_what_is_too_large_is_refused_on_its_header() -> None:
    data = encoded(photo(200, 100), "JPEG")
    assert outcome(transform_of(32), data, 19_999)[0] == "too_large"
    assert outcome(transform_of(32), data, 20_000)[0] == "ok"


def test_a_failure_after_decoding_knows_the_size() -> None:
    thin = encoded(photo(1500, 2), "JPEG")
    with pytest.raises(SampleError) as caught:
        transform_of(224).read(thin, max_pixels=1_000_000)
    assert (caught.value.status, caught.value.size) == (SampleStatus.TOO_LARGE, (1500, 2))
    with pytest.raises(SampleError) as caught:
        transform_of(224).read(truncated_jpeg(), max_pixels=1_000_000)
    assert caught.value.size is None


# --- fast ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1200, 900), (1199, 901), (901, 1199), (500, 2000)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_fast_is_near_to_the_librarys_transform_whatever_the_size(size: tuple[int, int], orientation: int) -> None:
    data, exact = oriented(photo(*size), orientation), transform_of(96)
    fast = ImageTransform(exact.config, CPU, "fast")
    difference = np.abs(
        fast.read(data, max_pixels=MAX_PIXELS).pixels_HWC.astype(int) - by_pillow(exact, data).pixels_HWC
    )
    assert 0 < difference.mean() < 0.6 and difference.max() <= 8  # a hard edge in the picture costs most
    assert fast.read(data, max_pixels=MAX_PIXELS)[1:] == exact.read(data, max_pixels=MAX_PIXELS)[1:]


def test_fast_is_exact_where_a_picture_is_not_four_times_the_models_size() -> None:
    data = encoded(photo(380, 380), "JPEG")
    fast = ImageTransform(PreprocessCfg(size=96), CPU, "fast")
    assert np.array_equal(
        fast.read(data, max_pixels=MAX_PIXELS).pixels_HWC, transform_of(96).read(data, max_pixels=MAX_PIXELS).pixels_HWC
    )


def test_fast_fails_as_exact_does() -> None:
    whole = encoded(photo(800, 600), "JPEG")
    exact, fast = transform_of(32), ImageTransform(PreprocessCfg(size=32), CPU, "fast")
    for data in (whole[: len(whole) // 2], whole[:-300], whole[:400], b"", b"\xff\xd8\xff"):
        assert outcome(fast, data) == outcome(exact, data)


def test_how_files_are_decoded_is_told_apart() -> None:
    fast = ImageTransform(PreprocessCfg(size=32), CPU, "fast")
    assert fast.describe() == transform_of(32).describe()
    assert fast.decode_policy != transform_of(32).decode_policy
