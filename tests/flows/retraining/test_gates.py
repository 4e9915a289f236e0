"""The gates, from drawn logits and tags: what passes, what keeps the old model, what cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.retraining.gates import GateCase, HeldOut, Judgement, Tagged, judge
from schemas.manifest import ModelRecord
from schemas.retraining import Gate, RetrainPolicy

IMAGES, CANARY = 60, 40
LABELS = ("a", "b", "c", "d")
POLICY = RetrainPolicy(min_held_out=20)


def model(model_id: str, *seen: str) -> ModelRecord:
    return ModelRecord(
        model_id=model_id,
        encoder_id="e",
        text_encoder_id="t",
        name="m",
        architecture="tiny",
        image_size=(8, 8),
        embedding_width=8,
        seen_labels=seen,
    )


def held(skill: Sequence[float], before: Sequence[float]) -> HeldOut:
    """Return images of which the new model knows each label as well as `skill` says: 0 by chance, 9 for sure."""
    random = np.random.default_rng(0)
    targets_NK = (random.random((IMAGES, len(LABELS))) < 0.3).astype(np.int8)
    noise_NK = random.normal(size=targets_NK.shape)
    return HeldOut(
        targets_NK=targets_NK,
        fingerprints_N=np.arange(IMAGES, dtype=np.uint64),
        current_NK=(noise_NK + targets_NK * np.array(before)).astype(np.float32),
        new_NK=(noise_NK + targets_NK * np.array(skill)).astype(np.float32),
    )


def tags(*rates: float) -> NDArray[np.bool_]:
    """Return the tags of a model that tags the first of the canary images with each label."""
    return np.arange(CANARY)[:, None] < np.array(rates) * CANARY


def case(**changes: Any) -> GateCase:
    """Return the case of a model that saw a and b, and a new one that learned c; both know d alike."""
    known = GateCase(
        policy=POLICY,
        label_ids=LABELS,
        current=model("old", "a", "b"),
        new=model("new", "a", "b", "c"),
        held=held((9, 9, 9, 1), (9, 9, 1, 1)),
        learned_from=np.empty(0, np.uint64),
        tagged=Tagged(current_CK=tags(0.5, 0.25, 0, 0), new_CK=tags(0.5, 0.25, 0.3, 0)),
    )
    return replace(known, **changes)


def gate(judgement: Judgement, name: str) -> Gate:
    return next(gate for gate in judgement.gates if gate.name == name)


def test_a_model_that_lost_nothing_passes_every_gate() -> None:
    judgement = judge(case())
    assert judgement.passed and [found.passed for found in judgement.gates] == [True] * 4
    assert (gate(judgement, "seen_map").before, gate(judgement, "seen_map").after) == (1, 1)
    groups = {label.label_id: label.group for label in judgement.labels}
    assert groups == {"a": "seen", "b": "seen", "c": "learned", "d": "novel"}
    learned = judgement.labels[2]
    assert learned.ap_before is not None and learned.ap_after == 1 and learned.ap_before < 0.9
    assert (learned.rate_before, learned.rate_after) == (0, 0.3)


@pytest.mark.parametrize(
    ("changes", "failed", "why"),
    [
        ({"held": held((9, 0, 9, 1), (9, 9, 1, 1))}, "seen_map", "on 2 labels of the old model, 60 held-out images"),
        ({"held": held((9, 9, 9, 0), (9, 9, 1, 4))}, "novel_map", "on 1 label that neither model was trained on"),
        (
            {"tagged": Tagged(current_CK=tags(0.5, 0.5, 0, 0), new_CK=tags(0.5, 0.3, 0, 0))},
            "positive_rate",
            "b changes most: tagged on 0.500 -> 0.300 of 40 canary images; 2 labels",
        ),
        (
            {"tagged": Tagged(current_CK=tags(0.1, 0.5, 0, 0), new_CK=~tags(0.9, 0.5, 0, 0))},
            "flip_rate",
            "of 48 tags on the canary are given by one of the two models alone",
        ),
    ],
)
def test_a_failed_gate_keeps_the_old_model_and_says_why(changes: dict[str, Any], failed: str, why: str) -> None:
    judgement = judge(case(**changes))
    assert not judgement.passed
    assert [found.name for found in judgement.gates if found.passed is False] == [failed]
    assert why in gate(judgement, failed).why


def test_a_change_at_the_limit_passes() -> None:
    changed = Tagged(current_CK=tags(0.5, 0.5, 0, 0), new_CK=tags(0.5, 0.4, 0, 0))
    assert judge(case(tagged=changed)).passed
    strict = POLICY.model_copy(update={"max_rate_change": 0.05})
    assert gate(judge(case(tagged=changed, policy=strict)), "positive_rate").passed is False


def test_a_label_that_hardly_any_picture_has_says_nothing_of_rates() -> None:
    rare = Tagged(current_CK=tags(0.5, 0.1, 0, 0), new_CK=tags(0.5, 0, 0, 0))
    assert gate(
        judge(case(tagged=rare, policy=POLICY.model_copy(update={"max_rate_change": 0.0}))), "positive_rate"
    ).passed
    none = Tagged(current_CK=tags(0.1, 0, 0, 0), new_CK=tags(0.1, 0, 0, 0))
    judgement = judge(case(tagged=none))
    assert gate(judgement, "positive_rate").passed is None and judgement.passed


def test_an_uncalibrated_model_is_no_yardstick_for_tags_and_does_not_block() -> None:
    judgement = judge(case(tagged="the current model is not calibrated"))
    assert judgement.passed
    assert gate(judgement, "flip_rate").why == "not measured: the current model is not calibrated"
    assert {label.rate_after for label in judgement.labels} == {None}


def test_a_model_that_was_trained_on_nothing_is_to_be_equalled_on_what_was_learned() -> None:
    zero_shot = model("old")
    assert judge(case(current=zero_shot)).passed
    worse = judge(case(current=zero_shot, held=held((0, 0, 0, 1), (2, 2, 2, 1))))
    assert not worse.passed and "3 labels that the new model learned" in gate(worse, "seen_map").why
    assert {label.group for label in worse.labels} == {"learned", "novel"}
    assert gate(worse, "flip_rate").passed is None, "no label was learned by both"


def test_without_novel_labels_that_gate_is_not_measured() -> None:
    judgement = judge(case(new=model("new", *LABELS)))
    assert judgement.passed and gate(judgement, "novel_map").passed is None


def test_images_that_the_old_model_learned_from_are_left_aside() -> None:
    judgement = judge(case(learned_from=np.arange(30, dtype=np.uint64)))
    assert (judgement.images, judgement.left_aside) == (30, 30)


def test_if_too_few_others_are_left_all_are_used_and_it_is_said() -> None:
    judgement = judge(case(learned_from=np.arange(50, dtype=np.uint64)))
    assert (judgement.images, judgement.left_aside) == (60, 0)
    assert "learned from 50 of these images" in gate(judgement, "seen_map").why


@pytest.mark.parametrize("images", [None, held((9, 9, 9, 1), (9, 9, 1, 1)).rows(np.arange(IMAGES) < 19)])
def test_with_too_few_images_nothing_is_known_and_the_old_model_stays(images: HeldOut | None) -> None:
    judgement = judge(case(held=images))
    assert not judgement.passed
    assert all(gate(judgement, name).passed is None for name in ("seen_map", "novel_map"))
    assert "20 needed" in gate(judgement, "seen_map").why


@given(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=4, max_size=4))
def test_a_model_passes_against_itself(skill: list[float]) -> None:
    strict = POLICY.model_copy(
        update={"max_seen_drop": 0.0, "max_novel_drop": 0.0, "max_rate_change": 0.0, "max_flip_rate": 0.0}
    )
    same = tags(0.5, 0.2, 0.1, 0.4)
    itself = case(
        policy=strict,
        new=model("old", "a", "b"),
        held=held(skill, skill),
        tagged=Tagged(current_CK=same, new_CK=same),
    )
    assert judge(itself).passed
