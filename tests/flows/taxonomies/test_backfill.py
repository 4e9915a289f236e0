"""Backfill: what a model has not scored is computed from stored features, and nothing else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples.scenes.render import taxonomy_yaml
from flows.backfill import BackfillOutcome, BackfillPlan, plan_backfill, run_backfill
from flows.tagging.estimate import estimate_tag
from flows.tagging.outcomes import RunOutcome
from flows.tagging.plan import plan_tag
from schemas.config import BackfillRequest
from schemas.errors import ModelError, StoreError
from schemas.sample import ShardStatus
from storage.audit import audit_run
from storage.catalog import open_catalog
from storage.files import Folder
from storage.models import promote
from storage.query import run_query
from storage.taxonomies import load_taxonomy, put_in_force, write_taxonomy
from tests.flows.annotated import LABELS as SCENES
from tests.flows.annotated import AnnotatedWorld
from tests.flows.world import LABELS, World, decoded, pictures, taxonomy_text
from tests.nasty import TEXT_AS_JPEG

UNSEEN = "black-moon"
GROWN = (*LABELS, UNSEEN, "red-ring")
VIEWS = ("tags", "labels", "scores", "samples")


def backfill(world: World, **changes: object) -> BackfillOutcome:
    return run_backfill(plan(world, **changes))


def plan(world: World, **changes: object) -> BackfillPlan:
    return plan_backfill(BackfillRequest.model_validate({"store": world.store, "batch_size": 4} | changes))


def apply(world: World, text: str) -> None:
    """Put a version of the taxonomy in force."""
    world.taxonomy.write_text(text)
    taxonomy = load_taxonomy(str(world.taxonomy))
    write_taxonomy(Folder(world.store), taxonomy)
    put_in_force(Folder(world.store), taxonomy)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file with its bytes and when it was written."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def view(world: World, name: str, store: str | None = None) -> list[tuple[object, ...]]:
    """Return the rows of a view, without which run they come from. How many labels a run has moves the last bit."""
    with open_catalog(store or world.store) as connection:
        table = run_query(connection, f"select * from {name}")
    kept = [column for column in table.column_names if column != "run_id"]
    rows = (tuple(_rounded(value) for value in row.values()) for row in table.select(kept).to_pylist())
    return sorted(rows, key=repr)


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def images(runs: list[RunOutcome]) -> int:
    return sum(decoded(run) for run in runs)


def test_new_labels_come_from_stored_features_and_old_files_stay(world: World, tmp_path: Path) -> None:
    first = world.tag()
    old = contents(Path(world.store, "runs", first.plan.record.run_id)) | contents(Path(world.store, "features"))
    apply(world, taxonomy_text(GROWN))
    shards = world.folder / "shards"
    shards.rename(tmp_path / "elsewhere")  # not one tar is read, nor even looked for
    outcome = backfill(world)
    assert [[label.label_id for label in run.plan.vocabulary] for run in outcome.runs] == [[UNSEEN, "red-ring"]]
    assert outcome.complete and images(outcome.runs) == 0
    assert contents(Path(world.store, "runs", first.plan.record.run_id)).items() <= old.items()
    assert contents(Path(world.store, "features")).items() <= old.items()
    assert plan(world).runs == ()

    (tmp_path / "elsewhere").rename(shards)
    scratch = str(tmp_path / "scratch")
    world.tag(store=scratch)
    assert all(view(world, name) == view(world, name, scratch) for name in VIEWS)
    assert audit_run(Folder(world.store), None).ok


def test_reworded_labels_are_scored_again_and_renamed_ones_are_not(world: World, tmp_path: Path) -> None:
    world.tag()
    reworded = taxonomy_text().replace("name: red circle", "name: crimson disc")
    apply(world, reworded.replace("name: blue star}", "name: azure star, query_names: [blue star]}"))
    outcome = backfill(world)
    assert [[label.label_id for label in run.plan.vocabulary] for run in outcome.runs] == [["red-circle"]]
    world.tag(store=str(tmp_path / "scratch"))
    assert all(view(world, name) == view(world, name, str(tmp_path / "scratch")) for name in VIEWS)


def test_each_shard_gets_what_it_lacks(world: World) -> None:
    world.tag()
    apply(world, taxonomy_text((*LABELS, UNSEEN)))
    world.tag(labels="new", shards=(str(world.folder / "shards" / "00000.tar"),))
    apply(world, taxonomy_text(GROWN))
    outcome = backfill(world)
    found = {tuple(label.label_id for label in run.plan.vocabulary): [*run.reports] for run in outcome.runs}
    assert found == {(UNSEEN, "red-ring"): ["00001"], ("red-ring",): ["00000"]}
    assert audit_run(Folder(world.store), None).ok


def test_every_dataset_is_filled_as_it_was_tagged(world: World) -> None:
    world.tag(floor=0.3)
    world.tag(name="again", floor=0.2, top_k=1)
    apply(world, taxonomy_text(GROWN))
    outcome = backfill(world)
    options = {run.plan.record.dataset: (run.plan.record.floor, run.plan.record.top_k) for run in outcome.runs}
    assert options == {"world": (0.3, 20), "again": (0.2, 1)}
    assert world.ask(f"select distinct dataset from all_scores where label_id = '{UNSEEN}' order by 1") == [
        ("again",),
        ("world",),
    ]


def test_a_shard_that_was_never_tagged_is_left_to_tagging(world: World) -> None:
    world.tag()
    world.shard("00002", pictures(2, 2))
    apply(world, taxonomy_text(GROWN))
    assert sorted(backfill(world).runs[0].reports) == ["00000", "00001"]
    findings = audit_run(Folder(world.store), None).findings
    assert {finding.shard for finding in findings} == {"00002"}
    assert world.tag(labels="new").complete
    assert audit_run(Folder(world.store), None).ok


def test_without_features_the_shard_is_read_if_it_is_what_was_tagged(world: World) -> None:
    world.shard("00002", [*pictures(2, 3), ("bad.jpg", TEXT_AS_JPEG)])
    world.shard("00003", pictures(3, 3))
    world.tag()
    apply(world, taxonomy_text(GROWN))
    shutil.rmtree(Path(world.store, "features"))
    world.shard("00001", pictures(8, 4))
    (world.folder / "shards" / "00003.tar").unlink()
    outcome = backfill(world)
    assert {trouble.shard: trouble.status for trouble in outcome.troubles} == {
        "00001": ShardStatus.CHANGED,
        "00003": ShardStatus.MISSING,
    }
    assert not outcome.complete and images(outcome.runs) == 9
    assert len(plan(world).runs[0].shards) == 2, "the others are done"
    assert world.tag(labels="new").complete and not plan(world).runs[1:]


def test_a_promoted_model_scores_everything_from_its_own_features(world: World) -> None:
    world.tag()
    other = world.tag(labels="red-circle", model="bundled:scenes", store=world.store)
    assert plan(world, model=other.plan.record.model_id).runs == ()
    with pytest.raises(ModelError, match="unknown model 'nobody'"):
        plan(world, model="nobody")


def test_a_store_that_is_none_is_refused_and_an_empty_one_has_nothing_to_do(world: World) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        plan(world)
    Path(world.store).mkdir()
    assert plan(world).model is None
    assert backfill(world).complete


def test_a_lost_part_and_a_lost_manifest_are_made_again(world: World) -> None:
    world.tag()
    apply(world, taxonomy_text(GROWN))
    run_id = backfill(world).runs[0].plan.record.run_id
    folder = Path(world.store, "runs", run_id)
    before = contents(folder / "scores")
    (folder / "scores" / "00001.parquet").unlink()
    assert [[*run.reports] for run in backfill(world).runs] == [["00001"]]
    assert {path: data for path, (data, _) in contents(folder / "scores").items()} == {
        path: data for path, (data, _) in before.items()
    }
    (folder / "manifest.json").unlink()
    assert not audit_run(Folder(world.store), None).ok
    assert backfill(world).complete
    assert audit_run(Folder(world.store), None).ok


def test_after_a_promotion_every_label_is_scored_by_the_new_model(annotated: AnnotatedWorld, model_id: str) -> None:
    annotated.tag(model="bundled:scenes", top_k=3)
    zero_shot = annotated.ask("select distinct model_id from scores")
    promote(Folder(annotated.store), model_id, "for the test")
    outcome = backfill(annotated, batch_size=32)
    assert outcome.complete and images(outcome.runs) == 0, "tokens and embeddings are there since training"
    (run,) = outcome.runs
    assert (run.plan.record.scorer, run.plan.record.top_k) == ("fused", 3)
    assert annotated.ask("select distinct model_id from scores") == [(model_id,)] != zero_shot
    assert annotated.ask("select count(distinct label_id) from scores") == [(len(SCENES),)]
    assert plan(annotated).runs == ()


@pytest.mark.parametrize("scorer", ["decoder", "fused"])
@pytest.mark.parametrize("stored", [True, False])
def test_scorers_that_look_at_patches_need_stored_tokens_or_the_images(
    annotated: AnnotatedWorld, model_id: str, scorer: str, stored: bool
) -> None:
    options = {"shards": (annotated.test,), "name": "test", "model": model_id, "scorer": scorer}
    promote(Folder(annotated.store), model_id, "for the test")
    first = annotated.tag(**options, store_tokens=stored)
    old = contents(Path(annotated.store, "runs"))
    apply(annotated, taxonomy_yaml([*SCENES, UNSEEN]))
    outcome = backfill(annotated, batch_size=32)
    assert outcome.complete and images(outcome.runs) == (0 if stored else first.statuses.total())
    new = contents(Path(annotated.store, "runs"))
    assert {path: new[path] for path in old} == old
    assert annotated.ask("select distinct label_id from scores where label_id = 'black-moon'") == [(UNSEEN,)]


def test_tokens_can_be_kept_later_by_the_same_command(annotated: AnnotatedWorld, model_id: str) -> None:
    options = {"shards": (annotated.test,), "name": "test", "model": model_id}
    first = annotated.tag(**options)
    assert not Path(annotated.store, "tokens", first.plan.record.encoder_id, "test").exists()
    scores = contents(Path(annotated.store, "runs", first.plan.record.run_id, "scores"))
    estimate = estimate_tag(plan_tag(annotated.request(**options, store_tokens=True)))
    assert estimate.pending == 1 and estimate.token_bytes_per_image is not None
    assert f"{estimate.token_bytes_per_image:,} bytes of it are patch tokens" in "\n".join(estimate.lines())
    again = annotated.tag(**options, store_tokens=True)
    assert again.complete and decoded(again) == first.statuses.total()
    assert not annotated.tag(**options, store_tokens=True).reports
    after = contents(Path(annotated.store, "runs", first.plan.record.run_id, "scores"))
    assert {path: data for path, (data, _) in after.items()} == {path: data for path, (data, _) in scores.items()}
    apply(annotated, taxonomy_yaml([*SCENES, UNSEEN]))
    promote(Folder(annotated.store), model_id, "for the test")
    assert images(backfill(annotated).runs) == 0
