"""How many cores are ours, and whether there is a Prefect server to be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.environment import has_server, usable_cores


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


def test_a_server_is_known_from_the_environment_or_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert not has_server()
    (tmp_path / "profiles.toml").write_text('[profiles.ours]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n')
    assert has_server()
    (tmp_path / "profiles.toml").unlink()
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    assert not has_server()
    (tmp_path / "prefect.toml").write_text("[api]\n")
    assert has_server()
    (tmp_path / "prefect.toml").unlink()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert has_server()
