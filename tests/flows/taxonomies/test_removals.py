"""A label that is gone from the taxonomy, and has scores: tagging with such a file says so, every time."""

from __future__ import annotations

from pathlib import Path

from flows.tagging.summary import summarise
from flows.taxonomies.removals import removed_labels
from schemas.taxonomy import Taxonomy
from storage.files import Folder
from storage.runs import read_runs
from storage.taxonomies import load_taxonomy
from tests.flows.world import LABELS, World, pictures, taxonomy_text

FEWER = taxonomy_text([label for label in LABELS if label != "blue-star"])


def steps(world: World, **changes: str) -> list[str]:
    return summarise(world.tag(**changes), 1.0).next_steps


def test_tagging_without_a_label_that_has_scores_says_so_until_it_is_retired(world: World) -> None:
    assert steps(world) == []
    world.taxonomy.write_text(FEWER)
    for _ in range(2):
        (step,) = steps(world)
        assert "does not name blue-star any more" in step and "retired: true" in step
    nothing_new = summarise(world.tag(labels="new"), 1.0)
    assert any("does not name blue-star" in line for line in nothing_new.lines())
    world.taxonomy.write_text(taxonomy_text().replace("name: blue star}", "name: blue star, retired: true}"))
    assert steps(world) == []


def test_labels_of_another_taxonomy_are_its_own(world: World) -> None:
    world.tag()
    world.taxonomy.write_text(taxonomy_text(["red-ring"], name="other"))
    assert steps(world) == []


def test_a_version_that_is_lost_is_no_hindrance(world: World, tmp_path: Path) -> None:
    world.tag()
    folder = Folder(world.store)
    world.taxonomy.write_text(FEWER)
    fewer: Taxonomy = load_taxonomy(str(world.taxonomy))
    assert removed_labels(folder, fewer, read_runs(folder)) == ("blue-star",)
    next(path for path in (tmp_path / "store" / "taxonomies").glob("*.json")).unlink()
    assert removed_labels(folder, fewer, read_runs(folder)) == ()


def test_a_label_that_was_never_scored_may_go(world: World) -> None:
    world.shard("00000", pictures(0, 1))
    world.tag(labels="red-circle")
    world.taxonomy.write_text(FEWER)
    assert steps(world) == []
