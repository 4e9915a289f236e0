"""Things said twice are said alike: version and changelog, README and disk, lock and rules."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_changelog_tells_of_the_version() -> None:
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_shows_the_folders_that_are_there() -> None:
    house = (ROOT / "README.md").read_text().partition("## The house")[2]
    named = re.findall(r"^(\w+)/ ", house, re.MULTILINE)
    assert named and all((ROOT / name).is_dir() for name in named)


def test_links_in_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_lock_is_hashed_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.findall(r"^[a-z0-9._-]+==", lock, re.MULTILINE)
    assert len(packages) > 50 and lock.count("--hash=sha256:") >= len(packages)
    assert not re.search(r"https?://", lock)
    assert not (ROOT / "uv.lock").exists()


def test_weights_that_ship_are_small_safetensors() -> None:
    for folder in (ROOT / "clipdecoder" / "bundled").iterdir():
        assert sum(path.stat().st_size for path in folder.iterdir()) < 10 * 2**20
        assert not [path.name for path in folder.iterdir() if path.suffix in {".pt", ".bin", ".pth", ".ckpt", ".pkl"}]
        assert (folder / "README.md").exists()
