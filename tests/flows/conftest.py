"""Fixtures of the flows' tests."""

from pathlib import Path

import pytest

from flows.training.summary import TrainSummary
from tests.flows.annotated import AnnotatedWorld, copy_world, make_annotated_world
from tests.flows.world import World, make_world

Learned = tuple[AnnotatedWorld, TrainSummary]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return two whole shards of five pictures, a taxonomy of four labels, and no store yet."""
    return make_world(tmp_path)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Return a world that a model was trained in, and what the training said; for tests that change nothing."""
    world = make_annotated_world(tmp_path_factory.mktemp("annotated"))
    return world, world.train()


@pytest.fixture
def annotated(learned: Learned, tmp_path: Path) -> AnnotatedWorld:
    """Return a copy of the world that a model was trained in: its features, patch tokens and model are stored."""
    return copy_world(learned[0], tmp_path / "annotated")


@pytest.fixture
def model_id(learned: Learned) -> str:
    """Return the id of the model that was trained."""
    return learned[1].model_id
