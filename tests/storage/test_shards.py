"""Every member of a tar is accounted for; every way a tar can end has its code and loses no sample before it."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ShardError
from schemas.sample import MemberCounts, Sample, SampleStatus, ShardStatus
from storage.shards import count_members, iter_samples
from tests.nasty import (
    END_MARKER,
    Member,
    build_special_tar,
    build_tar,
    cut_tar,
    data_start,
    gzipped,
    jpeg,
    nasty_shard,
    png,
    special,
    without_end,
)


def write(folder: Path, data: bytes, name: str = "shard.tar") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def read(url: str, **options: int) -> tuple[list[Sample], MemberCounts, ShardError | None]:
    """All samples, the counts, and how the shard ended."""
    samples: list[Sample] = []
    counts = MemberCounts()
    try:
        for sample in iter_samples(url, counts, **options):
            samples.append(sample)
    except ShardError as error:
        return samples, counts, error
    return samples, counts, None


def total(counts: MemberCounts) -> int:
    return counts.images + counts.side_files + counts.orphan_side_files + counts.other_files + counts.not_files


def test_the_nasty_shard_gives_a_sample_for_every_image_member(tmp_path: Path) -> None:
    shard = nasty_shard()
    samples, counts, end = read(write(tmp_path, shard.data))
    assert end is None
    assert [(s.key, s.member, tuple(s.side)) for s in samples] == [(e.key, e.member, e.side) for e in shard.expected]
    assert [s.sample for s in samples] == list(range(len(shard.expected)))
    assert counts == shard.counts
    assert count_members(str(tmp_path / "shard.tar")) == counts
    with tarfile.open(tmp_path / "shard.tar") as tar:
        assert total(counts) == len(tar.getmembers())
    good = dict(shard.good)
    assert all(good.get(s.member, s.data) == s.data for s in samples)
    decided = {s.member: s.status for s in samples if s.status is not SampleStatus.OK}
    assert decided == {
        "empty.jpg": SampleStatus.EMPTY,
        "twice.png": SampleStatus.DUPLICATE_KEY,
        "plain.png": SampleStatus.DUPLICATE_KEY,
    }
    assert all(s.error and not s.data for s in samples if s.status is not SampleStatus.OK)
    assert "'twice.jpg'" in next(s.error or "" for s in samples if s.member == "twice.png")
    assert not list(tmp_path.parent.glob("evil.jpg"))


@pytest.mark.parametrize(
    ("members", "sides", "orphans"),
    [
        (["a.jpg", "a.json", "a.txt", "a.cls"], {"a.jpg": {"json", "txt", "cls"}}, 0),
        (["a.json", "a.jpg"], {"a.jpg": {"json"}}, 0),
        (["a.jpg.json", "a.jpg"], {"a.jpg": {"json"}}, 0),
        (["a.JPG", "a.JSON"], {"a.JPG": {"json"}}, 0),
        (["a.jpg", "a.npy", "folder", "a.json"], {"a.jpg": {"json"}}, 0),
        (["a.jpg", "a.png", "a.json", "a.png.txt"], {"a.jpg": {"json"}, "a.png": {"txt"}}, 0),
        (["a.png.json", "a.png.png"], {"a.png.png": {"json"}}, 0),
        (["a.jpg", "a.json", "a.jpg.json"], {"a.jpg": {"json"}}, 1),
        (["a.json", "b.jpg"], {"b.jpg": set()}, 1),
        (["a.jpg", "b.jpg", "a.json"], {"a.jpg": set(), "b.jpg": set()}, 1),
        (["x/a.jpg", "y/a.json"], {"x/a.jpg": set()}, 1),
        (["a.1.jpg", "a.2.jpg", "a.json"], {"a.1.jpg": set(), "a.2.jpg": set()}, 1),
    ],
)
def test_side_files_belong_to_the_neighbour_of_their_name(
    tmp_path: Path, members: list[str], sides: dict[str, set[str]], orphans: int
) -> None:
    parts = [special(name, tarfile.DIRTYPE) if name == "folder" else (name, name.encode()) for name in members]
    url = write(tmp_path, build_special_tar(parts))
    samples, counts, _ = read(url)
    assert {s.member: set(s.side) for s in samples} == sides
    assert counts.orphan_side_files == orphans
    assert total(counts) == len(members)
    assert count_members(url) == counts


def test_names_are_kept_as_they_are_in_every_header_format(tmp_path: Path) -> None:
    names = [
        "./a.jpg",
        "../b.jpg",
        "x//c.jpg",
        "дом.jpg",
        "long/" + "n" * 200 + ".jpg",
        "d" * 90 + "/" + "e" * 90 + ".jpg",
    ]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        url = write(tmp_path, build_tar([(name, b"x") for name in names], format=format))
        assert [s.member for s in read(url)[0]] == names
    latin = io.BytesIO()
    with tarfile.open(fileobj=latin, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("café.jpg"))
    assert [s.key for s in read(write(tmp_path, latin.getvalue()))[0]] == ["caf\\xe9"]


def test_files_without_a_name_before_their_extension_are_no_images(tmp_path: Path) -> None:
    samples, counts, _ = read(write(tmp_path, build_tar([(".jpg", b"x"), ("a/.png", b"x"), ("jpg", b"x")])))
    assert (samples, counts.other_files) == ([], 3)


def test_members_of_unknown_type_are_files(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = b"Z", 3
    data = info.tobuf() + b"abc".ljust(512, b"\0") + END_MARKER
    assert [s.data for s in read(write(tmp_path, data))[0]] == [b"abc"]


def test_the_first_of_a_key_counts_though_it_is_empty_or_too_large(tmp_path: Path) -> None:
    members = [("a.jpg", b""), ("a.png", png()), ("b.jpg", b"x" * 50), ("b.png", b"x"), ("b.json", b"{}" * 30)]
    url = write(tmp_path, build_tar(members))
    samples, counts, _ = read(url, max_member_bytes=40)
    assert [s.status for s in samples] == [
        SampleStatus.EMPTY,
        SampleStatus.DUPLICATE_KEY,
        SampleStatus.TOO_LARGE,
        SampleStatus.DUPLICATE_KEY,
    ]
    assert [s.num_bytes for s in samples] == [0, len(png()), 50, 1]
    assert counts.other_files == 1, "a side file beyond the limit is left out"
    assert count_members(url, max_member_bytes=40) == counts


def test_an_empty_tar_has_no_samples_and_ends_well(tmp_path: Path) -> None:
    for data in (build_tar([]), END_MARKER, END_MARKER[:512]):
        assert read(write(tmp_path, data)) == ([], MemberCounts(), None)


@pytest.mark.parametrize("data", [b"", b"x", b"no tar at all" * 100, jpeg(), gzipped(build_tar([("a.jpg", b"x")]))])
def test_what_is_not_a_tar_says_so(tmp_path: Path, data: bytes) -> None:
    for name in ("shard.tar", "shard.tar.gz") if not data.startswith(b"\x1f") else ("shard.tar",):
        samples, _, end = read(write(tmp_path, data, name))
        assert samples == [] and end is not None and end.status is ShardStatus.NOT_A_TAR
        assert name in str(end)


def test_missing_and_unreadable_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="is not there") as missing:
        count_members(str(tmp_path / "none.tar"))
    assert missing.value.status is ShardStatus.MISSING
    with pytest.raises(ShardError, match="cannot be read") as folder:
        next(iter_samples(str(tmp_path), MemberCounts()))
    assert folder.value.status is ShardStatus.UNREADABLE
    assert isinstance(folder.value.__cause__, OSError)
    with pytest.raises(ShardError) as network:
        next(iter_samples("http://127.0.0.1:9/none.tar", MemberCounts()))
    assert network.value.status in (ShardStatus.UNREADABLE, ShardStatus.MISSING)


MEMBERS: list[Member] = [
    ("a.jpg", jpeg(1)),
    ("a.json", b"{}"),
    ("b.jpg", jpeg(2)),
    ("дом" * 60 + ".jpg", b"x" * 512),
    ("d.txt", b"dog"),
    ("d.jpg", jpeg(3)),
]
TAR = build_tar(MEMBERS)


def check_cut(data: bytes, cut: int, name: str) -> None:
    """What a cut tar must give: all samples before the cut, whole, then the right end."""
    with tempfile.TemporaryDirectory() as folder:
        url = write(Path(folder), data, name)
        samples, counts, end = read(url)
        counted = MemberCounts()
        if end is not None:
            with pytest.raises(ShardError):
                count_members(url, counted)
        else:
            counted = count_members(url)
    images = [(path, content) for path, content in MEMBERS if path.endswith(".jpg")]
    ok = [s for s in samples if s.status is SampleStatus.OK]
    before = [(path, content) for path, content in images if data_start(TAR, path) + len(content) <= cut]
    assert [(s.member, s.data) for s in ok] == before
    rest = samples[len(ok) :]
    assert [s.status for s in rest] in ([], [SampleStatus.TRUNCATED])
    assert [s.member for s in rest] == [path for path, _ in images[len(ok) :]][: len(rest)]
    assert counts.images == len(samples)
    assert counted == counts
    if cut >= len(without_end(TAR)) + 512:
        assert end is None
    else:
        assert end is not None
        assert end.status is (ShardStatus.NOT_A_TAR if cut < 512 else ShardStatus.TRUNCATED)


@settings(max_examples=120, deadline=None)
@given(cut=st.integers(0, len(without_end(TAR)) + 600))
def test_no_cut_of_a_tar_loses_a_sample_or_ends_silently(cut: int) -> None:
    check_cut(TAR[:cut], cut, "shard.tar")


@pytest.mark.parametrize("path", [path for path, _ in MEMBERS])
def test_a_cut_at_the_edges_of_each_member(path: str) -> None:
    start, end = data_start(TAR, path), data_start(TAR, path) + len(dict(MEMBERS)[path])
    for cut in (start - 1, start, start + 1, end - 1, end, end + 1):
        check_cut(TAR[:cut], cut, "shard.tar")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, len(gzipped(TAR)) - 1))
def test_no_cut_of_a_compressed_tar_ends_silently(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples, _, end = read(write(Path(folder), gzipped(TAR)[:cut], "shard.tar.gz"))
    assert end is not None
    good = [s.data for s in samples if s.status is SampleStatus.OK]
    assert good == [content for path, content in MEMBERS if path.endswith(".jpg")][: len(good)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TAR) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_bytes_raise_nothing_but_shard_errors(changes: list[tuple[int, int]]) -> None:
    data = bytearray(TAR)
    for position, value in changes:
        data[position] = value
    with tempfile.TemporaryDirectory() as folder:
        url = write(Path(folder), bytes(data))
        samples, counts, _ = read(url)
        assert counts.images == len(samples)


def test_a_truncated_shard_says_where(tmp_path: Path) -> None:
    end = read(write(tmp_path, cut_tar(TAR, "b.jpg")))[2]
    assert end is not None and "'b.jpg'" in str(end) and "byte" in str(end)
    end = read(write(tmp_path, without_end(TAR)))[2]
    assert end is not None and "without an end marker" in str(end)


def test_members_after_the_end_marker_are_not_lost_in_silence(tmp_path: Path) -> None:
    url = write(tmp_path, TAR + TAR)
    samples, _, end = read(url)
    assert len(samples) == 4
    assert end is not None and end.status is ShardStatus.TRUNCATED and "cat" in str(end)


def test_compressed_shards(tmp_path: Path) -> None:
    plain = read(write(tmp_path, TAR))
    assert read(write(tmp_path, gzipped(TAR), "s.tar.gz")) == plain == read(write(tmp_path, gzipped(TAR), "s.tgz"))
    damaged = bytearray(gzipped(TAR))
    damaged[-6] ^= 1  # the checksum
    samples, _, end = read(write(tmp_path, bytes(damaged), "s.tar.gz"))
    assert samples == plain[0]
    assert end is not None and end.status is ShardStatus.TRUNCATED and "CRC" in str(end)


def test_shards_behind_a_web_server(tmp_path: Path, web: str) -> None:
    big = ("big.png", png(1, 700, 700))
    shard, options = build_tar([*MEMBERS, big, ("e.jpg", b"x")]), {"max_member_bytes": len(big[1]) - 1}
    plain = read(write(tmp_path, shard), **options)
    cut = read(write(tmp_path, cut_tar(shard, "big.png"), "cut.tar"))
    assert plain[0][-2].status is SampleStatus.TOO_LARGE
    for folder in (web, f"{web}/streamed"):
        assert read(f"{folder}/shard.tar", **options) == plain
        assert count_members(f"{folder}/shard.tar", **options) == plain[1]
        samples, counts, end = read(f"{folder}/cut.tar")
        assert (samples, counts) == cut[:2]
        assert samples[-1].status is SampleStatus.TRUNCATED
        assert end is not None and end.status is ShardStatus.TRUNCATED


def test_sparse_members_are_filled(tmp_path: Path) -> None:
    stored = b"abcd"
    info = tarfile.TarInfo("a.jpg")
    info.size = len(stored)
    info.pax_headers = {"GNU.sparse.map": "2,3,7,1", "GNU.sparse.size": "10"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info, io.BytesIO(stored))
        tar.addfile(tarfile.TarInfo("b.jpg"))
    url = write(tmp_path, buffer.getvalue())
    samples, counts, end = read(url)
    assert end is None and samples[0].data == b"\0\0abc\0\0d\0\0"
    assert count_members(url) == counts


def test_headers_cannot_ask_for_endless_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    end = read(write(tmp_path, header.tobuf(tarfile.GNU_FORMAT) + TAR))[2]
    assert end is not None and end.status is ShardStatus.TRUNCATED
    for size in (2**50, 2**70):
        huge = tarfile.TarInfo("a.jpg")
        huge.size = size
        end = read(write(tmp_path, TAR[: data_start(TAR, "a.jpg") - 512] + huge.tobuf(tarfile.GNU_FORMAT) + TAR))[2]
        assert end is not None and end.status is ShardStatus.TRUNCATED and str(size) in str(end)
    chain = tarfile.TarInfo("pax")
    chain.type = tarfile.XHDTYPE
    end = read(write(tmp_path, chain.tobuf(tarfile.USTAR_FORMAT) * 3000 + TAR))[2]
    assert end is not None and end.status is ShardStatus.TRUNCATED


def test_stopping_early_closes_the_file(tmp_path: Path) -> None:
    url = write(tmp_path, TAR)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    stream = iter_samples(url, MemberCounts())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert before == after
