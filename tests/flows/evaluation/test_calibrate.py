"""Calibration: a model of its own with the old weights, whose scores are probabilities."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from schemas.errors import ConfigError, RequestError
from schemas.tables import ANY_LABEL
from storage.audit import audit_run
from storage.files import Folder
from storage.models import read_promotion
from tests.flows.annotated import LABELS, NOVEL, TEST_PICTURES, AnnotatedWorld, scenes, side_files


def checksums(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_plain_clip_becomes_a_model_with_probabilities(annotated: AnnotatedWorld) -> None:
    plain = annotated.tag(model="bundled:scenes", shards=(annotated.test,), name="test").plan.record.model_id
    before = annotated.ask("select shard, key, label_id, score, model_id from all_scores order by all")
    summary = annotated.calibrate(model="bundled:scenes")
    config = annotated.config(summary.model_id)
    assert summary.calibrated_from == plain == config["checkpoint"]["calibrated_from"]
    assert (config["calibration"], config["checkpoint"]["head"], config["seen_labels"]) == ("fitted", None, [])
    assert summary.checks.keys() == {"clip", "clip+local"} and summary.images == TEST_PICTURES
    for scorer, checks in summary.checks.items():
        for check in checks:
            assert check.log_loss is not None and check.constant_log_loss is not None
            assert check.log_loss < check.constant_log_loss, (scorer, check.group)
    outcome = annotated.tag(model=summary.model_id)
    assert outcome.complete and outcome.plan.record.calibration == "fitted"
    assert outcome.plan.record.scorer == config["scorers"][0]
    old = f"select shard, key, label_id, score, model_id from all_scores where model_id = '{plain}' order by all"
    assert annotated.ask(old) == before, "rows of the old model stay what they are"
    assert audit_run(Folder(annotated.store), outcome.plan.record.run_id).ok


def test_a_trained_model_gets_a_new_id_and_keeps_its_weights(annotated: AnnotatedWorld, model_id: str) -> None:
    before = checksums(Path(annotated.store, "models", model_id))
    summary = annotated.calibrate()
    assert summary.calibrated_from == model_id != summary.model_id
    assert checksums(Path(annotated.store, "models", model_id)) == before
    old, new = (load_file(annotated.model_file(name, "model.safetensors")) for name in (model_id, summary.model_id))
    assert old.keys() == new.keys()
    for name in old.keys() - {"learned_from"}:
        np.testing.assert_array_equal(old[name], new[name], err_msg=name)
    assert len(new["learned_from"]) == len(old["learned_from"]) + TEST_PICTURES
    assert annotated.calibration(summary.model_id) != annotated.calibration(model_id)
    config = annotated.config(summary.model_id)
    assert config["checkpoint"]["data"] == annotated.config(model_id)["checkpoint"]["data"]
    assert config["checkpoint"]["calibration_data"]["images"] == TEST_PICTURES
    promotion = read_promotion(Folder(annotated.store))
    assert promotion is not None and promotion.model_id == model_id, "until somebody promotes the new one"
    assert annotated.calibrate(model=model_id).model_id == summary.model_id, "the same evidence, the same model"
    with pytest.raises(RequestError, match="learned from every one of the 80 annotated images"):
        annotated.evaluate(model=summary.model_id)


def test_images_that_trained_it_are_left_out(annotated: AnnotatedWorld) -> None:
    shards = str(annotated.folder / "shards" / "*.tar")
    with pytest.raises(RequestError, match="name other shards"):
        annotated.calibrate(shards=(shards,), name="world")
    both = annotated.calibrate(shards=(shards, annotated.test), name="both")
    assert (both.images, both.left_out) == (TEST_PICTURES, 160)
    assert "160 annotated images were left out" in "\n".join(both.lines())


def test_labels_without_new_evidence_keep_their_maps(annotated: AnnotatedWorld, model_id: str) -> None:
    kept = next(label for label in LABELS if label not in NOVEL)

    def says(key: str, labels: tuple[str, ...]) -> dict[str, list[str]]:
        return {"labels": [label for label in labels if label != kept and label not in NOVEL]}

    shard = annotated.shard("fewer", side_files(scenes(TEST_PICTURES, 1), says))
    summary = annotated.calibrate(shards=(str(shard),), name="fewer")
    old, new = annotated.calibration(model_id), annotated.calibration(summary.model_id)
    assert old.keys() == new.keys()
    same = {label for scorer, label in old if scorer == "fused" and old[scorer, label] == new[scorer, label]}
    assert {kept, ANY_LABEL} <= same, "nobody said anything about it, or about novel labels"
    assert len(same) < len(LABELS) / 2


def test_enough_novel_labels_give_all_others_a_new_map(annotated: AnnotatedWorld, model_id: str) -> None:
    new, old = (annotated.calibration(name) for name in (annotated.calibrate().model_id, model_id))
    assert new["fused", ANY_LABEL] != old["fused", ANY_LABEL]
    assert ("fused", NOVEL[0]) in new and ("fused", NOVEL[0]) not in old


def test_thresholds_that_reach_a_precision(annotated: AnnotatedWorld) -> None:
    sure = annotated.calibrate(target_precision=0.9)
    usual = annotated.calibrate()
    assert sure.model_id != usual.model_id
    sure_rows, usual_rows = annotated.calibration(sure.model_id), annotated.calibration(usual.model_id)
    for key, row in sure_rows.items():
        assert (row["slope"], row["intercept"]) == (usual_rows[key]["slope"], usual_rows[key]["intercept"])
    assert sure.unreached.keys() == sure.checks.keys() and not any(usual.unreached.values())
    unreached = sure.unreached["decoder"]
    assert unreached and f"decoder: {len(unreached)} labels cannot reach" in "\n".join(sure.lines())
    with pytest.raises(ConfigError, match="target_precision = 1.5"):
        annotated.calibrate(target_precision=1.5)
