"""What a run's summary and a dry run say: each shard counted once, and everything that an operator should know."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.tagging.estimate import estimate_tag
from flows.tagging.plan import plan_tag
from flows.tagging.run import run_tag_here
from flows.tagging.summary import TagSummary, summarise
from tests.flows.world import World, make_world, pictures
from tests.nasty import TEXT_AS_JPEG, build_tar, cut_tar, jpeg


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, shards=2, images=4)


def summary(world: World, **changes: object) -> TagSummary:
    return summarise(run_tag_here(plan_tag(world.request(**changes))), 1.0)


def patterns(world: World, last: int) -> tuple[str]:
    return (str(world.folder / "shards" / f"{{00000..{last:05d}}}.tar"),)


def break_shards(world: World) -> tuple[str]:
    """Make the third shard end early, the fourth no tar, and name a fifth that is not there."""
    world.raw_shard("00002", cut_tar(build_tar(pictures(2, 5)), "s2-3.jpg"))
    world.raw_shard("00003", b"no tar" * 1000)
    return patterns(world, 4)


def test_each_shard_is_counted_once(world: World) -> None:
    shards = break_shards(world)
    told = summary(world, shards=shards)
    assert (told.tagged, told.truncated, len(told.troubles)) == (3, 1, 3)
    assert told.lines()[1] == ("- 5 shards: 3 tagged now, 0 before, 2 in trouble; 1 of those tagged end early")
    assert summary(world, shards=shards).lines()[1].startswith("- 5 shards: 0 tagged now, 3 before, 2 in trouble;")


def test_a_run_over_its_budget_says_so_first(world: World) -> None:
    world.shard("00000", [(f"{number}.jpg", TEXT_AS_JPEG) for number in range(3)])
    told = summary(world, max_bad=0.1)
    assert told.over_budget and told.complete and not told.ok
    assert told.lines()[0] == f"run {told.run_id}: TOO MANY FAILED, more than --max-bad allows; complete"
    world.shard("00000", [(f"{number}.jpg", TEXT_AS_JPEG) for number in range(120)])
    world.shard("00001", [(f"{number}.jpg", TEXT_AS_JPEG) for number in range(120)])
    stopped = summary(world, max_bad=0.1)
    assert stopped.over_budget and not stopped.complete
    assert stopped.lines()[0].endswith("TOO MANY FAILED, more than --max-bad allows; stopped, NOT complete")
    assert "not begun" in stopped.lines()[1]


def test_jpegs_that_only_pillow_reads_are_counted(world: World) -> None:
    data = jpeg(7, 200, 160)
    odd = data[:-2] + bytes(10) + data[-2:]  # bytes that belong to nothing before the end
    world.shard("00002", [("odd.jpg", odd), ("good.jpg", jpeg(8, 200, 160))])
    told = summary(world)
    assert told.ok and told.lenient == 1
    assert "- read by Pillow, as the strict decoder refuses them: 1 JPEG" in told.lines()
    assert summary(world).lenient == 0, "of this time"


def test_a_dry_run_names_the_shards_that_it_sees_are_broken(world: World) -> None:
    world.raw_shard("00000", b"no tar" * 1000)
    estimate = estimate_tag(plan_tag(world.request(shards=patterns(world, 2))))
    assert [(each.shard, str(each.status)) for each in estimate.troubles] == [
        ("00002", "missing"),
        ("00000", "not_a_tar"),
    ]
    assert estimate.pending == 2 and estimate.sampled == 4
    lines = estimate.lines()
    assert lines[-2].startswith("- shard 00002: missing: ") and lines[-1].startswith("- shard 00000: not_a_tar: ")


def test_a_dry_run_says_that_the_shard_which_it_measured_ends_early_and_what_it_did_not_open(world: World) -> None:
    whole = (world.folder / "shards" / "00000.tar").read_bytes()
    world.raw_shard("00000", whole[: len(whole) * 2 // 3])
    estimate = estimate_tag(plan_tag(world.request(shards=patterns(world, 1))))
    assert [(each.shard, str(each.status)) for each in estimate.troubles] == [("00000", "truncated")]
    assert 0 < estimate.sampled <= estimate.images_expected
    assert estimate.opened == 1 and estimate.lines()[-1].startswith("- 1 shard not opened: ")
