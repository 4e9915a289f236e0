"""Patterns name shards, ids stay, and what is wrong is refused with the next step."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from schemas.errors import ShardPatternError
from storage.files import TEMPORARY_PREFIX
from storage.patterns import ShardList, list_shards


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def ids(found: ShardList) -> list[str]:
    return [ref.shard for ref in found.shards]


def missing(found: ShardList) -> list[str]:
    return [ref.shard for ref in found.shards if ref.fingerprint is None]


@pytest.mark.parametrize(
    ("patterns", "root", "shards"),
    [
        (["*.tar"], "", ["00", "01"]),
        (["0?.tar"], "", ["00", "01"]),
        (["0[1-9].tar"], "", ["01"]),
        (["**/*.tar"], "", ["00", "01", "day1/00", "day2/00"]),
        (["day*/*.tar"], "", ["day1/00", "day2/00"]),
        (["day1/*.tar"], "day1", ["00"]),
        (["day1/*.tar", "day2/*.tar"], "", ["day1/00", "day2/00"]),
        (["day1/*"], "day1", ["00", "02", "03"]),
        (["{00..01}.tar"], "", ["00", "01"]),
        (["day{1,2}/*.tar"], "", ["day1/00", "day2/00"]),
        (["{day1,day2}/00.tar"], "", ["day1/00", "day2/00"]),
        (["01.tar", "00.tar", "*.tar"], "", ["00", "01"]),
        (["day1/00.tar"], "day1", ["00"]),
        (["day1/{02.tar.gz,03.tgz}"], "day1", ["02", "03"]),
    ],
)
def test_patterns_and_ids(tmp_path: Path, patterns: list[str], root: str, shards: list[str]) -> None:
    touch(tmp_path, "00.tar", "01.tar", "day1/00.tar", "day2/00.tar", "day1/02.tar.gz", "day1/03.tgz")
    found = list_shards([f"{tmp_path}/{pattern}" for pattern in patterns])
    assert ids(found) == shards
    assert found.root == str(tmp_path / root)
    assert missing(found) == []
    assert all(os.path.isfile(ref.url) for ref in found.shards)


def test_ids_do_not_change_when_shards_appear(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/00.tar")
    before = list_shards([f"{tmp_path}/**/*.tar"])
    touch(tmp_path, "c/00.tar")
    after = list_shards([f"{tmp_path}/**/*.tar"])
    assert (ids(before), ids(after)) == (["a/b/00"], ["a/b/00", "c/00"])
    assert before.shards[0] in after.shards


def test_the_fingerprint_follows_the_bytes_through_links(tmp_path: Path) -> None:
    touch(tmp_path, "real/00.tar", "elsewhere/00.tar")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/00.tar").symlink_to(tmp_path / "real/00.tar")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dangling.tar").symlink_to(tmp_path / "none.tar")
    first = list_shards([f"{tmp_path}/data/*.tar", f"{tmp_path}/data/*/*.tar"])
    assert ids(first) == ["00", "dangling", "linked/00"]
    assert missing(first) == ["dangling"]
    again = list_shards([f"{tmp_path}/data/*.tar", f"{tmp_path}/data/*/*.tar"])
    assert again == first
    (tmp_path / "real/00.tar").write_bytes(b"longer than before")
    changed = list_shards([f"{tmp_path}/data/{{00..00}}.tar"])
    assert changed.shards[0].fingerprint != first.shards[0].fingerprint


def test_relative_paths_file_urls_and_absolute_paths_are_one(tmp_path: Path) -> None:
    touch(tmp_path, "d/00.tar")
    relative = os.path.relpath(tmp_path / "d/00.tar")
    found = [list_shards([text]) for text in (relative, f"{tmp_path}/x/../d/00.tar", f"file://{tmp_path}/d/00.tar")]
    assert found[0] == found[1] == found[2]
    assert found[0].patterns == (str(tmp_path / "d/00.tar"),)
    assert found[0].shards[0].url == str(tmp_path / "d/00.tar")


def test_a_path_that_exists_is_literal(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].tar", "a1.tar", "b{1,2}.tar", "*.tar")
    for name in ("a[1]", "b{1,2}", "*"):
        assert ids(list_shards([f"{tmp_path}/{name}.tar"])) == [name]


def test_half_written_files_are_not_matched(tmp_path: Path) -> None:
    touch(tmp_path, "00.tar", f"{TEMPORARY_PREFIX}123-01.tar", f"deep/{TEMPORARY_PREFIX}123-01.tar")
    assert ids(list_shards([f"{tmp_path}/**/*.tar"])) == ["00"]


def test_named_shards_that_are_not_there_are_listed_without_fingerprint(tmp_path: Path) -> None:
    touch(tmp_path, "00.tar", "02.tar")
    found = list_shards([f"{tmp_path}/{{00..03}}.tar"])
    assert (ids(found), missing(found)) == (["00", "01", "02", "03"], ["01", "03"])
    assert missing(list_shards([f"{tmp_path}/00.tar", f"{tmp_path}/no.tar"])) == ["no"]


def test_nothing_there_is_refused_with_what_is(tmp_path: Path) -> None:
    touch(tmp_path, "data/00.tar", "data/notes.txt")
    for pattern in ("data/*.tgz", "data/none.tar", "data/deep/er/*.tar", "data/{10..12}.tar"):
        with pytest.raises(ShardPatternError, match=r"matches no shard .*/data', has 00\.tar, notes\.txt") as caught:
            list_shards([f"{tmp_path}/{pattern}"])
        assert pattern in str(caught.value)
    with pytest.raises(ShardPatternError, match=r"\*\.tgz"):
        list_shards([f"{tmp_path}/data/*.tar", f"{tmp_path}/data/*.tgz"])
    with pytest.raises(ShardPatternError, match="no shards given"):
        list_shards([])


def test_a_folder_is_refused_with_the_glob_to_write(tmp_path: Path) -> None:
    touch(tmp_path, "data/00.tar", "other/00.tar")
    for pattern in ("data", "data/", "{data,other}"):
        with pytest.raises(ShardPatternError, match=r"is a folder, .*/data/\*\.tar"):
            list_shards([f"{tmp_path}/{pattern}"])


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "a.tar.gz")
    with pytest.raises(ShardPatternError, match=r"a\.tar' and .*a\.tar\.gz' would both be shard 'a'"):
        list_shards([f"{tmp_path}/*"])


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("nosuch://x/*.tar", "nosuch"),
        ("memory://x/{1..3.tar", "braces"),
        ("http://127.0.0.1:9/00.tar", "cannot list|matches no shard"),
        ("memory://x/a**.tar", r"\*\*"),
    ],
)
def test_what_cannot_be_listed_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(ShardPatternError, match=what):
        list_shards([pattern])


def test_other_stores(tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    memory = fsspec.filesystem("memory")
    for shard in ("a/00", "a/01", "b/00"):
        memory.pipe_file(f"/{name}/{shard}.tar", b"x")
    found = list_shards([f"memory://{name}/**/*.tar"])
    assert (found.root, ids(found)) == (f"memory://{name}", ["a/00", "a/01", "b/00"])
    assert found.shards[0].url == f"memory://{name}/a/00.tar"
    ranged = list_shards([f"memory://{name}/a/{{00..02}}.tar"])
    assert (ids(ranged), missing(ranged)) == (["00", "01", "02"], ["02"])
    chained = list_shards([f"simplecache::memory://{name}/a/*.tar"])
    assert [ref.url for ref in chained.shards] == [f"simplecache::memory://{name}/a/0{n}.tar" for n in (0, 1)]
    touch(tmp_path, "00.tar")
    with pytest.raises(ShardPatternError, match="must be in one store"):
        list_shards([f"memory://{name}/a/*.tar", f"{tmp_path}/*.tar"])
    memory.rm(f"/{name}", recursive=True)


def test_web_servers(tmp_path: Path, web: str) -> None:
    touch(tmp_path, "d/00.tar", "d/01.tar")
    ranged = list_shards([f"{web}/d/{{00..02}}.tar"])
    assert (ids(ranged), missing(ranged)) == (["00", "01", "02"], ["02"])
    listed = list_shards([f"{web}/d/*.tar"])
    assert (listed.root, listed.shards) == (f"{web}/d", ranged.shards[:2])
    assert listed.shards[0].fingerprint is not None and listed.shards[0].fingerprint.size == len("d/00.tar")
    assert listed.shards[0].fingerprint.tag
    with pytest.raises(ShardPatternError, match="matches no shard"):
        list_shards([f"{web}/d/*.tgz"])


def test_a_range_that_is_too_wide_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ShardPatternError, match="more than 1,000,000 shards"):
        list_shards([f"{tmp_path}/{{0..99999999999}}.tar"])
