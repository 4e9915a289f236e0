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

from flows.retraining.gate_case import GateCase, HeldOut, Tagged
from flows.retraining.gates import Judgement, judge
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


def held(skill: Sequence[float], before: Sequence[float], apart: float = 0.0) -> HeldOut:
    """Return images of which the new model knows each label as well as `skill` says: 0 by chance, 9 for sure.

    What is hard for one model is hard for the other, but for as much as they are `apart`.
    """
    random = np.random.default_rng(0)
    targets_NK = (random.random((IMAGES, len(LABELS))) < 0.3).astype(np.int8)
    noise_NK, other_NK = (random.normal(size=targets_NK.shape) for _ in range(2))
    return HeldOut(
        targets_NK=targets_NK,
        fingerprints_N=np.arange(IMAGES, dtype=np.uint64),
        current_NK=(noise_NK + targets_NK * np.array(before)).astype(np.float32),
        new_NK=(noise_NK + apart * other_NK + targets_NK * np.array(skill)).astype(np.float32),
    )


def test_copies_of_a_picture_are_one_picture_that_has_what_any_of_them_has() -> None:
    nothing, yes, no = -1, 1, 0
    held = HeldOut(
        targets_NK=np.array([[nothing, yes], [no, no], [no, no]], np.int8),
        fingerprints_N=np.array([7, 3, 7], np.uint64),
        current_NK=np.array([[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]], np.float32),
        new_NK=np.array([[0.5, 0.6], [0.7, 0.8], [0.5, 0.6]], np.float32),
    ).once()
    assert held.fingerprints_N.tolist() == [3, 7] and held.targets_NK.tolist() == [[no, no], [no, yes]]
    assert held.current_NK[:, 0].tolist() == pytest.approx([0.3, 0.1]) and held.new_NK[1, 1] == pytest.approx(0.6)


def tags(*rates: float) -> NDArray[np.bool_]:
    """Return the tags of a model that tags the first of the canary images with each label."""
    return np.arange(CANARY)[:, None] < np.array(rates) * CANARY


def case(**changes: Any) -> GateCase:
    """Return the case of a model that saw a and b, and a new one that learned c, which asked; both know d alike."""
    known = GateCase(
        policy=POLICY,
        label_ids=LABELS,
        current=model("old", "a", "b"),
        new=model("new", "a", "b", "c"),
        held=held((9, 9, 9, 1), (9, 9, 1, 1)),
        learned_from=np.empty(0, np.uint64),
        tagged=Tagged(current_CK=tags(0.5, 0.25, 0, 0), new_CK=tags(0.5, 0.25, 0.3, 0)),
        asking=frozenset("c"),
    )
    return replace(known, **changes)


def gate(judgement: Judgement, name: str) -> Gate:
    return next(gate for gate in judgement.gates if gate.name == name)


def test_a_model_that_lost_nothing_passes_every_gate() -> None:
    judgement = judge(case())
    assert judgement.passed and [found.passed for found in judgement.gates] == [True] * 5
    assert judgement.gained == ("c",)
    assert (gate(judgement, "seen_map").before, gate(judgement, "seen_map").after) == (1, 1)
    groups = {label.label_id: label.group for label in judgement.labels}
    assert groups == {"a": "seen", "b": "seen", "c": "learned", "d": "novel"}
    learned = judgement.labels[2]
    assert learned.ap_before is not None and learned.ap_after == 1 and learned.ap_before < 0.9
    assert learned.asked and learned.ap_interval is not None and learned.ap_interval[0] > 0
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
            "of 48 tags on the canary one of the two models alone gives ",
        ),
    ],
)
def test_a_failed_gate_keeps_the_old_model_and_says_why(changes: dict[str, Any], failed: str, why: str) -> None:
    judgement = judge(case(**changes))
    assert not judgement.passed
    assert [found.name for found in judgement.gates if found.passed is False] == [failed]
    assert why in gate(judgement, failed).why


def test_a_change_at_the_limit_passes() -> None:
    changed = Tagged(current_CK=tags(0.5, 0.5, 0, 0), new_CK=tags(0.5, 0.3, 0, 0))
    for limit, passed in ((0.2, True), (0.19, False)):
        allowing = POLICY.model_copy(update={"max_rate_change": limit})
        assert gate(judge(case(tagged=changed, policy=allowing)), "positive_rate").passed is passed


def test_a_change_of_a_few_canary_images_is_noise() -> None:
    changed = Tagged(current_CK=tags(0.5, 0.5, 0, 0), new_CK=tags(0.5, 0.4, 0, 0))
    found = gate(
        judge(case(tagged=changed, policy=POLICY.model_copy(update={"max_rate_change": 0.05}))), "positive_rate"
    )
    assert found.passed and found.within_noise and "within noise" in found.why
    assert found.interval is not None and found.interval[0] < -0.1 < found.interval[1]


SLIGHT = {"held": held((9, 2.4, 9, 1), (9, 2.4, 1, 1), apart=0.5)}  # b is known as well, and does worse by chance


def test_a_loss_over_the_limit_that_may_be_chance_passes_and_says_so() -> None:
    judgement = judge(case(**SLIGHT, policy=POLICY.model_copy(update={"max_seen_drop": 0.001})))
    found = gate(judgement, "seen_map")
    assert found.before is not None and found.after is not None and found.interval is not None
    assert found.before - found.after > found.limit and found.passed and found.within_noise and judgement.passed
    assert found.interval[0] < 0 < found.interval[1] and found.why.endswith("within noise, on so few images")


def test_a_loss_under_the_limit_that_may_be_larger_says_how_large() -> None:
    found = gate(judge(case(**SLIGHT, policy=POLICY.model_copy(update={"max_seen_drop": 0.03}))), "seen_map")
    assert found.passed and not found.within_noise and found.interval is not None
    assert f"a fall of up to {-found.interval[0]:.3f} cannot be excluded" in found.why


def test_the_same_pictures_give_the_same_gates() -> None:
    assert judge(case(**SLIGHT)) == judge(case(**SLIGHT))


def test_a_label_of_two_pictures_tells_nothing_from_chance() -> None:
    few = held((9, 9, 9, 9), (9, 9, 9, 9))
    few.targets_NK[:, 0] = few.current_NK[:, 0] >= np.sort(few.current_NK[:, 0])[-2]
    few.new_NK[:, 0] = -few.current_NK[:, 0]
    judgement = judge(case(held=few, current=model("old", "a"), new=model("new", "a", "c")))
    assert gate(judgement, "seen_map").within_noise and "too few to tell" in gate(judgement, "seen_map").why


def test_what_asked_and_gained_nothing_is_said_and_promoted_unless_a_gain_is_required() -> None:
    same = {"held": held((9, 9, 1, 1), (9, 9, 1, 1))}
    judgement = judge(case(**same))
    assert judgement.passed and judgement.gained == ()
    assert gate(judgement, "asked_map").why.endswith("; no gain beyond chance")
    both = judge(case(**same, asking=frozenset("cd")))
    assert gate(both, "asked_map").why.endswith("no gain beyond chance, neither of one of them nor of all together")
    strict = POLICY.model_copy(update={"require_gain": True})
    refused = judge(case(**same, policy=strict))
    assert not refused.passed and gate(refused, "asked_map").why.endswith("a gain is required (require_gain)")
    assert judge(case(policy=strict)).passed, "c gained"


def test_a_gain_that_is_required_must_be_measured() -> None:
    nobody = held((9, 9, 9, 1), (9, 9, 1, 1))
    nobody.targets_NK[:, 2] = 0
    assert gate(judge(case(held=nobody)), "asked_map").passed is None and judge(case(held=nobody)).passed
    refused = judge(case(held=nobody, policy=POLICY.model_copy(update={"require_gain": True})))
    assert not refused.passed and "a gain is required" in gate(refused, "asked_map").why


def interval_of(judgement: Judgement, label_id: str) -> tuple[float, float]:
    (label,) = (label for label in judgement.labels if label.label_id == label_id)
    assert label.ap_interval is not None
    return label.ap_interval


def test_labels_that_gain_together_and_none_by_itself_gained() -> None:
    """Each gain is beyond chance alone, and not as one of four; all four together are, and the gate goes by that."""
    asked = {"held": held((1.3, 1.3, 1.3, 1.3), (1, 1, 1, 1), apart=0.4), "asking": frozenset(LABELS)}
    judgement = judge(case(**asked, policy=POLICY.model_copy(update={"require_gain": True})))
    found = gate(judgement, "asked_map")
    assert found.passed and found.interval is not None and found.interval[0] > 0 and judgement.gained == ()
    assert all(interval_of(judgement, label_id)[0] <= 0 for label_id in LABELS), "what is printed agrees"
    alone = judge(case(**(asked | {"asking": frozenset("a")})))
    assert interval_of(alone, "a")[1] - interval_of(alone, "a")[0] < np.diff(interval_of(judgement, "a"))


def test_the_label_whose_rate_changes_most_has_the_interval_of_one_of_many() -> None:
    changed = {"current_CK": tags(0.5, 0.5, 0, 0), "new_CK": tags(0.5, 0.3, 0, 0)}
    both = gate(judge(case(tagged=Tagged(**changed))), "positive_rate")
    alone = gate(judge(case(tagged=Tagged(**changed), current=model("old", "b"))), "positive_rate")
    assert both.interval is not None and alone.interval is not None
    assert both.interval[0] < alone.interval[0] < alone.interval[1] < both.interval[1] < 0


def test_what_asked_may_not_lose() -> None:
    lost = judge(case(held=held((9, 9, 0, 1), (9, 9, 5, 1))))
    assert not lost.passed and [found.name for found in lost.gates if found.passed is False] == ["asked_map"]


def test_one_of_many_that_asked_gains_more_easily_by_chance_and_is_held_to_more() -> None:
    noise = held((1.6, 1, 1, 1), (1, 1, 1, 1), apart=0.5)
    alone = judge(case(held=noise, asking=frozenset("a")))
    assert alone.gained == ("a",)
    (label,) = (label for label in alone.labels if label.label_id == "a")
    assert label.ap_interval is not None and label.ap_interval[0] > 0
    wide = replace(noise, targets_NK=np.repeat(noise.targets_NK, 50, axis=1))
    wide = replace(
        wide, current_NK=np.repeat(noise.current_NK, 50, axis=1), new_NK=np.repeat(noise.current_NK, 50, axis=1)
    )
    wide.new_NK[:, 0] = noise.new_NK[:, 0]
    ids = tuple(f"label-{number}" for number in range(wide.targets_NK.shape[1]))
    many = judge(case(held=wide, label_ids=ids, asking=frozenset(ids), tagged="not looked at"))
    assert many.gained == () and interval_of(many, ids[0])[0] <= 0, "what is printed is what is judged by"
    few = wide.targets_NK[:, 1:]
    few[few.cumsum(axis=0) > 2] = 0
    assert judge(case(held=wide, label_ids=ids, asking=frozenset(ids), tagged="not looked at")).gained == ids[:1], (
        "labels of two pictures, of which nothing can be told, are no comparisons"
    )


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
    worse = judge(case(current=zero_shot, held=held((0, 0, 0, 1), (4, 4, 4, 1)), asking=frozenset("abc")))
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


def test_if_the_old_model_learned_from_all_of_a_few_images_nothing_is_known() -> None:
    few = held((9, 9, 9, 1), (9, 9, 1, 1)).rows(np.arange(IMAGES) < 19)
    judgement = judge(case(held=few, learned_from=np.arange(IMAGES, dtype=np.uint64)))
    assert not judgement.passed and (judgement.images, judgement.left_aside, judgement.gained) == (0, 19, ())


@pytest.mark.parametrize("images", [None, held((9, 9, 9, 1), (9, 9, 1, 1)).rows(np.arange(IMAGES) < 19)])
def test_with_too_few_images_nothing_is_known_and_the_old_model_stays(images: HeldOut | None) -> None:
    judgement = judge(case(held=images))
    assert not judgement.passed and not any(label.ap_interval for label in judgement.labels)
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
