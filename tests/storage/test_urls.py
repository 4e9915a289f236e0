"""Which file a URL is: `::` joins URLs, and stands in names."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import RequestError
from schemas.sample import MemberCounts
from storage.files import Folder, read_text
from storage.patterns import list_shards
from storage.shards import count_members, iter_samples
from storage.urls import local_path
from tests.nasty import build_tar, jpeg


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("shards/a.tar", "shards/a.tar"),
        ("a::b.tar", "a::b.tar"),
        ("/data/00::{0..9}.tar", "/data/00::{0..9}.tar"),
        ("file:///data/a::b.tar", "/data/a::b.tar"),
        ("./zip::a.tar", "./zip::a.tar"),
        ("zip::a.tar", None),
        ("zip://a.tar::/data/all.zip", None),
        ("simplecache::file:///data/a.tar", None),
        ("nope::s3://bucket/a.tar", None),
        ("s3://bucket/a.tar", None),
    ],
)
def test_what_is_on_this_disk(url: str, path: str | None) -> None:
    assert local_path(url) == path


def test_names_with_two_colons_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "12::30"
    folder.mkdir()
    for name in ("a::b", "a::c", "plain"):
        (folder / f"{name}.tar").write_bytes(build_tar([(f"{name}.jpg", jpeg(1))]))
    monkeypatch.chdir(folder)
    for pattern, wanted in (
        ("a::b.tar", ["a::b"]),
        (f"{folder}/a::b.tar", ["a::b"]),
        (f"file://{folder}/a::b.tar", ["a::b"]),
        (f"{folder}/*.tar", ["a::b", "a::c", "plain"]),
        ("a::{b..c}.tar", ["a::b", "a::c"]),
    ):
        found = list_shards([pattern])
        assert found.root == str(folder) and [ref.shard for ref in found.shards] == wanted
        for ref in found.shards:
            assert ref.fingerprint is not None and count_members(ref.url).images == 1
            assert [sample.key for sample in iter_samples(ref.url, MemberCounts())] == [ref.shard]


def test_a_store_and_a_file_may_have_two_colons(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "st::ore"))
    store.write_bytes("runs/a::b.json", b"{}")
    assert store.local and store.list("") == ["runs/a::b.json"] and store.read_bytes("runs/a::b.json") == b"{}"
    assert read_text(str(tmp_path / "st::ore" / "runs" / "a::b.json")) == "{}"
    with pytest.raises(RequestError, match="cannot be read"):
        read_text("zip::a.yaml")
