"""Fixtures of the flows' tests."""

from pathlib import Path

import pytest

from tests.flows.world import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return two whole shards of five pictures, a taxonomy of four labels, and no store yet."""
    return make_world(tmp_path)
