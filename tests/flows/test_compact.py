"""Compacted stores go on: whatever is tagged afterwards, answers are those of the parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from storage.audit import audit_run
from storage.catalog import open_catalog
from storage.compact import compact_store
from storage.files import Folder
from tests.flows.world import LABELS, World, decoded, make_world, pictures, taxonomy_text

QUESTIONS = tuple(f"FROM {view} ORDER BY ALL" for view in ("samples", "scores", "all_scores", "tags", "failures"))


def answers(world: World, tmp_path: Path) -> tuple[list[Any], list[Any]]:
    """Return what the store answers, and what it would if nobody had ever compacted it."""
    plain = tmp_path / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    shutil.copytree(world.store, plain, ignore=shutil.ignore_patterns("compacted*"))
    return asked(world.store), asked(str(plain))


def asked(store: str) -> list[Any]:
    with open_catalog(store) as connection:
        return [connection.execute(question).fetchall() for question in QUESTIONS]


def test_what_is_tagged_after_a_compaction_is_answered_as_if_there_had_been_none(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", shards=3, images=3)
    world.shard("00001", [*pictures(1, 2), ("bad.jpg", b"no picture")])
    folder = Folder(world.store)
    world.tag(floor=0.0)

    def compact() -> int:
        found, expected = answers(world, tmp_path)
        assert found == expected
        written = sum(run.written for run in compact_store(folder).runs)
        assert answers(world, tmp_path) == (expected, expected)
        return written

    assert compact() == 2
    assert decoded(world.tag(floor=0.0)) == 0, "the run is still known as done"
    world.shard("00000", pictures(7, 4))  # other bytes
    world.shard("00003", pictures(3, 2))
    assert decoded(world.tag(floor=0.0)) == 6
    assert compact() == 2
    world.taxonomy.write_text(taxonomy_text([*LABELS, "red-star"]))
    assert decoded(world.tag(floor=0.0, labels="new")) == 0
    assert compact() == 2
    world.tag(floor=0.0, labels="new", retry_failed=True)
    world.taxonomy.write_text(taxonomy_text())
    world.tag(floor=0.0, retry_failed=True)
    compact()
    assert audit_run(folder).ok
