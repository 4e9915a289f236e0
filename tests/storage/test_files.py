"""Whatever has its final name is whole; errors of disks and networks come out as errors of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import StoreError
from storage.files import TEMPORARY_PREFIX, Folder, checksum, fingerprint_of, iter_leftovers, part_name


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


def test_a_file_is_written_read_replaced_and_removed(folder: Folder) -> None:
    assert not folder.exists("a/b.bin")
    assert folder.list("") == []
    folder.write_bytes("a/b.bin", b"one")
    first = fingerprint_of(folder.fs.info(folder.path("a/b.bin")))
    folder.write_bytes("a/b.bin", b"three")
    assert folder.exists("a/b.bin")
    assert folder.read_bytes("a/b.bin") == b"three"
    assert folder.list("") == folder.list("a") == folder.list("a", ".bin") == ["a/b.bin"]
    assert folder.list("a", ".json") == []
    assert fingerprint_of(folder.fs.info(folder.path("a/b.bin"))).size == 5
    assert fingerprint_of(folder.fs.info(folder.path("a/b.bin"))) != first
    assert list(iter_leftovers(folder, "")) == []
    folder.remove("a/b.bin")
    folder.remove("a/b.bin")
    assert not folder.exists("a/b.bin")
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("a/b.bin")
    with pytest.raises(FileNotFoundError):
        fingerprint_of(folder.fs.info(folder.path("a/b.bin")))


def test_created_files_appear_when_the_block_ends(folder: Folder) -> None:
    with folder.create("a/b.bin") as file:
        file.write(b"one")
        assert folder.list("") == []
        assert len(list(iter_leftovers(folder, ""))) == 1
        file.write(b"two")
    assert folder.read_bytes("a/b.bin") == b"onetwo"
    assert list(iter_leftovers(folder, "")) == []


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_nothing(folder: Folder, error: BaseException) -> None:
    folder.write_bytes("b.bin", b"before")
    with pytest.raises(type(error)), folder.create("b.bin") as file:
        file.write(b"after")
        raise error
    assert folder.read_bytes("b.bin") == b"before"
    assert list(iter_leftovers(folder, "")) == []


def test_leftovers_are_seen_by_name_only(folder: Folder) -> None:
    folder.write_bytes("a/b.bin", b"x")
    Path(folder.path(f"a/{TEMPORARY_PREFIX}1-b.bin")).write_bytes(b"half")
    assert folder.list("") == ["a/b.bin"]
    assert list(iter_leftovers(folder, "")) == [f"a/{TEMPORARY_PREFIX}1-b.bin"]


def test_what_cannot_be_written_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = Folder(str(tmp_path / "file/store"))
    with pytest.raises(StoreError, match="cannot write 'a' in the store"):
        folder.write_bytes("a", b"x")
    with pytest.raises(StoreError, match="cannot write 'a' in the store"), folder.create("a"):
        pass
    with pytest.raises(StoreError, match="nosuch"):
        Folder("nosuch://x")


def test_names_of_parts_are_safe_and_differ() -> None:
    assert part_name("day1/00") == "day1/00"
    assert part_name("a b*[1]?#é") == "a%20b%2A%5B1%5D%3F%23%C3%A9"
    assert checksum(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
