"""However a taxonomy came to be what it is, the views show what tagging from scratch with it would have shown."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.apply import ApplySteps, plan_apply, run_apply
from schemas.config import ApplyRequest
from schemas.retraining import RetrainPolicy
from schemas.taxonomy import Taxonomy
from storage.annotations import Annotation, write_annotations
from storage.files import Folder
from storage.taxonomies import write_taxonomy
from tests.flows.annotated import scenes, side_files
from tests.flows.world import World
from tests.taxonomy_edits import IDS, Edit, edits, first_taxonomy

START = datetime(2026, 6, 1, tzinfo=UTC)
PICTURES = 8
LABELS = "select * from labels order by all"
TAGS = "select * exclude (run_id) from tags order by dataset, shard, sample, label_id"
# Scores of retired labels stay in the store where they were computed, and a fresh store has none of them.
SCORES = (
    "select s.* exclude (run_id) from scores s where label_id in (select unnest({scored})) "
    "order by dataset, shard, sample, label_id"
)
GROUND_TRUTH = "select * from ground_truth order by all"


@dataclass(frozen=True)
class Answer:
    """Somebody says of a picture whether a label is there; the label need not be in the taxonomy yet."""

    picture: int
    label_id: str
    value: int | None

    def keep(self, store: str, at: datetime) -> None:
        key = scenes(PICTURES, 0)[self.picture][0]
        said = Annotation(key=key, label_id=self.label_id, value=self.value, source="me", at=at)
        write_annotations(Folder(store), [said])


@dataclass(frozen=True)
class Night:
    """The nightly `tag` runs: of a taxonomy that was in force before it is the same run again."""


Step = Edit | Answer | Night
ANSWERS = st.builds(Answer, st.integers(0, PICTURES - 1), st.sampled_from(IDS), st.sampled_from((1, 0, None)))
STEPS = st.lists(st.one_of(edits(), edits(), edits(), ANSWERS, st.just(Night())), min_size=1, max_size=8)


NAMES = {
    "first": Edit("rename", "ant", "", "red square"),
    "second": Edit("rename", "ant", "", "yellow star"),
    "view": Edit("rename the view", "ant", "", "black star"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world of two shards of four scenes with side files, tagged with the taxonomy that all edits begin with.

    The side files name labels in words, which the taxonomy may come to know or forget.
    """
    world = World(tmp_path_factory.mktemp("begun"))
    members = side_files(
        scenes(PICTURES, 0), lambda key, labels: {"labels": [name.replace("-", " ") for name in labels]}
    )
    world.shard("00000", members[: len(members) // 2])
    world.shard("00001", members[len(members) // 2 :])
    for floor in (0.0, None):
        tag(world, str(world.folder / f"store-{floor}"), first_taxonomy(), floor=floor)
    return world


def tag(world: World, store: str, taxonomy: Taxonomy, *, floor: float | None) -> None:
    """Tag from scratch."""
    world.taxonomy.write_text(taxonomy.model_dump_json())
    assert world.tag(store=store, **({} if floor is None else {"floor": floor})).whole


def apply(store: str, taxonomy: Taxonomy) -> None:
    """Carry out `taxonomy apply`, without retraining."""
    write_taxonomy(Folder(store), taxonomy)  # so that it can be named by its digest
    request = ApplyRequest(store=store, taxonomy=taxonomy.digest, policy=RetrainPolicy(enabled=False))
    assert run_apply(plan_apply(request), ApplySteps(retrain=None)).complete


def play(world: World, store: str, steps: Sequence[Step], *, floor: float | None) -> Taxonomy:
    """Carry out the steps one after the other; return the last taxonomy."""
    taxonomy = first_taxonomy()
    for number, step in enumerate(steps):
        match step:
            case Answer():
                step.keep(store, START + timedelta(hours=number))
            case Night():
                tag(world, store, taxonomy, floor=floor)
            case Edit():
                taxonomy = step.of(taxonomy)
                apply(store, taxonomy)
    return taxonomy


def fresh(world: World, played: Path, store: Path, taxonomy: Taxonomy, *, floor: float | None) -> None:
    """Make a store with the answers of another one, tagged once; the features are copied, so that it takes no time."""
    for name in ("features", "side_labels", "annotations"):
        if (played / name).exists():
            shutil.copytree(played / name, store / name)
    tag(world, str(store), taxonomy, floor=floor)


def stores(world: World, steps: Sequence[Step], floor: float | None, folder: Path) -> tuple[str, str, Taxonomy]:
    """Return a store in which the steps were played, a fresh one, and the taxonomy that both have."""
    played, other = folder / "played", folder / "fresh"
    shutil.copytree(world.folder / f"store-{floor}", played)
    taxonomy = play(world, str(played), steps, floor=floor)
    fresh(world, played, other, taxonomy, floor=floor)
    return str(played), str(other), taxonomy


def same(world: World, query: str, played: str, fresh: str) -> bool:
    """Whether both stores answer alike; numbers but for the last bit, which depends on what was computed with it."""
    one, other = world.ask(query, played), world.ask(query, fresh)
    return len(one) == len(other) and all(map(_same_row, one, other))


def _same_row(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(one, other, strict=True)
    )


# floor=0 keeps every score, so what is not there was not computed. With a higher floor and top_k the rows below it
# depend on which labels were scored together; tags do not, as no threshold is below the floor: see the other test.
@settings(max_examples=12, deadline=None)
@given(STEPS)
@example([NAMES["first"], NAMES["second"]])
@example([NAMES["first"], NAMES["second"], NAMES["first"]])
@example([NAMES["first"], Night(), NAMES["view"], Edit("merge", "ant", "bee", "")])
@example([Answer(0, "ant", 1), Edit("merge", "bee", "ant", ""), Edit("retire", "ant", "", ""), NAMES["first"]])
def test_views_are_those_of_a_fresh_store(begun: World, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        played, other, taxonomy = stores(begun, steps, 0.0, Path(folder))
        scored = [label.id for label in taxonomy.scored_labels()]
        for query in (LABELS, SCORES.format(scored=scored), TAGS, GROUND_TRUTH):
            assert same(begun, query, played, other), query


@settings(max_examples=5, deadline=None)
@given(STEPS)
def test_tags_are_those_of_a_fresh_store_whatever_the_floor(begun: World, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        played, other, _ = stores(begun, steps, None, Path(folder))
        assert same(begun, TAGS, played, other)


def test_the_world_of_the_property_has_something_to_show(begun: World) -> None:
    store = str(begun.folder / "store-0.0")
    for view in ("tags", "ground_truth", "scores", "labels"):
        assert begun.ask(f"select count(*) > 2 from {view}", store) == [(True,)], view
