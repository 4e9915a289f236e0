"""A disk that is asked without a detour says what fsspec says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from storage import disk


def test_the_sizes_of_files_are_those_that_fsspec_finds(tmp_path: Path) -> None:
    for name, size in {"a": 3, "b/c": 0, "b/d/e f": 70_000, "b/.hidden": 1}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b" / "c")
    for place in (tmp_path, tmp_path / "b", tmp_path / "a", tmp_path / "empty"):
        found = LocalFileSystem().find(str(place), detail=True)
        sizes = {path: info.get("size", 3) for path, info in found.items()}  # of a file itself fsspec says nothing
        assert dict(disk.sizes(str(place))) == sizes
    with pytest.raises(FileNotFoundError):
        list(disk.sizes(str(tmp_path / "missing")))


def test_links_are_told_of_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inside" / "here").mkdir(parents=True)
    for name, target in {"again": str(tmp_path), "nowhere": "missing", "loop": "loop"}.items():
        (tmp_path / "inside" / name).symlink_to(target)
    found = {Path(path).name: size for path, size in disk.sizes(str(tmp_path))}
    assert found.keys() == {"again", "nowhere", "loop"} and found["nowhere"] == found["loop"] == 0


def test_a_folder_that_may_not_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "open").write_bytes(b"x")
    (tmp_path / "closed").mkdir(0o000)
    code = """
import os
from storage import disk
if os.getuid() == 0:  # who may read everything
    os.setuid(54321)
try:
    print(list(disk.sizes(".")))
except PermissionError as error:
    print(error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "./closed\n"


def test_a_file_is_written_with_the_folders_that_it_needs(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b" / "file")
    assert disk.write(path, b"first") == 5
    assert disk.write(path, b"then") == 4
    assert disk.read(path) == b"then"
    with pytest.raises(NotADirectoryError):
        disk.write(f"{path}/below", b"")
    with pytest.raises(FileNotFoundError):
        disk.read(str(tmp_path / "missing"))
