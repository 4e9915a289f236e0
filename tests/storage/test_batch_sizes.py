"""Batch sizes that are remembered: from one process to the next, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.batch_sizes import read_batch_size, remember_batch_size


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clipdecoder"


def test_sizes_are_remembered_one_by_one(cache: Path) -> None:
    assert read_batch_size("a") is None
    remember_batch_size("a", 256)
    remember_batch_size("b", 64)
    assert (read_batch_size("a"), read_batch_size("b"), read_batch_size("c")) == (256, 64, None)
    assert [path.name for path in cache.iterdir()] == ["batch-sizes.json"]


def test_a_damaged_or_unwritable_file_only_costs_the_memory(cache: Path) -> None:
    remember_batch_size("a", 256)
    for damaged in ("{", '{"sizes": {"a": 0}}'):
        (cache / "batch-sizes.json").write_text(damaged)
        assert read_batch_size("a") is None
    (cache / "batch-sizes.json").unlink()
    cache.rmdir()
    cache.write_text("a file where the folder would be")
    remember_batch_size("a", 256)
    assert read_batch_size("a") is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become a user that no list has")
def test_a_user_without_a_home_has_no_memory() -> None:
    code = """
import os
from storage.batch_sizes import read_batch_size, remember_batch_size
os.setuid(54321)
remember_batch_size("a", 256)
assert read_batch_size("a") is None
"""
    subprocess.run([sys.executable, "-c", code], env={"PATH": os.environ["PATH"]}, check=True)
