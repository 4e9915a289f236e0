"""Whatever happened to a store, a tagging run that says it is whole has what one run on an empty store has."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.tagging.outcomes import GroupOutcome
from flows.tagging.plan import TagPlan, plan_tag
from flows.tagging.run import Groups, Stop, execute_here, run_tag, run_tag_here
from storage.audit import audit_run
from storage.compact import compact_store
from storage.files import Folder
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text

SHARDS = ("00000", "00001", "a b", "ü%2F")
SCORES = "select shard, key, label_id, score from scores order by all"
SAMPLES = "select shard, key, sample, status, error, width, sha256 from samples order by all"


def own_files(world: World, pattern: str) -> list[Path]:
    """Return what the run that the request means has of a kind: of older runs nobody mends what is lost."""
    return sorted(Path(world.store, "runs", plan_tag(world.request()).record.run_id).rglob(pattern))


def lose(files: list[Path], number: int) -> None:
    """Remove one of the files, or cut it."""
    if files:
        path = files[number % len(files)]
        data = path.read_bytes()
        path.unlink() if number % 2 else path.write_bytes(data[: len(data) // 2])


def interrupt(world: World, after: int) -> None:
    """Tag, and die when some shards are done."""

    def some(plan: TagPlan, groups: Groups, stop: Stop) -> Iterator[GroupOutcome]:
        for number, outcome in enumerate(execute_here(plan, groups, stop)):
            if number == after:
                raise KeyboardInterrupt
            yield outcome

    try:
        run_tag(plan_tag(world.request()), some)
    except KeyboardInterrupt:
        return


def compact(world: World) -> None:
    if Path(world.store, "runs").exists():
        compact_store(Folder(world.store), file_rows={"samples": 6, "scores": 40})


def write_shard(world: World, number: int) -> None:
    world.shard(SHARDS[number % len(SHARDS)], pictures(number, 1 + number % 4))


EVENTS: dict[str, Callable[[World, int], object]] = {
    "a shard is new, or another": write_shard,
    "a shard is touched": lambda world, number: os.utime(sorted(world.folder.glob("shards/*.tar"))[0]),
    "labels change": lambda world, number: world.taxonomy.write_text(taxonomy_text(LABELS[: 1 + number % 4])),
    "texts change": lambda world, number: world.taxonomy.write_text(
        taxonomy_text().replace("a photo", ("a photo", "one")[number % 2])
    ),
    "a part is lost": lambda world, number: lose(own_files(world, "s*/*.parquet"), number),
    "a report is lost": lambda world, number: lose(own_files(world, "reports/*.json"), number),
    "the manifest is lost": lambda world, number: [path.unlink() for path in own_files(world, "manifest.json")],
    "features are lost": lambda world, number: lose(sorted(Path(world.store).glob("features/**/*.parquet")), number),
    "somebody tags": lambda world, number: world.tag(retry_failed=bool(number % 2)),
    "somebody tags what is new": lambda world, number: world.tag(labels="new"),
    "a run is interrupted": lambda world, number: interrupt(world, number % 3),
    "somebody compacts": lambda world, number: compact(world),
}


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 11)), max_size=9))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_whole_run_is_what_one_on_an_empty_store_is(story: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder), images=2)
        for event, number in story:
            EVENTS[event](world, number)
        outcome = world.tag()
        assert outcome.whole and set(outcome.resumed) | set(outcome.reports) == {
            path.stem for path in world.folder.glob("shards/*.tar")
        }
        assert plan_tag(world.request()).done and not world.tag().reports, "it has ended, and knows it"
        assert audit_run(Folder(world.store), outcome.plan.record.run_id).ok

        anew = str(world.folder / "anew")
        run_tag_here(plan_tag(world.request(store=anew)))
        assert world.ask(SAMPLES) == world.ask(SAMPLES, anew)
        labels = {label.label_id for label in outcome.plan.vocabulary}
        shown = [row for row in world.ask(SCORES) if row[2] in labels]  # what is not asked for any more stays
        assert shown == world.ask(SCORES, anew)
