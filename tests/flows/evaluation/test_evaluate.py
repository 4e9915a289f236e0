"""Evaluation: which images and labels count, what it is compared with, and where it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.evaluate import EvaluationOutcome
from schemas.errors import ConfigError, ModelError, RequestError, RunError
from schemas.evaluation import Evaluation, GroupMetrics
from tests.flows.annotated import (
    LABELS,
    NOVEL,
    TEST_PICTURES,
    TRAIN_PICTURES,
    AnnotatedWorld,
    copy_world,
    recipe,
    scenes,
    side_files,
)
from tests.flows.conftest import Learned
from tests.nasty import TEXT_AS_JPEG

SEEN = tuple(label for label in LABELS if label not in NOVEL)


@pytest.fixture(scope="module")
def judged(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> EvaluationOutcome:
    """Return the evaluation of the trained model on the test pictures."""
    world = copy_world(learned[0], tmp_path_factory.mktemp("judged") / "world")
    return world.evaluate(novel=world.novel)


def group(evaluation: Evaluation, scorer: str, name: str) -> GroupMetrics | None:
    [found] = [row for row in evaluation.scorers if row.scorer == scorer]
    metrics: GroupMetrics | None = getattr(found, name)
    return metrics


def test_the_scorers_stand_beside_what_they_have_to_beat(judged: EvaluationOutcome) -> None:
    evaluation = judged.evaluation
    names = ["fused", "decoder", "clip+local", "clip", "linear", "ridge", "label_ridge", "constant", "chance"]
    assert [row.scorer for row in evaluation.scorers] == names
    assert (evaluation.scorer, evaluation.calibration, evaluation.num_images) == ("fused", "fitted", TEST_PICTURES)
    seen, novel = group(evaluation, "fused", "seen"), group(evaluation, "fused", "novel")
    chance = group(evaluation, "chance", "novel")
    assert seen is not None and novel is not None and chance is not None
    assert (seen.num_labels, novel.num_labels) == (len(SEEN), len(NOVEL))
    assert novel.mean_average_precision is not None and chance.mean_average_precision is not None
    assert novel.mean_average_precision > 3 * chance.mean_average_precision
    assert seen.ece is not None and seen.ece < 0.2
    assert group(evaluation, "label_ridge", "novel") is None, "it knows no label that it was not fitted on"
    assert [label.label_id for label in evaluation.labels if not label.seen] == [x for x in LABELS if x in NOVEL]


def test_the_results_stand_in_the_store_and_where_they_are_wanted(judged: EvaluationOutcome, tmp_path: Path) -> None:
    judged.copy_to(tmp_path / "new" / "evaluation")
    for name in ("metrics.json", "report.html"):
        data = judged.folder.read_bytes(f"{judged.path}/{name}")
        assert (tmp_path / "new" / "evaluation" / name).read_bytes() == data
    assert Evaluation.model_validate_json((tmp_path / "new" / "evaluation" / "metrics.json").read_text()) == (
        judged.evaluation
    )
    page = (tmp_path / "new" / "evaluation" / "report.html").read_text()
    assert "data:image/" in page and "http://" not in page.replace("http://www.w3.org", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot write in .*the results are in .*report\.html"):
        judged.copy_to(tmp_path / "file")


def test_images_that_were_learned_from_do_not_count(annotated: AnnotatedWorld) -> None:
    learned = str(annotated.folder / "shards" / "*.tar")
    with pytest.raises(RequestError, match=f"learned from every one of the {TRAIN_PICTURES} annotated images"):
        annotated.evaluate(shards=(learned,), name="world")
    both = annotated.evaluate(shards=(learned, annotated.test), name="both")
    assert (both.left_out, both.evaluation.num_images) == (TRAIN_PICTURES, TEST_PICTURES)
    alone = annotated.evaluate()
    assert alone.left_out == 0
    for ours, theirs in zip(alone.evaluation.labels, both.evaluation.labels, strict=True):
        assert (ours.average_precision, ours.num_positives) == (theirs.average_precision, theirs.num_positives)
    unnamed = set(LABELS) - {label for _, _, labels in scenes(TEST_PICTURES, 1) for label in labels}
    assert alone.evaluation.num_unknown == TEST_PICTURES * len(unnamed) > 0, "of them nobody thought"
    assert both.evaluation.num_unknown == 0, "the other shards do name them"


def test_a_copy_of_a_learned_picture_is_known_by_its_bytes(annotated: AnnotatedWorld) -> None:
    _, copied, labels = scenes(TRAIN_PICTURES, 0)[0]
    pictures = [("renamed", copied, labels), *scenes(TEST_PICTURES, 1)[:30]]
    members = side_files(pictures, lambda key, labels: {"labels": labels})
    bad = [("bad.jpg", TEXT_AS_JPEG), ("bad.json", b'{"labels": ["red-circle"]}')]
    shard = annotated.shard("copies", [*members, *bad])
    outcome = annotated.evaluate(shards=(str(shard),), name="copies")
    assert (outcome.left_out, outcome.evaluation.num_images, outcome.evaluation.num_failed) == (1, 30, 1)


def test_protocol_f_counts_only_images_with_a_label_of_the_group(
    annotated: AnnotatedWorld, judged: EvaluationOutcome
) -> None:
    outcome = annotated.evaluate(novel=annotated.novel, protocol="F")
    with_novel = sum(any(label in NOVEL for label in labels) for _, _, labels in scenes(TEST_PICTURES, 1))
    novel, seen = (group(outcome.evaluation, "fused", name) for name in ("novel", "seen"))
    assert novel is not None and seen is not None
    assert novel.num_images == with_novel < seen.num_images < TEST_PICTURES
    assert outcome.path != judged.path, "both protocols have their place"


def test_plain_clip_can_stand_beside_a_trained_model(annotated: AnnotatedWorld, judged: EvaluationOutcome) -> None:
    plain = annotated.evaluate(model="bundled:scenes", novel=annotated.novel).evaluation
    assert [row.scorer for row in plain.scorers] == ["clip", "clip+local", "constant", "chance"]
    assert plain.calibration == "none"
    for name in ("seen", "novel"):
        ours, theirs = group(plain, "clip", name), group(judged.evaluation, "clip", name)
        assert ours is not None and theirs is not None
        assert ours.num_labels == theirs.num_labels
        assert ours.mean_average_precision == pytest.approx(theirs.mean_average_precision, abs=1e-6)
    unlisted = annotated.evaluate(model="bundled:scenes").evaluation
    assert group(unlisted, "clip", "seen") is None
    every = group(unlisted, "clip", "novel")
    assert every is not None and every.num_labels == len(LABELS), "it was trained on none of them"


def test_which_labels_are_novel(annotated: AnnotatedWorld, judged: EvaluationOutcome, tmp_path: Path) -> None:
    unlisted = annotated.evaluate().evaluation
    assert [label.seen for label in unlisted.labels] == [label.seen for label in judged.evaluation.labels]
    listed = tmp_path / "novel.txt"
    listed.write_text(NOVEL[0])
    fewer = annotated.evaluate(novel=str(listed)).evaluation
    assert len(fewer.labels) == len(SEEN) + 1, "other labels that it was not trained on are neither seen nor novel"
    listed.write_text(f"{NOVEL[0]}\n{SEEN[0]}\n")
    with pytest.raises(RequestError, match=rf"calls 1 labels novel that model .* was trained on, such as '{SEEN[0]}'"):
        annotated.evaluate(novel=str(listed))


@pytest.mark.parametrize(
    ("options", "scorer"),
    [({"scorer": "decoder"}, "decoder"), ({"local": True}, "clip+local"), ({"scorer": "clip"}, "clip")],
)
def test_any_scorer_can_be_the_one_under_test(annotated: AnnotatedWorld, options: Any, scorer: str) -> None:
    evaluation = annotated.evaluate(**options).evaluation
    assert evaluation.scorer == scorer and evaluation.scorers[0].scorer == scorer
    assert sorted(row.scorer for row in evaluation.scorers[:4]) == ["clip", "clip+local", "decoder", "fused"]


def test_what_is_missing_can_be_unknown(annotated: AnnotatedWorld) -> None:
    with pytest.raises(RequestError, match='names a label under "absent"'):
        annotated.evaluate(missing="unknown")

    def says(key: str, labels: tuple[str, ...]) -> dict[str, list[str]]:
        return {"labels": list(labels), "absent": [label for label in LABELS[:5] if label not in labels]}

    pictures = scenes(TEST_PICTURES, 1)
    shard = annotated.shard("said", side_files(pictures, says))
    evaluation = annotated.evaluate(shards=(str(shard),), name="said", missing="unknown").evaluation
    said = sum(len({*LABELS[:5], *labels}) for _, _, labels in pictures)
    assert evaluation.num_unknown == TEST_PICTURES * len(LABELS) - said > 0


def test_a_head_with_label_groups_is_judged_by_what_it_knows(annotated: AnnotatedWorld) -> None:
    grouped = annotated.train(recipe=recipe(groups=4, epochs=1)).model_id
    evaluation = annotated.evaluate(model=grouped, novel=annotated.novel).evaluation
    assert evaluation.scorer == "fused" and group(evaluation, "fused", "novel") is not None
    assert "decoder" not in [row.scorer for row in evaluation.scorers], "it knows no novel label"
    with pytest.raises(ModelError, match="has label groups and scores only labels it was trained on"):
        annotated.evaluate(model=grouped, novel=annotated.novel, scorer="decoder")


def test_requests_that_cannot_be_carried_out(annotated: AnnotatedWorld, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model"):
        annotated.evaluate(model="0123456789abcdef")
    with pytest.raises(ConfigError, match="protocol = 'B'"):
        annotated.evaluate(protocol="B")
    with pytest.raises(ConfigError, match="--local is about the scorer clip"):
        annotated.evaluate(scorer="fused", local=True)
    with pytest.raises(RunError, match=r"9\.tar is not there"):
        annotated.evaluate(shards=(str(annotated.folder / "test" / "0000{0,9}.tar"),))
    with pytest.raises(RequestError, match="has no text tower|knows pictures and no texts"):
        annotated.evaluate(model="timm:mobilenetv2_100.ra_in1k")


def test_the_stored_metrics_are_json_without_nan(judged: EvaluationOutcome) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(judged.folder.read_bytes(f"{judged.path}/metrics.json"), parse_constant=refuse)
