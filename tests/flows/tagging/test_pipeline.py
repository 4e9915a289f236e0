"""Many shards at once: each gets what it would get alone, and whatever fails, nothing hangs and nothing stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdecoder.encoders.transforms import ImageTransform, Picture
from clipdecoder.scoring.tagger import BatchTagger, StartedBatch
from flows.tagging.features import FeatureRequest
from flows.tagging.pipeline import run_shards
from flows.tagging.plan import plan_tag
from flows.tagging.reading import ShardReading
from flows.tagging.run import execute_here, make_scorer, tag_group
from flows.tagging.shard_job import Scorer
from flows.tagging.shard_rows import Cells, ShardRows
from flows.tagging.summary import summarise
from schemas.errors import RunError, StoreError
from schemas.manifest import QueueFacts
from schemas.sample import SampleStatus, ShardStatus
from storage.files import Folder, iter_leftovers
from storage.parts import ShardFeatures
from storage.patterns import ShardRef, list_shards
from storage.tokens import TokenChunk
from tests.flows.world import World, make_world, pictures
from tests.nasty import TEXT_AS_JPEG, build_tar, cut_tar, jpeg


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = {thread.name for thread in threading.enumerate()}
    yield
    assert {thread.name for thread in threading.enumerate()} <= before


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    world = make_world(tmp_path_factory.mktemp("scorer"), shards=1, images=1)
    return make_scorer(plan_tag(world.request(floor=0.2, top_k=2)))


@dataclass
class Collecting:
    """A sink that collects what came of each shard; of one that failed, its error."""

    stop_after: int = 10**9
    tokens: dict[str, list[TokenChunk]] = field(default_factory=dict)
    closed: bool = False

    def finish(self, rows: ShardRows, queues: dict[str, QueueFacts]) -> tuple[str, ShardFeatures, Cells] | str:
        if rows.reading.failed is not None:
            return str(rows.reading.failed.status)
        return rows.reading.ref.shard, rows.features(), rows.kept()

    def keep_tokens(self, rows: ShardRows, chunk: TokenChunk) -> None:
        self.tokens.setdefault(rows.reading.ref.shard, []).append(chunk)

    def enough(self, rows: ShardRows) -> bool:
        self.stop_after -= 1
        return self.stop_after <= 0

    def close(self) -> None:
        self.closed = True


def request(store: Path, scorer: Scorer, **changes: Any) -> FeatureRequest:
    values: dict[str, Any] = {"batch_size": 4, "decode_threads": 2, "max_pixels": 10**6} | changes
    return FeatureRequest(store=str(store), dataset="d", encoder_id=scorer.encoder.encoder_id, **values)


def shards_of(refs: Sequence[ShardRef], wanted: FeatureRequest, scorer: Scorer) -> Iterator[ShardRows]:
    for ref in refs:
        reading = ShardReading(ref=ref, wanted=wanted)
        yield ShardRows(reading=reading, encoder=scorer.encoder, tagger=scorer.tagger)


def run(refs: Sequence[ShardRef], wanted: FeatureRequest, scorer: Scorer, sink: Collecting | None = None) -> list[Any]:
    tagger = scorer.tagger
    return list(run_shards(shards_of(refs, wanted, scorer), tagger, wanted, sink or Collecting()))


def assert_same(found: tuple[str, ShardFeatures, Cells], wanted: tuple[str, ShardFeatures, Cells]) -> None:
    """They are equal to the last bit."""
    assert found[0] == wanted[0] and found[1].rows == wanted[1].rows and found[1].facts == wanted[1].facts
    np.testing.assert_array_equal(found[1].embeddings_ND, wanted[1].embeddings_ND)
    for one, other in zip(found[2], wanted[2], strict=True):
        np.testing.assert_array_equal(one, other)


POOL = [jpeg(seed, 30 + seed, 40) for seed in range(12)]
BAD = [TEXT_AS_JPEG, POOL[0][:200], b""]
shard_contents = st.lists(st.integers(0, len(POOL) + len(BAD) - 1), max_size=7)


@settings(max_examples=12, deadline=None)
@given(
    contents=st.lists(shard_contents, min_size=1, max_size=6),
    batch_size=st.integers(1, 8),
    threads=st.integers(1, 3),
)
def test_each_shard_gets_what_it_gets_alone(
    tmp_path_factory: pytest.TempPathFactory,
    scorer: Scorer,
    contents: list[list[int]],
    batch_size: int,
    threads: int,
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    everything = [*POOL, *BAD]
    for number, chosen in enumerate(contents):
        world.shard(f"{number:02d}", [(f"{i}.jpg", everything[which]) for i, which in enumerate(chosen)])
    refs = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    wanted = request(world.folder / "store", scorer, batch_size=batch_size, decode_threads=threads)
    together = sorted(run(refs, wanted, scorer), key=lambda done: done[0])
    assert [shard for shard, _, _ in together] == [ref.shard for ref in refs]
    for ref, found, chosen in zip(refs, together, contents, strict=True):
        assert_same(found, run([ref], wanted, scorer)[0])
        good = [i for i, which in enumerate(chosen) if which < len(POOL)]
        assert found[1].ok_samples.tolist() == good and len(found[1].rows) == len(chosen)
        assert set(found[2].sample_M.tolist()) == set(good), "two labels of each are kept"


def test_shards_in_trouble_are_their_own(tmp_path: Path, scorer: Scorer) -> None:
    world = World(tmp_path)
    world.shard("0", pictures(0, 3))
    world.raw_shard("1", b"no tar" * 300)
    world.raw_shard("2", cut_tar(build_tar(pictures(2, 6)), "s2-4.jpg"))
    world.shard("3", pictures(3, 3))
    refs = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    gone = replace(refs[0], shard="gone", fingerprint=None)
    found = run([*refs, gone], request(tmp_path / "store", scorer), scorer)
    assert {ShardStatus.NOT_A_TAR, ShardStatus.MISSING} == {error for error in found if isinstance(error, str)}
    first, cut, last = (done for done in found if not isinstance(done, str))
    assert cut[1].facts.status is ShardStatus.TRUNCATED and len(cut[1].rows) >= 4
    assert [len(done[1].rows) for done in (first, last)] == [3, 3]


def test_pictures_of_several_shards_are_one_batch(tmp_path: Path, scorer: Scorer) -> None:
    world = World(tmp_path)
    for number in range(6):
        world.shard(str(number), pictures(number, 3))
    refs = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    counting = Counting(scorer)
    wanted = request(tmp_path / "store", scorer, batch_size=7)
    shards = shards_of(refs, wanted, scorer)
    assert len(list(run_shards(shards, counting, wanted, Collecting()))) == 6
    assert counting.counts == [7, 7, 4]


class Counting(BatchTagger):
    """Notes how many pictures each batch has; fails at the one that it is told to."""

    def __init__(self, scorer: Scorer, fails_at: int = 10**9) -> None:
        super().__init__(scorer.encoder, scorer.vocabulary, floor=0.2, top_k=2, tokens=False)
        self.counts: list[int] = []
        self.fails_at = fails_at

    def start(self, pixels_BHWC: Any, count: int, *, stored_BD: Any = None) -> StartedBatch:
        self.counts.append(count)
        if len(self.counts) == self.fails_at:
            raise RunError("the device has no memory")
        return super().start(pixels_BHWC, count, stored_BD=stored_BD)


class Broken:
    """A transform with a bug that shows with the fifth picture."""

    def __init__(self, transform: ImageTransform) -> None:
        self.transform, self.size, self.count = transform, transform.size, 0

    def read(self, data: bytes, *, max_pixels: int) -> Picture:
        self.count += 1
        if self.count == 5:
            raise ZeroDivisionError("a bug")
        return self.transform.read(data, max_pixels=max_pixels)


class FullDisk(Collecting):
    """A sink that cannot write the second shard."""

    def finish(self, rows: ShardRows, queues: dict[str, QueueFacts]) -> Any:
        if rows.reading.ref.shard == "1":
            raise StoreError("the disk is full")
        return super().finish(rows, queues)


@pytest.mark.parametrize("what", ["reader", "decoder", "device", "writer"])
def test_an_error_anywhere_ends_all_and_is_the_one_that_is_seen(what: str, tmp_path: Path, scorer: Scorer) -> None:
    world = World(tmp_path)
    for number in range(30):
        world.shard(str(number), pictures(number, 4))
    refs = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    wanted = request(tmp_path / "store", scorer, batch_size=2)
    tagger = Counting(scorer, fails_at=5 if what == "device" else 10**9)
    if what == "decoder":
        tagger.transform = Broken(tagger.transform)  # type: ignore[assignment]
    sink = FullDisk() if what == "writer" else Collecting()

    def shards() -> Iterator[ShardRows]:
        yield from shards_of(refs[:3], wanted, scorer)
        if what == "reader":
            raise LookupError("a bug")
        yield from shards_of(refs[3:], wanted, scorer)

    error = {"reader": LookupError, "decoder": ZeroDivisionError, "device": RunError, "writer": StoreError}[what]
    with pytest.raises(error):
        list(run_shards(shards(), tagger, wanted, sink))
    assert sink.closed


def test_it_stops_when_it_is_enough_and_finishes_what_it_has(tmp_path: Path, scorer: Scorer) -> None:
    world = World(tmp_path)
    for number in range(9):
        world.shard(str(number), pictures(number, 3))
    refs = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    done = run(refs, request(tmp_path / "store", scorer), scorer, Collecting(stop_after=4))
    assert [shard for shard, _, _ in done] == ["0", "1", "2", "3"]


def test_whoever_takes_no_more_leaves_nothing_behind(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=6, images=4)
    plan = plan_tag(world.request(store_tokens=True))
    outcomes = execute_here(plan, [plan.shards], lambda ahead=None: False)
    first = next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert len(first.reports) == 1
    assert not list(iter_leftovers(Folder(world.store), "")), "of token files that were begun"


def test_groups_and_single_shards_leave_the_same_parts(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=5, images=3)
    plan = plan_tag(world.request(batch_size=8))
    other = plan_tag(world.request(batch_size=8, store=str(tmp_path / "alone")))
    group = tag_group(plan, plan.shards)
    alone = [report for ref in other.shards for report in tag_group(other, [ref]).reports]
    assert [report.parts for report in group.reports] == [report.parts for report in alone]
    for report in group.reports:
        assert set(report.queues) == {"files", "pictures", "writes"} and report.queues["files"].threads >= 1
        assert {"read", "decode", "encode", "score", "write"} <= set(report.seconds)


def test_the_limit_is_named(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=3, images=8)
    summary = summarise(world.tag(decode_threads=1), 1.0)
    assert summary.limit is not None and "-bound: " in summary.limit and summary.limit.endswith(" % busy")
    assert any(summary.limit in line for line in summary.lines())
    assert set(summary.queues) == {"files", "pictures", "writes"}
    assert summary.statuses == {SampleStatus.OK: 24}
