"""A batch size is found once, whoever asks, and wherever the memory of it cannot be kept."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.tagging import batch_sizes
from flows.tagging.batch_sizes import known_or_found
from storage.batch_sizes import read_batch_size


@pytest.mark.parametrize("writable", [True, False])
def test_threads_that_ask_together_measure_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    cache = tmp_path / "cache"
    if not writable:
        cache.write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(batch_sizes, "_found", {})
    measured = []

    def find() -> int:
        time.sleep(0.05)
        measured.append(1)
        return 256

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: known_or_found("a", find), range(8))) == {256}
    assert len(measured) == 1
    assert read_batch_size("a") == (256 if writable else None)
