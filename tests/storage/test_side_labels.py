"""What side files say, kept beside the shards: read once, of these bytes, in the annotators' own words."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ShardError, StoreError
from schemas.manifest import Fingerprint
from storage.files import Folder
from storage.ground_truth import SampleLabels, ShardLabels, read_labels
from storage.patterns import ShardRef, list_shards
from storage.side_labels import keep_side_labels, read_side_labels, side_labels, side_labels_path
from tests.nasty import Member, build_tar, jpeg

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MEMBERS: list[Member] = [
    ("a.jpg", jpeg(0)),
    ("a.json", '{"labels": ["dog", "Füße"], "absent": ["cat"]}'.encode()),
    ("b.jpg", jpeg(1)),
    ("c.jpg", jpeg(2)),
    ("c.json", b'{"labels": []}'),
    ("d.jpg", jpeg(3)),
    ("d.json", b"{"),
]


def shard(folder: Path, members: list[Member] | None = None, name: str = "0") -> ShardRef:
    """Write a tar that was changed at noon and return it as a request would name it."""
    path = folder / f"{name}.tar"
    path.write_bytes(build_tar(MEMBERS if members is None else members))
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    [ref] = list_shards([str(path)]).shards
    return ref


def store(folder: Path) -> Folder:
    return Folder(str(folder / "store"))


def test_a_shard_is_read_once_and_then_never_needed(tmp_path: Path) -> None:
    ref = shard(tmp_path)
    found = side_labels(store(tmp_path), "street", ref)
    assert found == read_labels(ref.url)
    assert found.samples == {
        0: SampleLabels(labels=("dog", "Füße"), absent=("cat",)),
        2: SampleLabels(labels=(), absent=()),
    }
    assert (found.keys, list(found.damaged)) == ({0: "a", 2: "c"}, ["d"])
    assert found.changed_at == NOON
    Path(ref.url).unlink()
    assert side_labels(store(tmp_path), "street", ref) == found
    with pytest.raises(ShardError, match="is not there"):
        side_labels(store(tmp_path), "another dataset", ref)


def test_a_shard_that_changed_is_read_again(tmp_path: Path) -> None:
    side_labels(store(tmp_path), "street", shard(tmp_path))
    shard(tmp_path, [("a.jpg", jpeg(0)), ("a.json", b'{"labels": ["cow"]}')])
    os.utime(tmp_path / "0.tar", (NOON.timestamp(), NOON.timestamp() + 1))
    [changed] = list_shards([str(tmp_path / "0.tar")]).shards
    assert side_labels(store(tmp_path), "street", changed).samples == {0: SampleLabels(labels=("cow",), absent=())}


def test_a_shard_without_annotations_is_remembered_as_such(tmp_path: Path) -> None:
    ref = shard(tmp_path, [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1)), ("b.json", b'{"caption": "a dog"}')])
    side_labels(store(tmp_path), "street", ref)
    Path(ref.url).unlink()
    assert side_labels(store(tmp_path), "street", ref) == ShardLabels(changed_at=NOON)


@pytest.mark.parametrize("content", [b"", b"PAR1 not quite", b"{}"])
def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    ref, folder = shard(tmp_path), store(tmp_path)
    path = side_labels_path("street", ref.shard)
    found = side_labels(folder, "street", ref)
    whole = folder.read_bytes(path)
    folder.write_bytes(path, content)
    assert side_labels(folder, "street", ref) == found
    assert folder.read_bytes(path) == whole, "equal labels are equal bytes"


def test_what_is_there_keeps_its_time(tmp_path: Path) -> None:
    ref, folder = shard(tmp_path), store(tmp_path)
    side_labels(folder, "street", ref)
    keep_side_labels(folder, "street", ref, ShardLabels(changed_at=datetime.now(UTC)))
    assert side_labels(folder, "street", ref).changed_at == NOON


def test_a_shard_that_was_named_and_is_missing(tmp_path: Path) -> None:
    ref = ShardRef(shard="7", url=str(tmp_path / "7.tar"), fingerprint=None)
    with pytest.raises(ShardError, match=r"7\.tar is not there"):
        side_labels(store(tmp_path), "street", ref)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot write 'side_labels/street/0"):
        side_labels(store(tmp_path), "street", shard(tmp_path))


def test_an_object_tells_when_it_was_changed(bucket: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with fsspec.open(f"{bucket}/shards/0.tar", "wb") as file:
        file.write(build_tar(MEMBERS))
    [ref] = list_shards([f"{bucket}/shards/*.tar"]).shards
    folder = Folder(f"{bucket}/store")
    found = side_labels(folder, "street", ref)
    assert before <= found.changed_at <= datetime.now(UTC)
    assert side_labels(folder, "street", ref) == found


def test_where_nobody_tells_it_is_the_time_of_the_first_reading(tmp_path: Path, web: str) -> None:
    shard(tmp_path)
    [ref] = list_shards([f"{web}/0.tar"]).shards
    before = datetime.now(UTC)
    found = side_labels(store(tmp_path), "street", ref)
    assert before <= found.changed_at <= datetime.now(UTC)
    keep_side_labels(store(tmp_path), "street", ref, read_labels(ref.url))
    assert side_labels(store(tmp_path), "street", ref).changed_at == found.changed_at


WORDS = st.lists(st.text(max_size=8), max_size=4, unique=True).map(tuple)


@given(
    said=st.dictionaries(st.integers(0, 2**31 - 1), st.builds(SampleLabels, labels=WORDS, absent=WORDS), max_size=4),
    damaged=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    changed_at=st.datetimes(timezones=st.just(UTC)),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(lambda s: "/" not in s),
)
def test_any_words_come_back_as_they_were(
    said: dict[int, SampleLabels], damaged: dict[str, str], changed_at: datetime, name: str
) -> None:
    labels = ShardLabels(
        changed_at=changed_at, samples=said, keys={sample: f"key {sample}" for sample in said}, damaged=damaged
    )
    fingerprint = Fingerprint(size=1, tag=json.dumps(name))
    ref = ShardRef(shard=name, url="nowhere", fingerprint=fingerprint)
    folder = Folder("memory://side-labels")
    folder.remove(side_labels_path("street", name))
    keep_side_labels(folder, "street", ref, labels)
    assert read_side_labels(folder, "street", name, fingerprint) == labels
    assert read_side_labels(folder, "street", name, Fingerprint(size=2, tag=fingerprint.tag)) is None
