"""Single pictures by byte range: the same bytes as a reader of the whole shard has, made small once, and bounded."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.generated import expected_picture
from schemas.errors import SampleError, ShardError
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from storage.disk_cache import trim_cache
from storage.files import fingerprint_of
from storage.guesses import Expected, find_by_guess
from storage.shards import iter_ranges, iter_samples, read_range
from storage.thumbnails import RANGES, ShardBytes, Thumbnails
from tests.nasty import build_tar, cut_tar, gzipped, jpeg, nasty_shard

MEMBERS = [(f"p/{number}.jpg", jpeg(number)) for number in range(200)]


def small(data: bytes, side: int) -> bytes:
    """Make a small picture, or fail as decoding does."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except OSError as error:
        raise SampleError(SampleStatus.DECODE_ERROR, str(error)) from None
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP")
    return buffer.getvalue()


def shard(path: Path, data: bytes) -> ShardBytes:
    path.write_bytes(data)
    return known(str(path))


def known(url: str) -> ShardBytes:
    fs, path = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return ShardBytes(url, fingerprint_of(fs.info(path)))


@pytest.fixture
def thumbnails(tmp_path: Path) -> Iterator[Thumbnails]:
    opened = Thumbnails(tmp_path / "cache", small)
    yield opened
    opened.close()


def test_every_range_is_what_reading_the_whole_shard_gives(tmp_path: Path) -> None:
    place = shard(tmp_path / "nasty.tar", nasty_shard().data)
    ranges = list(iter_ranges(place.url))
    samples = list(iter_samples(place.url, MemberCounts()))
    assert len(ranges) == len(samples) and None not in ranges
    for sample, found in zip(samples, ranges, strict=True):
        assert found is not None
        if sample.status is SampleStatus.OK:
            assert read_range(place.url, found) == sample.data


def test_headers_are_read_as_far_as_asked(tmp_path: Path) -> None:
    whole = build_tar(MEMBERS[:3])
    cut = shard(tmp_path / "cut.tar", cut_tar(whole, "p/2.jpg"))
    assert len(list(islice(iter_ranges(cut.url), 2))) == 2
    with pytest.raises(ShardError) as caught:
        list(iter_ranges(cut.url))
    assert caught.value.status is ShardStatus.TRUNCATED


@pytest.mark.parametrize("pack", [bytes, gzipped], ids=["tar", "gzip"])
def test_a_picture_is_made_small_once(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    made: list[int] = []

    def counted(data: bytes, side: int) -> bytes:
        made.append(side)
        return small(data, side)

    thumbnails = Thumbnails(tmp_path / "cache", counted)
    name = "s.tar.gz" if pack is gzipped else "s.tar"
    place = shard(tmp_path / name, pack(build_tar(MEMBERS[:20])))
    first = thumbnails.get(place, 7, 24)
    assert max(Image.open(io.BytesIO(first)).size) == 24
    count = len(made)
    assert thumbnails.get(place, 7, 24) == first and len(made) == count
    assert thumbnails.read(place, 7) == MEMBERS[7][1]
    Path(place.url).unlink()
    assert Thumbnails(tmp_path / "cache", small).get(place, 7, 24) == first  # as it was when it was tagged


def test_where_pictures_stand_is_remembered(tmp_path: Path, thumbnails: Thumbnails) -> None:
    place = shard(tmp_path / "s.tar", build_tar(MEMBERS))
    for sample in (150, 3):
        assert thumbnails.read(place, sample) == MEMBERS[sample][1]
    thumbnails.close()
    data = bytearray(Path(place.url).read_bytes())
    data[:512] = b"\xff" * 512  # no header can be read any more
    status = os.stat(place.url)
    Path(place.url).write_bytes(data)
    os.utime(place.url, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = Thumbnails(tmp_path / "cache", small)
    assert again.read(place, 150) == MEMBERS[150][1]
    with pytest.raises(ShardError):
        again.read(place, 199)


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros((3, 2), np.int64))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-16],
        lambda data: data + bytes(16),
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: zipped(),
        lambda data: zipped()[:40],
        lambda data: None,
    ],
    ids=["empty", "cut", "longer", "a bit", "an archive", "half an archive", "a folder"],
)
def test_a_damaged_cache_stops_nothing(tmp_path: Path, damage: Callable[[bytes], bytes | None]) -> None:
    place, cache = shard(tmp_path / "s.tar", build_tar(MEMBERS[:20])), tmp_path / "cache"
    first = Thumbnails(cache, small)
    picture = first.get(place, 7, 24)
    first.close()
    files = list(cache.glob("*/*"))
    assert {path.suffix for path in files} == {"", ".webp"}
    for path in files:
        data = damage(path.read_bytes())
        path.unlink()
        if data is None:
            path.mkdir()
        elif path.name == RANGES:
            path.write_bytes(data)
    again = Thumbnails(cache, small)
    assert again.read(place, 7) == MEMBERS[7][1] and again.get(place, 7, 24) == picture
    again.close()


def test_many_threads_at_once(tmp_path: Path, thumbnails: Thumbnails) -> None:
    places = [shard(tmp_path / "a.tar", build_tar(MEMBERS)), shard(tmp_path / "b.tgz", gzipped(build_tar(MEMBERS)))]
    wanted = [(place, sample) for sample in range(0, 200, 5) for place in places]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: thumbnails.get(*each, 16), wanted))
    assert found == [small(MEMBERS[sample][1], 16) for _, sample in wanted]


def test_what_cannot_be_shown_says_why(tmp_path: Path, thumbnails: Thumbnails) -> None:
    members = [("a.jpg", jpeg(1)), ("b.jpg", b"no picture"), ("c.jpg", jpeg(3))]
    place = shard(tmp_path / "s.tar", build_tar(members))
    with pytest.raises(SampleError):
        thumbnails.get(place, 1, 16)
    for sample in (3, 3):
        with pytest.raises(ShardError, match="sample 3"):
            thumbnails.get(place, sample, 16)
    cut = shard(tmp_path / "cut.tar", cut_tar(build_tar(members), "c.jpg"))
    assert thumbnails.get(cut, 0, 16)
    with pytest.raises(ShardError, match="inside this picture"):
        thumbnails.get(cut, 2, 16)
    changed = ShardBytes(place.url, known(place.url).fingerprint.model_copy(update={"tag": "other"}))
    with pytest.raises(ShardError) as caught:
        thumbnails.get(changed, 0, 16)
    assert caught.value.status is ShardStatus.CHANGED
    with pytest.raises(ShardError) as caught:
        thumbnails.get(ShardBytes(str(tmp_path / "gone.tar"), place.fingerprint), 0, 16)
    assert caught.value.status is ShardStatus.MISSING


def test_a_sample_beyond_a_compressed_shard(tmp_path: Path, thumbnails: Thumbnails) -> None:
    place = shard(tmp_path / "s.tgz", gzipped(build_tar(MEMBERS[:3])))
    with pytest.raises(ShardError):
        thumbnails.get(place, 3, 16)
    with pytest.raises(ShardError):
        thumbnails.read(place, 3)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number in range(20):
        (cache / "shard").mkdir(parents=True, exist_ok=True)
        path = cache / "shard" / f"{number}-16.webp"
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    trim_cache(cache, 2000)
    assert len(list(cache.glob("*/*"))) == 20
    trim_cache(cache, 1000)
    assert sorted(int(path.name.split("-")[0]) for path in cache.glob("*/*")) == list(range(11, 20))


def test_what_cannot_be_removed_from_the_cache_stays(tmp_path: Path) -> None:
    stuck, loose = tmp_path / "shard" / "stuck", tmp_path / "shard" / "0-16.webp"
    stuck.mkdir(parents=True)
    loose.write_bytes(bytes(5000))
    os.utime(stuck, (0, 0))
    trim_cache(tmp_path, 100)
    assert stuck.exists() and not loose.exists()


def test_no_cache_costs_no_picture(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = shard(tmp_path / "s.tar", build_tar(MEMBERS[:2]))
    assert Thumbnails(tmp_path / "file", small).get(place, 1, 16) == small(MEMBERS[1][1], 16)


def test_from_an_object_store(bucket: str, tmp_path: Path, thumbnails: Thumbnails) -> None:
    url = f"{bucket}/shards/a b.tar"
    fsspec.filesystem("s3").pipe_file(url, build_tar(MEMBERS[:5]))
    place = known(url)
    assert thumbnails.read(place, 3) == MEMBERS[3][1]
    assert thumbnails.get(place, 4, 16) == small(MEMBERS[4][1], 16)
    fsspec.filesystem("s3").pipe_file(url, build_tar(MEMBERS[1:5]))
    with pytest.raises(ShardError) as caught:
        Thumbnails(tmp_path / "other", small).get(place, 0, 16)
    assert caught.value.status is ShardStatus.CHANGED


def test_a_server_without_ranges_says_so(web: str, tmp_path: Path, thumbnails: Thumbnails) -> None:
    (tmp_path / "s.tar").write_bytes(build_tar(MEMBERS[:3]))
    with pytest.raises(ShardError) as caught:
        thumbnails.get(known(f"{web}/s.tar"), 1, 16)
    assert caught.value.status is ShardStatus.UNREADABLE


# --- guesses


def expect(members: Sequence[tuple[str, bytes]], sample: int) -> Expected:
    """Return what a store knows of a picture of these members."""
    return expected_picture([data for name, data in members if name.endswith(".jpg")], sample)


def captions(lengths: Iterable[int]) -> list[tuple[str, bytes]]:
    """Return pictures, each with a side file of such a length."""
    return [
        each
        for number, length in enumerate(lengths)
        for each in ((f"p/{number}.jpg", MEMBERS[number][1]), (f"p/{number}.json", b'"' + b"x" * length + b'"'))
    ]


LONG = [(f"{'folder/' * 30}{number}.jpg", data) for number, (_, data) in enumerate(MEMBERS)]
EVEN = captions(range(200))
FEW = captions([60_000] * 5 + [0] * 195)


@pytest.mark.parametrize(
    "members", [MEMBERS, EVEN, LONG, captions([1500, 0] * 100)], ids=["alone", "even", "long", "two"]
)
def test_a_guess_finds_what_the_headers_lead_to(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    place = shard(tmp_path / "s.tar", build_tar(members))
    ranges = list(iter_ranges(place.url))
    for sample in (0, 1, 57, 100, 198, 199):
        found = find_by_guess(place.url, place.fingerprint.size, sample, expect(members, sample))
        assert found is not None and found.place == ranges[sample] and found.data == MEMBERS[sample][1]


def test_a_guess_that_is_wrong_is_none(tmp_path: Path) -> None:
    place = shard(tmp_path / "s.tar", build_tar(FEW))
    assert find_by_guess(place.url, place.fingerprint.size, 50, expect(FEW, 50)) is None
    other = replace(expect(MEMBERS, 3), sha256="0" * 64)
    place = shard(tmp_path / "other.tar", build_tar(MEMBERS))
    assert find_by_guess(place.url, place.fingerprint.size, 3, other) is None


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=60), st.data())
def test_what_a_guess_finds_is_the_picture(lengths: list[int], data: st.DataObject) -> None:
    members = captions(lengths)
    sample = data.draw(st.integers(0, len(lengths) - 1))
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/guess.tar", build_tar(members))
    found = find_by_guess("memory://guess.tar", fs.size("/guess.tar"), sample, expect(members, sample))
    assert found is not None and found.data == MEMBERS[sample][1]


@pytest.mark.parametrize(("members", "whole"), [(EVEN, False), (FEW, True)], ids=["even", "uneven"])
def test_an_object_store_is_asked_for_what_is_shown(
    bucket: str, tmp_path: Path, members: list[tuple[str, bytes]], whole: bool
) -> None:
    url = f"{bucket}/s.tar"
    fs = fsspec.filesystem("s3")
    fs.pipe_file(url, build_tar(members))
    asked: list[int] = []

    def expected(sample: int) -> Expected:
        asked.append(sample)
        return expect(members, sample)

    place, cache = known(url), tmp_path / "cache"
    thumbnails = Thumbnails(cache, small)
    for sample in (150, 3, 150):
        assert thumbnails.get(place, sample, 16, partial(expected, sample)) == small(MEMBERS[sample][1], 16)
        assert thumbnails.read(place, sample, partial(expected, sample)) == MEMBERS[sample][1]
    thumbnails.close()
    assert asked == ([150] if whole else [150, 3])
    assert (cache / place.digest / RANGES).exists() == whole, "headers are read where a guess failed alone"


def test_a_server_without_ranges_is_not_guessed_at(web: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(build_tar(MEMBERS))
    place = known(f"{web}/s.tar")
    assert find_by_guess(place.url, place.fingerprint.size, 7, expect(MEMBERS, 7)) is None


def test_a_disk_is_never_guessed_at(tmp_path: Path, thumbnails: Thumbnails) -> None:
    place = shard(tmp_path / "s.tar", build_tar(MEMBERS))
    assert thumbnails.get(place, 9, 16, lambda: pytest.fail("asked")) == small(MEMBERS[9][1], 16)
