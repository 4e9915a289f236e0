"""How many cores are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.environment import usable_cores


@pytest.mark.parametrize(
    ("said", "least"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None), (None, None)]
)
def test_a_containers_quota_counts(tmp_path: Path, said: str | None, least: int | None) -> None:
    quota = tmp_path / "cpu.max"
    if said is not None:
        quota.write_text(said)
    everything = usable_cores(tmp_path / "nothing")
    assert everything >= 1
    assert usable_cores(quota) == (everything if least is None else min(least, everything))
