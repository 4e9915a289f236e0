"""The same over HTTP: shards listed, read, packed and stored in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from schemas.errors import ShardError, ShardPatternError, StoreError
from schemas.sample import MemberCounts, SampleStatus, ShardStatus
from storage.files import Folder, fingerprint_of, iter_leftovers
from storage.pack import pack
from storage.patterns import list_shards
from storage.shards import count_members, iter_samples
from tests.nasty import build_tar, cut_tar, gzipped, jpeg, nasty_shard

TAR = build_tar([("a.jpg", jpeg(1)), ("a.json", b"{}"), ("b.jpg", jpeg(2))])


def upload(bucket: str, files: dict[str, bytes]) -> None:
    # The test's own client: what it writes, the product's client has not seen.
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    for name, data in files.items():
        fs.pipe_file(f"{bucket}/{name}", data)


def test_listing(bucket: str) -> None:
    upload(bucket, {"d/00.tar": TAR, "d/01.tar": TAR, "d/deep/00.tar": TAR, "d/notes.txt": b"x", "d/a[1].tar": TAR})
    found = list_shards([f"{bucket}/d/**/*.tar"])
    assert found.root == f"{bucket}/d"
    assert [ref.shard for ref in found.shards] == ["00", "01", "a[1]", "deep/00"]
    assert found.shards[0].url == f"{bucket}/d/00.tar"
    by_glob = {ref.shard: ref for ref in list_shards([f"{bucket}/d/0*.tar"]).shards}
    ranged = list_shards([f"{bucket}/d/{{00..03}}.tar"]).shards
    assert [ref.shard for ref in ranged if ref.fingerprint is None] == ["02", "03"]
    assert ranged[:2] == tuple(by_glob.values()), "a listing and a range tell the same of a shard"
    assert list_shards([f"{bucket}/d/00.tar"]).shards == ranged[:1]
    assert [ref.shard for ref in list_shards([f"{bucket}/d/a[1].tar"]).shards] == ["a[1]"]


def test_new_and_changed_shards_are_seen(bucket: str) -> None:
    upload(bucket, {"d/00.tar": TAR})
    first = list_shards([f"{bucket}/d/*.tar"])
    upload(bucket, {"d/00.tar": TAR + b"\0", "d/01.tar": TAR})
    second = list_shards([f"{bucket}/d/*.tar"])
    assert [ref.shard for ref in second.shards] == ["00", "01"]
    assert second.shards[0].fingerprint != first.shards[0].fingerprint
    assert sum(1 for _ in iter_samples(second.shards[0].url, MemberCounts())) == 2


def test_what_is_not_there(bucket: str) -> None:
    upload(bucket, {"d/00.tar": TAR})
    with pytest.raises(ShardPatternError, match=r"matches no shard .*/d', has 00\.tar"):
        list_shards([f"{bucket}/d/*.tgz"])
    with pytest.raises(ShardPatternError, match="matches no shard"):
        list_shards(["s3://no-such-bucket-here/*.tar"])
    with pytest.raises(ShardPatternError, match=r"is a folder, .*/d/\*\.tar"):
        list_shards([f"{bucket}/d"])
    with pytest.raises(ShardError) as caught:
        count_members(f"{bucket}/d/none.tar")
    assert caught.value.status is ShardStatus.MISSING


def test_reading(bucket: str) -> None:
    shard = nasty_shard()
    upload(bucket, {"nasty.tar": shard.data, "s.tar.gz": gzipped(TAR), "cut.tar": cut_tar(TAR, "b.jpg")})
    counts = MemberCounts()
    samples = list(iter_samples(f"{bucket}/nasty.tar", counts))
    assert [(s.key, s.member) for s in samples] == [(e.key, e.member) for e in shard.expected]
    assert {s.member: s.data for s in samples if s.member in dict(shard.good)} == dict(shard.good)
    assert counts == shard.counts == count_members(f"{bucket}/nasty.tar")
    assert [s.key for s in iter_samples(f"{bucket}/s.tar.gz", MemberCounts())] == ["a", "b"]
    stream = iter_samples(f"{bucket}/cut.tar", MemberCounts())
    assert [next(stream).status, next(stream).status] == [SampleStatus.OK, SampleStatus.TRUNCATED]
    with pytest.raises(ShardError, match=r"'b\.jpg'") as caught:
        next(stream)
    assert caught.value.status is ShardStatus.TRUNCATED


def test_packing(bucket: str, tmp_path: Path) -> None:
    for name in ("x/a.jpg", "x/b.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(len(name)))
    to = f"{bucket}/out/{{:05d}}.tar"
    report = pack(str(tmp_path), to, samples_per_shard=2)
    found = list_shards([f"{bucket}/out/*.tar"])
    assert tuple(ref.url for ref in found.shards) == report.shards
    samples = [s for ref in found.shards for s in iter_samples(ref.url, MemberCounts())]
    assert {s.member: s.data for s in samples} == {s.member: (tmp_path / s.member).read_bytes() for s in samples}
    assert len(samples) == 3
    upload(bucket, {f"in/{s.member}": s.data for s in samples})
    again = pack(f"{bucket}/in", f"{bucket}/again/{{:05d}}.tar", samples_per_shard=2)
    read = fsspec.filesystem("s3").cat_file
    assert [read(url) for url in again.shards] == [read(url) for url in report.shards]
    upload(bucket, {"in/list.csv": b"path,labels\nx/a.jpg,dog\n"})
    listed = pack(f"{bucket}/in/list.csv", f"{bucket}/csv/{{:05d}}.tar")
    assert next(iter_samples(listed.shards[0], MemberCounts())).side == {"json": b'{"labels": ["dog"]}'}


def test_a_folder_in_the_store(bucket: str) -> None:
    folder = Folder(f"{bucket}/store")
    folder.write_bytes("a/b.bin", b"one")
    with folder.create("a/c.bin") as file:
        file.write(b"two")
        assert not folder.exists("a/c.bin")
    with pytest.raises(KeyError), folder.create("a/d.bin") as file:
        file.write(b"half")
        raise KeyError("x")
    assert folder.list("") == ["a/b.bin", "a/c.bin"]
    assert (folder.read_bytes("a/b.bin"), folder.read_bytes("a/c.bin")) == (b"one", b"two")
    assert list(iter_leftovers(folder, "")) == []
    first = fingerprint_of(folder.fs.info(folder.path("a/b.bin"), refresh=True))
    upload(bucket, {"store/a/b.bin": b"One"})
    assert fingerprint_of(folder.fs.info(folder.path("a/b.bin"), refresh=True)) != first


def test_a_server_that_is_away(s3: dict[str, Any]) -> None:
    away = Folder(
        "s3://bucket/store",
        **(s3 | {"endpoint_url": "http://127.0.0.1:9"}),
        config_kwargs={"retries": {"max_attempts": 0}},
    )
    with pytest.raises(StoreError, match="cannot write"):
        away.write_bytes("a", b"x")
