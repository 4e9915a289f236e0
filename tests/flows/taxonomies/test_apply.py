"""Applying a taxonomy: what it says before, what it does, what it refuses, and that it can be killed anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.scenes.render import taxonomy_yaml
from flows.apply import ApplyOutcome, ApplyPlan, ApplySteps, nothing_to_do, plan_apply, run_apply
from flows.backfill import BackfillOutcome, BackfillPlan, plan_backfill, run_backfill
from flows.cli.app import app
from flows.retraining.status import store_status
from flows.taxonomies.apply_summary import describe_plan, summarise_apply
from schemas.config import ApplyRequest, BackfillRequest, RetrainRequest
from schemas.errors import RunError, StoreError, TaxonomyError
from schemas.retraining import RetrainOutcome, RetrainPolicy
from storage.annotations import Annotation, write_annotations
from storage.audit import audit_run
from storage.files import Folder
from storage.models import promote
from storage.taxonomies import digest_in_force, find_taxonomy
from tests.flows.annotated import LABELS as SCENES
from tests.flows.annotated import AnnotatedWorld
from tests.flows.taxonomies.test_backfill import GROWN, UNSEEN, VIEWS, contents, images, view
from tests.flows.world import LABELS, World, pictures, taxonomy_text

NOT_NOW = RetrainPolicy(enabled=False)


def plan(world: World, text: str | None = None, **changes: Any) -> ApplyPlan:
    if text is not None:
        world.taxonomy.write_text(text)
    values = {"taxonomy": str(world.taxonomy), "store": world.store, "batch_size": 4, "policy": NOT_NOW}
    return plan_apply(ApplyRequest(**values | changes))


def apply(world: World, text: str | None = None, **changes: Any) -> ApplyOutcome:
    return run_apply(plan(world, text, **changes))


def in_force(world: World) -> str | None:
    return digest_in_force(Folder(world.store), "t")


def files(world: World) -> dict[str, bytes]:
    return {path: data for path, (data, _) in contents(Path(world.store)).items()}


def test_one_command_does_all_that_a_change_needs(world: World, tmp_path: Path) -> None:
    world.tag()
    changed = taxonomy_text(GROWN).replace("name: red circle", "name: crimson disc")
    changed = changed.replace("name: white heart}", "name: white heart, merged_into: blue-star}")
    changed = changed.replace("name: green square}", "name: lime square, query_names: [green square]}")
    outcome = apply(world, changed)
    assert outcome.put_in_force and outcome.complete and images(outcome.backfills[0].runs) == 0
    (run,) = outcome.backfills[0].runs
    assert {label.label_id for label in run.plan.vocabulary} == {"red-circle", UNSEEN, "red-ring"}
    world.tag(store=str(tmp_path / "scratch"))
    assert all(view(world, name) == view(world, name, str(tmp_path / "scratch")) for name in VIEWS)
    assert audit_run(Folder(world.store), None).ok


def test_the_second_time_there_is_nothing_to_do(world: World) -> None:
    world.tag()
    apply(world, taxonomy_text(GROWN))
    before = files(world)
    again = summarise_apply(apply(world))
    assert again.unchanged and again.ok and "nothing was done" in again.lines()[0]
    assert files(world) == before


def test_a_plan_says_it_all_and_touches_nothing(world: World) -> None:
    world.tag()
    before = files(world)
    planned = describe_plan(plan(world, taxonomy_text(GROWN)))
    assert files(world) == before
    assert planned.diff.labels("added") == (UNSEEN, "red-ring")
    assert (planned.cost.scores, planned.cost.images_to_read, planned.token_bytes_per_image) == (20, 0, None)
    assert not planned.decision.retrain and planned.decision.reasons
    text = "\n".join([*planned.head(), *planned.lines()])
    assert "no image is read" in text and "retraining" in text


def test_views_change_without_any_run(world: World) -> None:
    world.tag()
    runs = contents(Path(world.store, "runs"))
    outcome = apply(world, taxonomy_text().replace("name: blue star}", "name: blue star, retired: true}"))
    assert outcome.put_in_force and not outcome.backfills
    assert contents(Path(world.store, "runs")) == runs
    assert world.ask("select label_id from labels where not active") == [("blue-star",)]
    back = apply(world, taxonomy_text())
    assert back.put_in_force and not back.backfills, "a restored label has its scores still"


def test_removing_a_label_with_scores_is_refused_and_the_others_may_go(world: World) -> None:
    world.tag()
    apply(world, taxonomy_text((*LABELS, UNSEEN)), policy=NOT_NOW)
    before = files(world)
    with pytest.raises(TaxonomyError, match="(?s)'blue-star' was removed.*'black-moon' was removed.*retired: true"):
        plan(world, taxonomy_text([label for label in LABELS if label != "blue-star"]))
    assert files(world) == before
    never_scored = taxonomy_text((*LABELS, UNSEEN, "red-ring")).replace("red ring}", "red ring, retired: true}")
    apply(world, never_scored)
    assert apply(world, taxonomy_text((*LABELS, UNSEEN))).put_in_force


def test_what_cannot_be_embedded_is_refused_before_anything(world: World) -> None:
    world.tag()
    before = files(world)
    with pytest.raises(TaxonomyError, match="red-circle"):
        plan(world, taxonomy_text().replace("name: red circle", "name: " + "very " * 100 + "red circle"))
    assert files(world) == before


def test_a_store_is_needed_and_one_without_runs_is_enough(world: World) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        plan(world)
    Path(world.store).mkdir()
    outcome = apply(world)
    assert outcome.put_in_force and outcome.complete and not outcome.backfills


def test_a_file_of_a_new_name_is_another_taxonomy_and_says_what_is_missing(world: World) -> None:
    world.tag()
    before = in_force(world)
    planned = plan(world, taxonomy_text(name="renamed"))
    assert "no dataset of the store was tagged with a taxonomy named 'renamed' yet" in describe_plan(planned).lines()[0]
    assert "all labels are new, 4 of them" in describe_plan(planned).head()[1]
    summary = summarise_apply(run_apply(planned))
    assert summary.put_in_force and summary.ok and not summary.backfills
    assert "clipdecoder tag SHARDS --taxonomy FILE" in summary.lines()[1]
    again = summarise_apply(apply(world)).lines()
    assert "every label is scored" not in "\n".join(again), "none is"
    assert "(datasets have 't'); `clipdecoder tag" in again[1] and "(`name: t`)" in again[1]
    assert any("(datasets have 't')" in line for line in store_status(Folder(world.store)).lines())
    assert in_force(world) == before, "the other one stays"
    with pytest.raises(StoreError, match="renamed, t; say which"):
        find_taxonomy(Folder(world.store), "applied")


def test_a_name_that_nothing_was_tagged_under_is_not_retrained_for(world: World) -> None:
    world.tag()
    rows = [Annotation(key=f"s0-{n}", label_id="red-circle", value=n % 2, source="me") for n in range(4)]
    write_annotations(Folder(world.store), rows)
    wanted = RetrainPolicy(min_positives=1, min_held_out=1)
    assert plan(world, policy=wanted).decision.retrain
    decision = apply(world, taxonomy_text(name="renamed"), policy=wanted).decision
    assert not decision.retrain and decision.reasons[0].startswith("there is nothing to train for: no dataset")
    world.tag()
    assert plan(world, policy=wanted).decision.retrain, "now there is"


def test_where_nothing_is_to_be_done_it_is_known_before(annotated: AnnotatedWorld, model_id: str) -> None:
    folder, other = Folder(annotated.store), annotated.folder / "other.yaml"
    other.write_text(taxonomy_text([UNSEEN], name="other"))
    promote(folder, annotated.tag(model="bundled:scenes").plan.record.model_id, "for the test")
    text = annotated.taxonomy.read_text()
    assert nothing_to_do(plan(annotated))
    assert not nothing_to_do(plan(annotated, text.replace("name: red circle", "name: crimson disc")))
    annotated.taxonomy.write_text(text)
    annotated.tag(model="bundled:scenes", taxonomy=str(other))
    promote(folder, model_id, "another", force=True)
    assert not nothing_to_do(plan(annotated))


def test_a_command_that_was_killed_after_a_promotion_scores_for_every_taxonomy(
    annotated: AnnotatedWorld, model_id: str
) -> None:
    folder, other = Folder(annotated.store), annotated.folder / "other.yaml"
    other.write_text(taxonomy_text([UNSEEN], name="other"))
    promote(folder, annotated.tag(model="bundled:scenes").plan.record.model_id, "for the test")
    annotated.tag(model="bundled:scenes", taxonomy=str(other))
    promote(folder, model_id, "it learned; and here the command was killed", force=True)
    done: list[str] = []

    def dies(part: BackfillPlan) -> BackfillOutcome:
        done.extend(run.taxonomy.name for run in part.runs)
        if "other" in done:
            raise StoreError("the disk is full")
        return run_backfill(part)

    with pytest.raises(RunError, match="disk is full"):
        run_apply(plan(annotated), ApplySteps(backfill=dies))
    assert done == [annotated_name(annotated), "other"]
    outcome = apply(annotated)
    assert outcome.complete and [run.plan.taxonomy.name for run in outcome.backfills[0].runs] == ["other"]
    assert plan_backfill(BackfillRequest(store=annotated.store)).runs == ()


def annotated_name(world: World) -> str:
    return find_taxonomy(Folder(world.store), str(world.taxonomy)).name


def test_a_plan_with_a_retraining_says_what_comes_on_top(world: World) -> None:
    world.tag()
    rows = [Annotation(key=f"s0-{n}", label_id="red-circle", value=n % 2, source="me") for n in range(4)]
    write_annotations(Folder(world.store), rows)
    lines = describe_plan(plan(world, policy=RetrainPolicy(min_positives=1, min_held_out=1))).lines()
    assert "comes on top" in lines[-1] and "scoring every label of 10 images anew" in lines[-1]
    assert "comes on top" not in "\n".join(describe_plan(plan(world)).lines())


def test_a_remote_store_is_applied_to_and_decided_on_as_a_local_one(world: World, bucket: str) -> None:
    store = f"{bucket}/store"
    world.tag(store=store)
    rows = [Annotation(key=f"s0-{n}", label_id="red-circle", value=n % 2, source="me") for n in range(4)]
    write_annotations(Folder(store), rows)
    outcome = apply(world, taxonomy_text(GROWN), store=store)
    assert outcome.put_in_force and outcome.complete and images(outcome.backfills[0].runs) == 0
    (red,) = outcome.decision.labels
    assert (red.positives, red.negatives) == (2, 2)
    assert world.ask("select count(*) from scores where label_id = 'black-moon'", store) == [(10,)]
    assert summarise_apply(apply(world, store=store)).unchanged
    lacking = plan_backfill(BackfillRequest(store=store)).runs
    assert lacking == () and store_status(Folder(store)).taxonomies[0].decision == outcome.decision


def test_new_labels_appear_together_with_their_scores(world: World) -> None:
    world.tag()
    old = in_force(world)

    def dies(backfill: BackfillPlan) -> BackfillOutcome:
        run_backfill(backfill)
        raise StoreError("the disk is full")

    grown = plan(world, taxonomy_text(GROWN))
    with pytest.raises(RunError, match="the same command goes on.*disk is full"):
        run_apply(grown, ApplySteps(backfill=dies))
    assert in_force(world) == old
    assert world.ask(f"select count(*) from labels where label_id = '{UNSEEN}'") == [(0,)]
    outcome = apply(world)
    assert outcome.put_in_force and not outcome.backfills, "the scores are there"
    assert world.ask(f"select count(distinct key) from scores where label_id = '{UNSEEN}'") == [(10,)]


def test_a_shard_that_is_lost_keeps_no_version_from_force(world: World) -> None:
    world.tag()
    next(Path(world.store, "features").rglob("00001.parquet")).unlink()
    world.shard("00001", pictures(8, 4))
    outcome = apply(world, taxonomy_text(GROWN))
    summary = summarise_apply(outcome)
    assert outcome.put_in_force and not summary.ok
    text = "\n".join(summary.lines())
    assert "NOT complete" in text and "00001.tar has changed" in text and "tag --labels new" in text
    assert not apply(world).put_in_force


def test_images_that_must_be_read_are_said_with_the_bytes_of_their_tokens(
    annotated: AnnotatedWorld, model_id: str
) -> None:
    promote(Folder(annotated.store), model_id, "for the test")
    annotated.tag(shards=(annotated.test,), name="test", model=model_id)
    planned = describe_plan(plan(annotated, taxonomy_yaml([*SCENES, UNSEEN])))
    assert planned.cost.images_to_read == 80
    assert planned.token_bytes_per_image is not None and planned.token_bytes_per_image > 1000
    assert f"{planned.token_bytes_per_image:,} bytes for each image" in "\n".join(planned.lines())


def test_a_promotion_on_the_way_is_followed_by_the_scores_of_the_new_model(
    annotated: AnnotatedWorld, model_id: str
) -> None:
    zero_shot = annotated.tag(model="bundled:scenes").plan.record.model_id
    folder = Folder(annotated.store)
    promote(folder, zero_shot, "for the test")
    asked: list[RetrainRequest] = []

    def learn(request: RetrainRequest) -> RetrainOutcome:
        asked.append(request)
        promote(folder, model_id, "it learned", force=True)
        return RetrainOutcome(
            decision_id="d", state="promoted", model_id=model_id, reasons=(), finished_at=datetime.now(UTC)
        )

    grown = plan(annotated, taxonomy_yaml([*SCENES, UNSEEN]), policy=RetrainPolicy(min_positives=1))
    assert grown.decision.retrain
    outcome = run_apply(grown, ApplySteps(retrain=learn))
    assert [request.taxonomy for request in asked] == [grown.taxonomy.name]
    first, second = outcome.backfills
    assert [len(run.plan.vocabulary) for run in first.runs] == [1]
    assert [len(run.plan.vocabulary) for run in second.runs] == [len(SCENES) + 1] and images(second.runs) == 0
    assert annotated.ask("select distinct model_id from scores") == [(model_id,)]
    text = "\n".join(summarise_apply(outcome).lines())
    assert "outcome: promoted" in text and f"backfill by model {model_id}: complete" in text

    left = run_apply(plan(annotated, policy=RetrainPolicy(min_positives=1)), ApplySteps(retrain=None))
    assert left.retraining is None and not left.put_in_force


def invoke(world: World, *arguments: str) -> Any:
    without_prefect = {"CLIPDECODER_ORCHESTRATE": "false"}
    return CliRunner().invoke(app, [*arguments, "--store", world.store], env=without_prefect)


def test_the_command_plans_applies_and_fails_with_the_shard(world: World) -> None:
    world.tag()
    apply = "taxonomy", "apply", str(world.taxonomy)
    world.taxonomy.write_text(taxonomy_text(GROWN))
    planned = invoke(world, *apply, "--plan")
    assert planned.exit_code == 0 and UNSEEN in planned.stdout and "retraining" in planned.stdout
    done = invoke(world, *apply, "--json", "--no-retrain")
    assert done.exit_code == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["put_in_force"] and said["backfills"][0]["runs"][0]["labels"] == [UNSEEN, "red-ring"]
    assert "nothing was done" in invoke(world, *apply).stdout
    next(Path(world.store, "features").rglob("00001.parquet")).unlink()
    (world.folder / "shards" / "00001.tar").unlink()
    world.taxonomy.write_text(taxonomy_text((*GROWN, "blue-ring")))
    assert invoke(world, *apply).exit_code == 1
    filled = invoke(world, "backfill", "--plan")
    assert filled.exit_code == 0 and "must be read" in filled.stdout
    failed = invoke(world, "backfill", "--json")
    assert failed.exit_code == 1 and json.loads(failed.stdout)["runs"][0]["troubles"][0]["status"] == "missing"
