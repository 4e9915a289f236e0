"""Tagging with a trained model: its scorers, its thresholds, and new labels without the images."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipdecoder.clock import StageClock
from examples.scenes.render import taxonomy_yaml
from flows.tagging.estimate import estimate_tag
from flows.tagging.features import feature_tagger, shard_features
from flows.tagging.plan import plan_tag
from flows.tagging.run import make_scorer
from schemas.errors import ConfigError, ModelError, RequestError
from schemas.tables import ANY_LABEL
from storage.audit import audit_run
from storage.files import Folder
from tests.flows.annotated import LABELS, NOVEL, TEST_PICTURES, TRAIN_PICTURES, AnnotatedWorld
from tests.flows.world import decoded
from tests.nasty import TEXT_AS_JPEG

Scores = dict[tuple[str, str], float]
SCORERS = [("clip", False), ("clip", True), ("decoder", False), ("fused", False)]
UNSEEN = "red-heart"  # in no taxonomy so far


def scores_of(world: AnnotatedWorld, run_id: str) -> Scores:
    rows = world.ask(f"select key, label_id, score from all_scores where run_id = '{run_id}'")
    return {(key, label_id): score for key, label_id, score in rows}


def furthest(left: Scores, right: Scores) -> float:
    """Return the greatest difference of two runs' scores of the same images and labels."""
    assert left.keys() == right.keys() and left
    return max(abs(left[cell] - right[cell]) for cell in left)


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.parquet")}


def copy_models(world: AnnotatedWorld, store: str) -> None:
    """Give another store the models of a world, and nothing else of it."""
    shutil.copytree(Path(world.store, "models"), Path(store, "models"))


@pytest.fixture
def unstored(annotated: AnnotatedWorld) -> dict[str, object]:
    """What tags the pictures that nothing was learned from: no feature of theirs is stored yet."""
    return {"shards": (annotated.test,), "name": "test", "floor": 0.0}


@pytest.mark.parametrize(("scorer", "local"), SCORERS)
def test_every_scorer_scores_every_label_and_says_so(
    annotated: AnnotatedWorld, model_id: str, scorer: str, local: bool
) -> None:
    outcome = annotated.tag(model=model_id, scorer=scorer, local=local)
    name = "clip+local" if local else scorer
    assert outcome.complete and decoded(outcome) == 0, "training stored features and tokens"
    assert (outcome.plan.record.scorer, outcome.plan.record.calibration) == (name, "fitted")
    assert annotated.ask("select distinct scorer from scores") == [(name,)]
    assert annotated.ask("select count(*), count(distinct label_id), min(score) >= 0, max(score) <= 1 from scores") == [
        (TRAIN_PICTURES * len(LABELS), len(LABELS), True, True)
    ]
    assert audit_run(Folder(annotated.store), outcome.plan.record.run_id).ok


def test_fused_is_what_a_trained_model_scores_with(annotated: AnnotatedWorld, model_id: str) -> None:
    assert plan_tag(annotated.request()).record.scorer == "fused", "the promoted model is the trained one"
    runs = {plan_tag(annotated.request(scorer=scorer, local=local)).record.run_id for scorer, local in SCORERS}
    assert len(runs) == len(SCORERS)
    with pytest.raises(ModelError, match=r"unknown scorer 'decoder'; known: clip, clip\+local"):
        plan_tag(annotated.request(model="bundled:scenes", scorer="decoder"))
    with pytest.raises(ConfigError, match="leave it out"):
        plan_tag(annotated.request(scorer="decoder", local=True))


def test_tags_are_scores_above_the_calibrated_thresholds(annotated: AnnotatedWorld, model_id: str) -> None:
    annotated.tag(floor=0.0)
    rows = annotated.calibration(model_id)
    stored = {label_id: row["threshold"] for (scorer, label_id), row in rows.items() if scorer == "fused"}
    assert set(stored) == (set(LABELS) - set(NOVEL)) | {ANY_LABEL}
    shown = annotated.ask("select label_id, threshold, source from thresholds where scorer = 'fused'")
    assert {label_id: (threshold, source) for label_id, threshold, source in shown} == {
        label_id: (stored[ANY_LABEL], "novel") if label_id in NOVEL else (stored[label_id], "calibration")
        for label_id in LABELS
    }
    assert sorted(annotated.ask("select label_id from labels where not seen")) == sorted((name,) for name in NOVEL)
    tags = set(annotated.ask("select key, label_id from tags"))
    assert tags == {
        (key, label_id)
        for key, label_id, score in annotated.ask("select key, label_id, score from scores")
        if score >= stored.get(label_id, stored[ANY_LABEL])
    }
    assert 0 < len(tags) < TRAIN_PICTURES * len(LABELS) / 4


def test_a_score_depends_on_no_other_image_or_label(
    annotated: AnnotatedWorld, model_id: str, unstored: dict[str, object]
) -> None:
    whole = annotated.tag(**unstored, store_tokens=True)
    few = annotated.tag(**unstored, labels=f"{LABELS[3]},{NOVEL[0]}")
    alone = scores_of(annotated, few.plan.record.run_id)
    among = {cell: score for cell, score in scores_of(annotated, whole.plan.record.run_id).items() if cell in alone}
    assert furthest(alone, among) < 1e-5
    for batch_size in (1, 7):
        store = f"{annotated.store}-{batch_size}"
        copy_models(annotated, store)
        annotated.tag(**unstored, store=store, model=model_id, batch_size=batch_size)
        other = annotated.ask("select key, label_id, score from scores", store)
        again = {(key, label_id): score for key, label_id, score in other}
        assert furthest(again, scores_of(annotated, whole.plan.record.run_id)) < 2e-3


def test_new_labels_are_scored_from_stored_tokens(annotated: AnnotatedWorld, unstored: dict[str, object]) -> None:
    first = annotated.tag(**unstored, store_tokens=True)
    assert decoded(first) == TEST_PICTURES
    annotated.taxonomy.write_text(taxonomy_yaml([*LABELS, UNSEEN]))
    new = annotated.tag(**unstored, labels="new")
    assert [label.label_id for label in new.plan.vocabulary] == [UNSEEN]
    assert decoded(new) == 0
    from_tokens = scores_of(annotated, new.plan.record.run_id)

    other = f"{annotated.store}-images"
    copy_models(annotated, other)
    images = annotated.tag(**unstored, store=other, labels=UNSEEN, model=first.plan.record.model_id)
    assert decoded(images) == TEST_PICTURES
    from_images = annotated.ask("select key, label_id, score from scores", other)
    assert {(key, label_id): score for key, label_id, score in from_images} == from_tokens, "exactly"
    assert audit_run(Folder(annotated.store), new.plan.record.run_id).ok


def test_without_stored_tokens_the_images_are_read_and_embeddings_stay(
    annotated: AnnotatedWorld, unstored: dict[str, object]
) -> None:
    clip = annotated.tag(**unstored, scorer="clip")
    features = contents(Path(annotated.store, "features"))
    tokens = contents(Path(annotated.store, "tokens"))
    decoder = annotated.tag(**unstored, scorer="decoder", batch_size=9)
    assert (decoded(clip), decoded(decoder)) == (TEST_PICTURES, TEST_PICTURES)
    assert contents(Path(annotated.store, "features")) == features
    assert contents(Path(annotated.store, "tokens")) == tokens, "nobody asked to keep them"
    annotated.taxonomy.write_text(taxonomy_yaml([*LABELS, UNSEEN]))
    assert decoded(annotated.tag(**unstored, scorer="clip", labels=UNSEEN)) == 0, "embeddings are enough"


def test_a_retry_with_tokens_visits_only_what_failed(annotated: AnnotatedWorld, unstored: dict[str, object]) -> None:
    annotated.shard("bad", [("bad.jpg", TEXT_AS_JPEG)])
    shards = (annotated.test, str(annotated.folder / "shards" / "bad.tar"))
    both = unstored | {"shards": shards, "name": "both"}
    first = annotated.tag(**both, store_tokens=True)
    assert decoded(first) == TEST_PICTURES + 1 and first.complete
    again = annotated.tag(**both, store_tokens=True, retry_failed=True)
    assert (decoded(again), list(again.reports)) == (1, ["shards/bad"])
    assert audit_run(Folder(annotated.store), again.plan.record.run_id).ok


def test_a_dry_run_measures_and_writes_nothing(annotated: AnnotatedWorld, unstored: dict[str, object]) -> None:
    before = contents(annotated.folder)
    kept = estimate_tag(plan_tag(annotated.request(**unstored, store_tokens=True)))
    bare = estimate_tag(plan_tag(annotated.request(**unstored)))
    assert kept.sampled == bare.sampled == TEST_PICTURES
    assert kept.output_bytes > bare.output_bytes + TEST_PICTURES * 64 * 96, "tokens are what costs room"
    stored = estimate_tag(plan_tag(annotated.request(scorer="fused")))
    assert stored.pending == 2 and "decode" not in stored.stage_images_per_second
    assert contents(annotated.folder) == before


def test_a_run_goes_on_with_the_model_that_was_planned(annotated: AnnotatedWorld, model_id: str) -> None:
    first = annotated.tag()
    again = annotated.tag()
    assert first.plan.record.run_id == again.plan.record.run_id and again.reports == {}
    assert json.loads(annotated.model_file(model_id, "config.json").read_text())["model_id"] == model_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "was changed or damaged; put it back"),
        ("calibration.parquet", "cannot be read"),
        ("config.json", "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused(annotated: AnnotatedWorld, model_id: str, name: str, message: str) -> None:
    path = annotated.model_file(model_id, name)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises((ModelError, RequestError), match=message):
            plan_tag(annotated.request(model=model_id))
    if name != "config.json":
        path.unlink()
        with pytest.raises(ModelError, match="is not in the store"):
            plan_tag(annotated.request(model=model_id))
        path.write_bytes(data)
    else:
        path.write_bytes(data)
    assert plan_tag(annotated.request(model=model_id)).record.model_id == model_id


def test_scores_are_the_models_own(annotated: AnnotatedWorld, model_id: str) -> None:
    """What stands in the store is what the loaded checkpoint says of the stored features."""
    plan = plan_tag(annotated.request(floor=0.0))
    scorer = make_scorer(plan)
    tagger = feature_tagger(scorer.encoder, tokens=True)
    features, _ = shard_features(plan.features(tokens=True), plan.shards[0], tagger, StageClock())
    logits_RK = scorer.vocabulary.logits(features.embeddings_ND, features.tokens_NTC)
    scores_RK = scorer.vocabulary.maps.scores(logits_RK)
    annotated.tag(floor=0.0)
    shard = plan.shards[0].shard
    rows = annotated.ask(f"select sample, label_id, score from scores where shard = '{shard}'")
    column = {label_id: number for number, label_id in enumerate(scorer.label_ids)}
    found = np.full(scores_RK.shape, np.nan)
    for sample, label_id, score in rows:
        found[sample, column[label_id]] = score
    np.testing.assert_allclose(found, scores_RK, atol=1e-5)
