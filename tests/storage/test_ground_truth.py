"""What side files say about labels, and what is made of those that say it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ShardError
from storage.ground_truth import SampleLabels, parse_labels, read_labels
from tests.nasty import build_tar, cut_tar, jpeg


def said(*labels: str, absent: tuple[str, ...] = ()) -> SampleLabels:
    return SampleLabels(labels=labels, absent=absent)


def shard(folder: Path, members: dict[str, bytes]) -> str:
    """Write a tar and return its path."""
    path = folder / "0.tar"
    path.write_bytes(build_tar(list(members.items())))
    return str(path)


def test_labels_are_found_by_ordinal(tmp_path: Path) -> None:
    members = {
        "a.jpg": jpeg(),
        "a.json": b'{"labels": ["dog", "red car", "dog"], "caption": "x"}',
        "b.jpg": jpeg(),
        "c.jpg": jpeg(),
        "c.json": b'{"labels": [], "absent": ["cat"]}',
        "d.jpg": jpeg(),
        "d.json": b'{"caption": "nothing about labels"}',
    }
    found = read_labels(shard(tmp_path, members))
    assert found.samples == {0: said("dog", "red car"), 2: said(absent=("cat",))}
    assert found.damaged == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"labels": "dog"}', b'{"labels": [1]}', b"\xff\xfe"])
def test_a_side_file_that_cannot_be_used_is_named_and_the_others_count(tmp_path: Path, content: bytes) -> None:
    members = {"a.jpg": jpeg(), "a.json": content, "b.jpg": jpeg(), "b.json": b'{"labels": ["dog"]}'}
    found = read_labels(shard(tmp_path, members))
    assert found.samples == {1: said("dog")}
    assert list(found.damaged) == ["a"]


def test_a_file_that_does_not_speak_of_labels_is_no_annotation() -> None:
    assert parse_labels(b'{"id": 3}') is None
    assert parse_labels(b'{"labels": []}') == said()


def test_a_truncated_shard_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    members = {"a.jpg": jpeg(), "a.json": b'{"labels": ["dog"]}', "b.jpg": jpeg(), "b.json": b'{"labels": ["cat"]}'}
    url = shard(tmp_path, members)
    Path(url).write_bytes(cut_tar(Path(url).read_bytes(), "b.jpg"))
    assert read_labels(url).samples == {0: said("dog")}


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="is not there"):
        read_labels(str(tmp_path / "none.tar"))
