"""A run, from its request to its rows: nothing is lost, nothing is done twice, every failure has its code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from flows.tagging.outcomes import GroupOutcome
from flows.tagging.plan import TagPlan, plan_tag
from flows.tagging.run import Groups, Stop, execute_here, run_tag
from flows.tagging.summary import summarise
from schemas.errors import ConfigError, RequestError, RunError, StoreError, TaxonomyError
from schemas.sample import SampleStatus, ShardStatus
from storage.audit import audit_run
from storage.files import Folder, iter_leftovers
from storage.findings import FindingCode
from storage.models import promote, write_model
from storage.parts import read_features
from tests.flows.disks import NEVER, FullDisk
from tests.flows.world import LABELS, World, decoded, make_world, pictures, taxonomy_text
from tests.nasty import TEXT_AS_JPEG, build_tar, cut_tar, jpeg, nasty_shard, without_end


def scores(world: World, where: str = "true", store: str | None = None) -> dict[tuple[str, str, str], float]:
    rows = world.ask(f"select shard, key, label_id, score from scores where {where}", store)
    return {(shard, key, label_id): score for shard, key, label_id, score in rows}


def same(left: dict[tuple[str, str, str], float], right: dict[tuple[str, str, str], float]) -> bool:
    return left.keys() == right.keys() and all(abs(left[key] - right[key]) < 1e-5 for key in left)


def test_every_image_member_is_a_row_with_its_reason(world: World) -> None:
    nasty = nasty_shard()
    world.raw_shard("nasty", nasty.data)
    outcome = world.tag()
    rows = world.ask("select key, status, error is null from samples where shard = 'nasty' order by sample")
    assert [(key, status) for key, status, _ in rows] == [(row.key, row.status) for row in nasty.expected]
    assert all(silent == (status == "ok") for _, status, silent in rows), "a failure says why, a good row is silent"
    assert outcome.complete and outcome.whole, "bad images are rows, and no failure of the run"
    assert audit_run(Folder(world.store), None).ok
    scored = world.ask("select distinct sample from scores where shard = 'nasty' order by all")
    assert [ordinal for (ordinal,) in scored] == [i for i, row in enumerate(nasty.expected) if row.status == "ok"]


def test_good_images_score_as_in_a_clean_run(world: World, tmp_path: Path) -> None:
    nasty = nasty_shard()
    world.raw_shard("nasty", nasty.data)
    world.tag()
    clean = World(tmp_path / "clean")
    clean.shard("nasty", nasty.good)
    clean.taxonomy.write_text(taxonomy_text())
    clean.tag()
    assert same(scores(world, "shard = 'nasty'"), scores(clean))


def test_the_same_request_is_the_same_run_and_does_nothing_twice(world: World) -> None:
    first, again = world.tag(), world.tag()
    assert first.plan.record.run_id == again.plan.record.run_id
    assert (decoded(first), decoded(again), len(again.reports)) == (10, 0, 0)
    assert again.complete
    manifest = Path(world.store, "runs", first.plan.record.run_id, "manifest.json")
    before = manifest.stat().st_mtime_ns
    world.tag()
    assert manifest.stat().st_mtime_ns == before


def test_new_shards_under_the_pattern_are_the_only_work(world: World) -> None:
    first = world.tag()
    world.shard("00002", pictures(2, 3))
    second = world.tag()
    assert first.plan.record.run_id == second.plan.record.run_id
    assert list(second.reports) == ["00002"] and decoded(second) == 3
    assert world.ask("select count(*), count(distinct run_id) from samples") == [(13, 1)]


def test_a_shard_whose_bytes_changed_is_done_again(world: World) -> None:
    world.tag()
    world.shard("00001", pictures(7, 4))
    outcome = world.tag()
    assert list(outcome.reports) == ["00001"] and decoded(outcome) == 4
    assert world.ask("select count(*) from samples where shard = '00001'") == [(4,)]
    assert world.ask("select count(distinct key) from scores where shard = '00001' and key like 's7-%'") == [(4,)]
    assert world.ask("select count(*) from scores where key like 's1-%'") == [(0,)]


def test_new_labels_read_no_image(world: World) -> None:
    world.tag()
    world.taxonomy.write_text(taxonomy_text((*LABELS, "black-moon", "red-ring")))
    outcome = world.tag(labels="new")
    assert [label.label_id for label in outcome.plan.record.vocabulary] == ["black-moon", "red-ring"]
    assert len(outcome.reports) == 2 and decoded(outcome) == 0
    assert world.ask("select count(distinct label_id), count(distinct run_id) from scores") == [(6, 2)]
    again = world.tag(labels="new")
    assert again.plan.vocabulary == () and again.whole and not again.reports
    assert "no label is new" in summarise(again, 0.1).lines()[0]


def test_a_taxonomy_whose_labels_are_all_retired_scores_nothing_and_is_no_failure(world: World) -> None:
    world.tag()
    retired = "".join(f"  - {{id: {label}, name: {label}, retired: true}}\n" for label in LABELS)
    world.taxonomy.write_text(f"name: t\nlabels:\n{retired}")
    outcome = world.tag()
    said = summarise(outcome, 0.1)
    assert outcome.whole and said.ok and not said.next_steps
    assert said.lines() == [
        "dataset world: every label of the taxonomy is retired; nothing is scored, and `tags` shows none"
    ]
    assert world.ask("select count(*) from tags") == [(0,)]


def test_new_labels_score_as_if_they_had_been_there(world: World, tmp_path: Path) -> None:
    world.tag()
    world.taxonomy.write_text(taxonomy_text((*LABELS, "black-moon")))
    world.tag(labels="new")
    world.tag(store=str(tmp_path / "other"))
    assert same(scores(world), scores(world, store=str(tmp_path / "other")))


def test_reworded_labels_are_new(world: World) -> None:
    world.tag()
    world.taxonomy.write_text(taxonomy_text().replace("name: red circle", "name: crimson disc"))
    assert [label.label_id for label in world.tag(labels="new").plan.record.vocabulary] == ["red-circle"]


def test_labels_are_new_to_a_scorer_that_is_asked_for(world: World) -> None:
    world.tag()
    world.taxonomy.write_text(taxonomy_text((*LABELS, "black-moon")))
    local = world.tag(labels="new", local=True)
    assert local.whole and len(local.plan.vocabulary) == len(LABELS) + 1
    assert world.ask("select distinct scorer from scores") == [("clip+local",)]
    for options in ({"local": True}, {}):
        assert plan_tag(world.request(labels="new", **options)).done, "whatever scored them, where none is asked for"
    world.shard("00002", pictures(2, 3))
    assert list(world.tag(labels="new", local=True).reports) == ["00002"]
    assert world.tag(labels="new", scorer="clip").whole
    assert world.ask("select distinct scorer from scores") == [("clip",)]
    shown = scores(world)
    assert not world.tag(labels="new", local=True).reports and not world.tag(labels="new", scorer="clip").reports
    assert same(scores(world), shown), "to ask for one and the other in turn computes nothing"
    assert audit_run(Folder(world.store), None).ok


def test_new_is_all_for_a_shard_that_was_never_tagged_and_nothing_for_the_others(world: World) -> None:
    first = world.tag(labels="new", shards=(str(world.folder / "shards" / "00000.tar"),))
    assert len(first.plan.vocabulary) == len(LABELS)
    rest = world.tag(labels="new")
    assert rest.complete and list(rest.reports) == ["00001"] and len(rest.plan.vocabulary) == len(LABELS)
    assert audit_run(Folder(world.store), None).ok
    assert rest.plan.record.run_id != world.tag().plan.record.run_id, "the run of all is about every shard"


def test_new_scores_on_each_shard_what_it_lacks(world: World) -> None:
    first = world.tag(labels="new")
    world.shard("00002", pictures(2, 3))
    world.taxonomy.write_text(taxonomy_text((*LABELS, "black-moon")))
    second = world.tag(labels="new")
    (grown,) = second.more
    assert [len(run.plan.vocabulary) for run in (second, grown)] == [5, 1]
    assert [sorted(run.reports) for run in (second, grown)] == [["00002"], ["00000", "00001"]]
    assert second.complete and decoded(second) == 3 and decoded(grown) == 0
    counted = world.ask("select shard, count(distinct label_id) from scores group by 1 order by 1")
    assert counted == [("00000", 5), ("00001", 5), ("00002", 5)]
    assert audit_run(Folder(world.store), None).ok
    assert [summary.run_id for summary in summarise(second, 1.0).more] == [grown.plan.record.run_id]
    world.taxonomy.write_text(taxonomy_text())
    world.shard("00003", pictures(3, 2))
    assert world.tag(labels="new").plan.record.run_id == first.plan.record.run_id, "the same question: the same run"
    assert audit_run(Folder(world.store), None).ok


def test_audit_finds_a_shard_that_no_run_of_new_labels_came_to(world: World) -> None:
    world.tag(labels="new")
    world.shard("00002", pictures(2, 3))
    findings = audit_run(Folder(world.store), None).findings
    assert [(finding.code, finding.shard) for finding in findings] == [(FindingCode.NO_REPORT, "00002")]


def test_a_run_of_new_labels_that_was_killed_before_its_manifest_is_closed(world: World) -> None:
    run_id = world.tag(labels="new").plan.record.run_id
    manifest = Path(world.store, "runs", run_id, "manifest.json")
    written = json.loads(manifest.read_text())
    manifest.unlink()
    assert not audit_run(Folder(world.store), None).ok
    assert world.tag(labels="new").plan.vocabulary == ()
    assert json.loads(manifest.read_text()) | {"finished_at": ""} == written | {"finished_at": ""}
    assert audit_run(Folder(world.store), None).ok


def test_going_back_to_older_texts_shows_their_scores_again(world: World) -> None:
    world.tag()
    before = scores(world)
    world.taxonomy.write_text(taxonomy_text().replace("name: red circle", "name: crimson disc"))
    world.tag(labels="new")
    assert scores(world) != before
    world.taxonomy.write_text(taxonomy_text())
    back = world.tag(labels="new")
    assert [label.label_id for label in back.plan.vocabulary] == ["red-circle"]
    assert same(scores(world), before)
    assert world.ask("select distinct label from tags where label_id = 'red-circle'") in ([("red circle",)], [])
    assert world.ask("select name from labels where label_id = 'red-circle'") == [("red circle",)]


def test_asking_again_for_an_older_run_makes_it_the_newest(world: World) -> None:
    world.tag()
    before = scores(world)
    world.taxonomy.write_text(taxonomy_text().replace("name: red circle", "name: crimson disc"))
    world.tag()
    world.taxonomy.write_text(taxonomy_text())
    assert not world.tag().reports, "nothing is computed"
    assert same(scores(world), before)


def test_merges_and_retirements_need_no_new_label(world: World) -> None:
    world.tag()
    retired = taxonomy_text().replace("name: blue star}", "name: blue star, retired: true}")
    world.taxonomy.write_text(retired.replace("name: white heart}", "name: white heart, merged_into: red-circle}"))
    assert world.tag(labels="new").plan.vocabulary == ()
    rows = world.ask("select label_id, retired, merged_into from labels where not active order by 1")
    assert rows == [("blue-star", True, None), ("white-heart", False, "red-circle")]


def test_a_merged_label_counts_on_new_shards_as_on_old_ones(world: World, tmp_path: Path) -> None:
    everything = {"floor": 0.0}
    first = world.tag(**everything)
    merged = taxonomy_text().replace("name: white heart}", "name: white heart, merged_into: red-circle}")
    world.taxonomy.write_text(merged)
    world.shard("00002", pictures(2, 4))
    second = world.tag(**everything)
    assert second.plan.record.run_id == first.plan.record.run_id and list(second.reports) == ["00002"]
    world.tag(**everything, store=str(tmp_path / "scratch"))
    best = "select shard, key, max(score) from scores s join labels l using (dataset, label_id) where l.label_id in "
    query = best + "('red-circle', 'white-heart') group by all order by all"
    assert world.ask(query) == world.ask(query, str(tmp_path / "scratch"))
    tags = "select shard, key, label_id, score from tags order by all"
    assert world.ask(tags) == world.ask(tags, str(tmp_path / "scratch"))


def test_a_promotion_during_a_run_does_not_change_its_model(world: World) -> None:
    plan = plan_tag(world.request())

    def promoted_meanwhile(plan: TagPlan, groups: Groups, stop: Stop) -> Iterator[GroupOutcome]:
        other = plan.model.model_copy(update={"model_id": "0" * 16, "name": "bundled:another"})
        write_model(Folder(world.store), other)
        promote(Folder(world.store), other.model_id, "by somebody else")
        yield from execute_here(plan, groups, stop)

    assert run_tag(plan, promoted_meanwhile).whole


def test_rows_of_a_tar_that_is_gone_stay(world: World) -> None:
    world.tag()
    (world.folder / "shards" / "00001.tar").unlink()
    world.shard("00002", pictures(2, 2))
    assert world.tag().whole
    assert world.ask("select count(*) from samples") == [(12,)]
    assert audit_run(Folder(world.store), None).ok


def test_an_older_process_leaves_what_a_newer_one_did(world: World) -> None:
    old = plan_tag(world.request())
    world.shard("00001", pictures(7, 4))

    def meanwhile(plan: TagPlan, groups: Groups, stop: Stop) -> Iterator[GroupOutcome]:
        yield from execute_here(plan, groups, stop)
        world.shard("00000", pictures(8, 3))
        assert world.tag().complete

    run_tag(old, meanwhile)
    counted = world.ask("select shard, count(*) from samples group by 1 order by 1")
    assert counted == [("00000", 3), ("00001", 4)]
    assert audit_run(Folder(world.store), None).ok


def test_a_retried_shard_that_fails_now_is_trouble(world: World) -> None:
    bad = world.shard("bad", [("a.jpg", TEXT_AS_JPEG), ("b.jpg", jpeg(1))])
    world.tag()
    bad.write_bytes(b"no tar" * 500)
    outcome = world.tag(retry_failed=True)
    assert not outcome.whole and not outcome.complete
    assert [(trouble.shard, trouble.status) for trouble in outcome.failures] == [("bad", ShardStatus.NOT_A_TAR)]


def test_a_retry_is_not_stopped_by_what_it_retries(world: World) -> None:
    for number in range(2, 5):
        world.shard(f"{number:05d}", [(f"{number}-{i}.jpg", TEXT_AS_JPEG) for i in range(120)])
    world.tag()
    outcome = world.tag(retry_failed=True, max_bad=0.99, shards_per_task=1)
    assert len(outcome.reports) == 3 and outcome.whole


def test_a_run_over_its_budget_begins_nothing(world: World) -> None:
    world.shard("00002", [(f"{i}.jpg", TEXT_AS_JPEG) for i in range(120)])
    world.tag()
    world.shard("00003", pictures(3, 2))
    outcome = world.tag(max_bad=0.05)
    assert outcome.over_budget and not outcome.reports


def test_one_request_is_one_run_however_its_paths_are_spelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    spellings = ("shards/*.tar", "./shards/*.tar", str(world.folder / "shards" / "*.tar"))
    runs = {plan_tag(world.request(shards=(spelling,))).record.run_id for spelling in spellings}
    runs.add(plan_tag(world.request(shards=(spellings[0], spellings[2]))).record.run_id)
    assert len(runs) == 1
    text = world.taxonomy.read_text()
    world.taxonomy.write_text(text.replace('["a photo of a {}.", "a {}."]', '["a {}.", "a photo of a {}."]'))
    assert plan_tag(world.request()).record.run_id in runs


def test_named_labels(world: World) -> None:
    with pytest.raises(ConfigError, match="names no label"):
        world.tag(labels=" ,")
    assert len(world.tag(labels="red-circle, blue-star").plan.record.vocabulary) == 2
    with pytest.raises(TaxonomyError, match="'purple-cow'; known: blue-star"):
        world.tag(labels="purple-cow")


def test_retry_visits_only_what_failed(world: World) -> None:
    members = pictures(2, 4)
    world.shard("bad", [*members, ("cut.jpg", jpeg(9, 200, 200)[:500])])
    world.tag()
    before = scores(world)
    outcome = world.tag(retry_failed=True)
    assert list(outcome.reports) == ["bad"] and decoded(outcome) == 1
    assert same(before, scores(world))
    assert world.ask("select status from failures") == [("truncated",)]


def test_a_failure_budget_ends_the_run_early_and_a_larger_one_goes_on(world: World) -> None:
    for number in range(2, 6):
        world.shard(f"{number:05d}", [(f"{number}-{i}.jpg", TEXT_AS_JPEG) for i in range(120)])
    outcome = world.tag(max_bad=0.05, shards_per_task=1)
    assert outcome.over_budget and not outcome.whole and not outcome.complete
    assert list(outcome.reports) == ["00000", "00001", "00002"]
    assert "--max-bad 0.05" in summarise(outcome, 1.0).next_steps[0]
    assert world.tag(max_bad=1.0).complete


def test_a_budget_is_judged_at_the_end_however_few_images(world: World) -> None:
    world.shard("bad", [("a.jpg", TEXT_AS_JPEG)])
    outcome = world.tag(max_bad=0.05)
    assert outcome.complete and outcome.over_budget and not outcome.whole


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_fails_alone_and_is_tried_again(world: World, data: bytes) -> None:
    world.raw_shard("00002", data)
    outcome = world.tag()
    assert [(f.shard, f.status) for f in outcome.failures] == [("00002", ShardStatus.NOT_A_TAR)]
    assert not outcome.complete and len(outcome.reports) == 2
    assert world.ask("select complete, shards from runs") == [(False, 2)]
    world.shard("00002", pictures(2, 2))
    assert world.tag().complete


def test_an_empty_tar_is_fine(world: World) -> None:
    world.shard("00002", [])
    outcome = world.tag()
    assert outcome.whole and outcome.reports["00002"].num_samples == 0
    assert audit_run(Folder(world.store), None).ok


@pytest.mark.parametrize("cut", [lambda tar: cut_tar(tar, "s2-3.jpg"), without_end])
def test_a_truncated_shard_keeps_what_stands_before_the_cut(world: World, cut: object) -> None:
    whole = build_tar(pictures(2, 5))
    assert callable(cut)
    world.raw_shard("00002", cut(whole))
    outcome = world.tag()
    report = outcome.reports["00002"]
    assert report.status is ShardStatus.TRUNCATED and report.statuses[SampleStatus.OK] >= 3
    assert outcome.complete and not outcome.whole
    assert "truncated" in " ".join(summarise(outcome, 1.0).lines())
    world.raw_shard("00002", whole)
    mended = world.tag()
    assert mended.whole and list(mended.reports) == ["00002"]


def test_a_shard_missing_from_a_range_is_said_and_picked_up_later(world: World) -> None:
    pattern = (str(world.folder / "shards" / "{00000..00002}.tar"),)
    outcome = world.tag(shards=pattern)
    assert [(f.shard, f.status) for f in outcome.failures] == [("00002", ShardStatus.MISSING)]
    assert len(outcome.reports) == 2 and not outcome.complete
    world.shard("00002", pictures(2, 2))
    later = world.tag(shards=pattern)
    assert (
        later.complete and later.plan.record.run_id == outcome.plan.record.run_id and list(later.reports) == ["00002"]
    )


def test_equal_keys_in_two_shards_stay_apart_and_are_counted(world: World) -> None:
    world.shard("00002", [("s0-1.jpg", jpeg(77)), ("own.jpg", jpeg(78))])
    outcome = world.tag()
    assert outcome.shared_keys == 1
    assert world.ask("select shard from samples where key = 's0-1' order by all") == [("00000",), ("00002",)]
    assert len(scores(world, "key = 's0-1'")) == 2 * len(LABELS)


def test_what_is_absent_was_below_the_floor_and_not_among_the_top(world: World, tmp_path: Path) -> None:
    everything = str(tmp_path / "everything")
    world.tag(floor=0.0, store=everything)
    full = scores(world, store=everything)
    assert len(full) == 10 * len(LABELS)
    floor = sorted(full.values())[len(full) // 2]
    world.tag(floor=floor, top_k=1)
    kept = scores(world)
    best = {max((k for k in full if k[:2] == sample), key=lambda k: full[k]) for sample in {k[:2] for k in full}}
    assert kept.keys() == {key for key, score in full.items() if score >= floor} | best


def test_one_store_holds_one_dataset_of_a_name(world: World, tmp_path: Path) -> None:
    world.tag()
    other = make_world(tmp_path / "other")
    with pytest.raises(StoreError, match="already has a dataset 'world'.*--name"):
        other.tag(store=world.store)
    other.tag(store=world.store, name="other")
    assert world.ask("select dataset, count(*) from samples group by all order by all") == [
        ("other", 10),
        ("world", 10),
    ]
    assert audit_run(Folder(world.store), None).ok


def test_a_store_that_cannot_be_written_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot (read|write)"):
        world.tag(store=str(tmp_path / "file" / "store"))


def test_a_disk_that_fills_up_stops_the_run_and_the_same_command_goes_on(world: World) -> None:
    fsspec.register_implementation("full", FullDisk, clobber=True)
    store = f"full://{world.store}"
    FullDisk.steps, FullDisk.full_at = 0, 30  # well into the first shard
    with pytest.raises(RunError, match="what is done stays done.*No space left"):
        world.tag(store=store)
    FullDisk.full_at = NEVER
    assert world.tag(store=store).whole
    assert audit_run(Folder(world.store), None).ok
    assert not list(iter_leftovers(Folder(world.store), "")), "a write that failed cleans up after itself"


def test_damaged_features_are_made_again(world: World) -> None:
    world.tag()
    next(Path(world.store, "features").rglob("00000.parquet")).write_bytes(b"PAR1 no longer")
    assert decoded(world.tag(floor=0.5)) == 5


def test_a_flipped_bit_in_features_is_found_or_changes_nothing(world: World) -> None:
    fingerprint = world.tag().reports["00000"].fingerprint
    path = next(Path(world.store, "features").rglob("00000.parquet"))
    whole = path.read_bytes()

    def read() -> tuple[object, bytes] | None:
        found = read_features(Folder(str(path.parent)), path.name, fingerprint, world.request().max_pixels)
        return (found.rows, found.embeddings_ND.tobytes()) if found is not None else None

    undamaged = read()
    assert undamaged is not None
    for position in range(4, len(whole), 3):
        flipped = whole[position] ^ (1 << position % 8)
        path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        assert read() in (None, undamaged), position


def test_a_lost_part_is_made_again(world: World) -> None:
    world.tag()
    next(Path(world.store, "runs").rglob("scores/00001.parquet")).unlink()
    assert not audit_run(Folder(world.store), None).ok
    outcome = world.tag()
    assert list(outcome.reports) == ["00001"] and decoded(outcome) == 0
    assert audit_run(Folder(world.store), None).ok


@pytest.mark.parametrize("left", [None, b"{"])
def test_a_lost_report_is_given_back_by_the_manifest_when_the_run_goes_on(world: World, left: bytes | None) -> None:
    run_id = world.tag().plan.record.run_id
    report = Path(world.store, "runs", run_id, "reports", "00001.json")
    report.unlink() if left is None else report.write_bytes(left)
    (world.folder / "shards" / "00001.tar").unlink()
    world.shard("00002", pictures(2, 3))
    outcome = world.tag()
    assert set(outcome.reports) == {"00002"} and decoded(outcome) == 3
    assert outcome.whole and plan_tag(world.request()).done, "what says that it is whole has a manifest"
    rows = world.ask("select shard, count(*) from samples group by all order by all")
    assert [shard for shard, _ in rows] == ["00000", "00001", "00002"], "a shard that is gone keeps its rows"


def test_shards_and_store_on_s3(world: World, bucket: str) -> None:
    remote = Folder(bucket)
    for path in sorted((world.folder / "shards").iterdir()):
        remote.write_bytes(f"shards/{path.name}", path.read_bytes())
    place = {"shards": (f"{bucket}/shards/*.tar",), "store": f"{bucket}/store"}
    outcome = world.tag(**place)
    assert outcome.whole and decoded(outcome) == 10
    world.tag()
    assert same(scores(world), scores(world, store=f"{bucket}/store"))
    remote.write_bytes("shards/00002.tar", build_tar(pictures(2, 2)))
    remote.write_bytes("shards/00001.tar", build_tar(pictures(3, 3)))
    assert sorted(world.tag(**place).reports) == ["00001", "00002"]
    assert [decoded(world.tag(**place, store_tokens=True)) for _ in range(2)] == [10, 0]
    assert not list(iter_leftovers(Folder(f"{bucket}/store"), ""))
    assert audit_run(Folder(f"{bucket}/store"), None).ok


def test_a_store_in_a_bucket_that_is_not_there_is_refused(world: World, bucket: str) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        world.tag(store=f"{bucket}-that-is-not-there/store")


def test_a_plan_touches_nothing(world: World) -> None:
    plan_tag(world.request())
    assert not Path(world.store).exists()
    with pytest.raises(RequestError):
        plan_tag(world.request(shards=(str(world.folder / "nowhere" / "*.tar"),)))
    assert not Path(world.store).exists()


def test_an_over_long_text_is_refused_with_its_line(world: World) -> None:
    world.taxonomy.write_text(taxonomy_text() + f"  - {{id: long, name: {'red ' * 90}}}\n")
    with pytest.raises(TaxonomyError, match=r"taxonomy.yaml:8: label 'long'"):
        world.tag()


def test_a_reparented_label_is_scored_as_before_and_shown_as_it_is(world: World) -> None:
    first = world.tag()
    world.taxonomy.write_text(taxonomy_text().replace("name: blue star}", "name: blue star, parent: red-circle}"))
    again = world.tag()
    assert again.plan.record.run_id == first.plan.record.run_id and not again.reports
    assert world.ask("select parent from labels where label_id = 'blue-star'") == [("red-circle",)]


def test_two_colons_in_names_are_no_chain_of_urls(tmp_path: Path) -> None:
    world = make_world(tmp_path / "12::30", shards=1)
    (world.folder / "shards" / "00000.tar").rename(world.folder / "shards" / "a::b.tar")
    outcome = world.tag()
    assert outcome.complete and list(outcome.reports) == ["a::b"] and decoded(outcome) == 5
    assert world.ask("select distinct shard from scores") == [("a::b",)]
    assert audit_run(Folder(world.store), None).ok
