"""Two stages of training: what the first does without, what it chooses, and what comes out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from clipdecoder.judging.metrics import log_loss
from clipdecoder.scoring.scores import all_logits
from clipdecoder.training import fitting, held_out, stage
from clipdecoder.training.fitting import FitData, FitHooks, Fitted, choose_left_out
from clipdecoder.training.targets import Silence, Targets
from schemas.tables import ANY_LABEL
from tests.clipdecoder.fitted_world import (
    EVERYTHING,
    NUM_IMAGES,
    NUM_JUDGED,
    NUM_SEEN,
    NUM_TRAINED,
    fit_quietly,
    fitted,
    label_id,
    model_of,
    recipe,
    world,
)

VALIDATION = np.arange(NUM_TRAINED, NUM_IMAGES - NUM_JUDGED)


def columns(label_ids: tuple[str, ...]) -> np.ndarray:
    return np.array([int(name.removeprefix("label-")) for name in label_ids])


def small(data: FitData) -> FitData:
    """Return the data with fewer images, which is faster."""
    return replace(data, train_M=data.train_M[:40], validation_V=data.validation_V[:40])


def first_stage(data: FitData) -> tuple[dict[str, np.ndarray], Fitted]:
    """Return the weights that the first stage ends with, as its saved state has them, and the whole."""
    states: dict[str, bytes] = {}
    found = fit_quietly(data, recipe(epochs=1), FitHooks(save=states.__setitem__))
    return safetensors.numpy.load(states["choose"]), found


@cache
def undisturbed(joint: bool) -> tuple[dict[str, np.ndarray], Fitted]:
    """Return the first stage of the data as they are."""
    return first_stage(small(world(joint=joint).data()))


def changed_targets(data: FitData, changed: np.ndarray) -> FitData:
    """Return the data with other truths for some labels in the images that are trained on."""
    rng = np.random.default_rng(5)
    dense_NK = data.targets.dense()
    dense_NK[np.ix_(data.train_M, changed)] = rng.random((len(data.train_M), len(changed))) < 0.3
    positives = [np.flatnonzero(row).tolist() for row in dense_NK]
    return replace(data, targets=Targets.of(positives, num_labels=data.targets.num_labels))


def changed_queries(data: FitData, changed: np.ndarray) -> FitData:
    """Return the data with other texts for some labels."""
    queries_KQ = data.queries_KQ.copy()
    queries_KQ[changed] = -queries_KQ[changed][::-1]
    return replace(data, queries_KQ=queries_KQ)


@pytest.mark.parametrize(
    ("change", "joint"), [(changed_targets, True), (changed_targets, False), (changed_queries, True)]
)
def test_labels_left_out_leave_no_trace_in_the_first_stage(change: Any, joint: bool) -> None:
    data = small(world(joint=joint).data())
    weights, whole = undisturbed(joint)
    left_out = columns(whole.report.left_out)
    assert len(left_out) == 5
    others, changed = first_stage(change(data, left_out))
    assert changed.report.left_out == whole.report.left_out
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)
    for ours, theirs in zip(whole.report.branches, changed.report.branches, strict=True):
        assert ours.seen == theirs.seen or ours.branch == "fused"
    # The second stage trains on them.
    assert whole.parts.to_bytes() != changed.parts.to_bytes()


def test_labels_that_stay_do_leave_a_trace() -> None:
    data = small(world().data())
    weights, whole = undisturbed(True)
    stayed = np.setdiff1d(np.arange(NUM_SEEN), columns(whole.report.left_out))[:3]
    others, _ = first_stage(changed_targets(data, stayed))
    assert not all(np.array_equal(value, others[name]) for name, value in weights.items())


def test_the_first_stage_is_given_no_column_of_a_label_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given_to: list[tuple[int, np.ndarray]] = []
    train_head = stage.train_head

    def spy(config: Any, data: Any, *args: Any, **options: Any) -> Any:
        given_to.append((data.targets.num_labels, data.queries_KQ))
        return train_head(config, data, *args, **options)

    monkeypatch.setattr(stage, "train_head", spy)
    data = small(world().data())
    found = fit_quietly(data, recipe(epochs=1))
    kept = np.setdiff1d(np.arange(NUM_SEEN), columns(found.report.left_out))
    (num_first, queries_first), (num_final, queries_final) = given_to
    assert num_first == len(kept) and np.array_equal(queries_first, data.queries_KQ[kept])
    assert num_final == NUM_SEEN and np.array_equal(queries_final, data.queries_KQ)


def test_a_fit_reports_what_it_chose_and_how_good_that_is() -> None:
    report = fitted().report
    stages = [record.stage for record in report.history]
    assert set(stages) == {"choose", "final"} and stages.count("final") == report.epochs
    chosen = [record for record in report.history if record.stage == "choose"]
    values = [record.validation for record in chosen if record.validation is not None]
    assert len(values) == len(chosen) and 1 + int(np.argmax(values)) == report.epochs
    assert all(record.validation is None for record in report.history if record.stage == "final")
    assert [row.branch for row in report.branches] == ["clip", "local", "linear", "decoder", "fused"]
    assert report.fusion == {group: dict(weights) for group, weights in fitted().fusion.items()}
    for weights in report.fusion.values():
        assert min(weights.values()) >= 0 and any(weights.values())
    for group in ("seen", "novel"):
        *alone, fused = [getattr(row, group) for row in report.branches]
        assert fused >= max(alone) - 1e-6
    assert {name: [check.group for check in checks] for name, checks in report.calibration.items()} == {
        name: ["seen", "novel"] for name in fitted().scorers
    }
    assert report.calibration["fused"][0].ece is not None and report.calibration["fused"][0].ece < 0.05


def test_a_calibration_has_a_row_per_scorer_and_label() -> None:
    rows = [(row.scorer, row.label_id) for row in fitted().calibration]
    labels = [label_id(number) for number in range(NUM_SEEN)]
    assert rows == [(name, label) for name in fitted().scorers for label in (*labels, ANY_LABEL)]
    assert all(row.slope > 0 and 0 <= row.threshold <= 1 for row in fitted().calibration)
    any_label = next(row for row in fitted().calibration if row.label_id == ANY_LABEL)
    positives = world().data().targets.subset(VALIDATION).positives_K()[columns(fitted().report.left_out)]
    assert any_label.positives == positives.sum()


def test_a_killed_fit_goes_on_from_its_states_to_the_same_end() -> None:
    states: dict[str, bytes] = {}

    def kill_in_the_final_stage(stage: str, _report: Any) -> None:
        if stage == "final":
            raise KeyboardInterrupt

    hooks = FitHooks(save=states.__setitem__, load=states.get, on_epoch=kill_in_the_final_stage)
    with pytest.raises(KeyboardInterrupt):
        fit_quietly(small(world().data()), recipe(epochs=1), hooks)
    assert states.keys() == {"choose", "final"}
    steps: list[str] = []
    hooks = FitHooks(save=states.__setitem__, load=states.get, on_step=lambda stage, done, total: steps.append(stage))
    resumed = fit_quietly(small(world().data()), recipe(epochs=1), hooks)
    assert "choose" not in steps
    whole = undisturbed(True)[1]
    assert resumed.parts.to_bytes() == whole.parts.to_bytes()
    assert resumed.calibration == whole.calibration and resumed.fusion == whole.fusion


def test_an_untrained_decoder_does_not_lower_the_sum() -> None:
    found = fit_quietly(small(world().data()), recipe(epochs=1, learning_rate=1e-12))
    for group in ("seen", "novel"):
        values = {row.branch: getattr(row, group) for row in found.report.branches}
        assert values["fused"] >= max(values.values()) - 1e-9
        assert found.fusion[group]["decoder"] <= 0.25 * max(found.fusion[group].values())  # type: ignore[index]


def test_a_head_with_groups_is_judged_on_the_labels_it_knows() -> None:
    found = fitted(groups=4)
    values = {row.branch: (row.seen, row.novel) for row in found.report.branches}
    assert values["decoder"][0] is not None and values["decoder"][1] is None
    assert values["fused"][1] is not None and found.fusion["novel"]["decoder"] == 0
    assert [check.group for check in found.report.calibration["decoder"]] == ["seen"]
    assert {row.label_id for row in found.calibration if row.scorer == "decoder"} >= {ANY_LABEL}


@pytest.mark.parametrize("num_labels", [1, 4])
def test_with_too_few_labels_there_is_no_first_stage(num_labels: int) -> None:
    found = fit_quietly(world().data(num_labels), recipe(epochs=2))
    assert found.report.left_out == () and {record.stage for record in found.report.history} == {"final"}
    assert all(record.validation is not None for record in found.report.history)
    assert found.fusion["novel"] == {"clip": 1.0, "local": 1.0, "linear": 0.0, "decoder": 0.0}
    assert any(found.fusion["seen"].values())
    assert [check.group for check in found.report.calibration["fused"]] == ["seen"]
    scorer = model_of(found, num_seen=num_labels).scorer(EVERYTHING, "fused")
    scores_NK = scorer.maps.scores(all_logits(*world().judged, scorer))
    assert ((scores_NK >= 0) & (scores_NK <= 1)).all()


def test_no_share_of_labels_means_no_first_stage() -> None:
    found = fit_quietly(small(world().data()), recipe(epochs=1, holdout_label_share=0.0))
    assert found.report.left_out == () and found.report.epochs == 1


def test_a_single_held_out_image_still_gives_sensible_scores() -> None:
    data = world().data()
    found = fit_quietly(replace(data, validation_V=VALIDATION[:1]), recipe(epochs=2))
    assert len(found.parts.reference.embeddings_SD) == held_out.LEAST_REFERENCE
    scorer = model_of(found).scorer(EVERYTHING[:NUM_SEEN], "fused")
    targets_NK = world().judged_targets_NK[:, :NUM_SEEN]
    scores_NK = scorer.maps.scores(all_logits(*world().judged, scorer))
    assert log_loss(scores_NK, targets_NK) < 0.4  # that of the constant: 0.32


def test_the_reference_is_held_out_images_and_fits_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = fitted().parts.reference
    expected = {row.tobytes() for row in world().embeddings_ND[VALIDATION]}
    assert {row.tobytes() for row in reference.embeddings_SD} == expected
    image_bytes = world().tokens_NTC[0].nbytes
    monkeypatch.setattr(held_out, "REFERENCE_BYTES", 7 * image_bytes)
    sample = fit_quietly(small(world().data()), recipe(epochs=1)).parts.reference
    assert sample.tokens_STC is not None and sample.tokens_STC.nbytes == 7 * image_bytes
    assert {row.tobytes() for row in sample.embeddings_SD} < expected


def test_where_unnamed_labels_are_unknown_they_count_nowhere() -> None:
    data = small(world().data())
    rng = np.random.default_rng(0)
    dense_NK = data.targets.dense()
    absent = [np.flatnonzero((row == 0) & (rng.random(NUM_SEEN) < 0.5)).tolist() for row in dense_NK]
    positives = [np.flatnonzero(row == 1).tolist() for row in dense_NK]
    targets = Targets.of(positives, absent, num_labels=NUM_SEEN, missing="unknown")
    found = fit_quietly(replace(data, targets=targets), recipe(epochs=2, missing="unknown"))
    known = int((targets.dense(data.validation_V) >= 0).sum())
    assert found.report.calibration["fused"][0].num_cells == known < len(data.validation_V) * NUM_SEEN
    rates = found.parts.baselines["frequency"]
    dense = targets.dense(data.train_M)
    np.testing.assert_allclose(rates, (dense == 1).sum(axis=0) / (dense >= 0).sum(axis=0), atol=1e-6)


def test_a_label_without_a_no_to_validate_on_is_no_perfect_one() -> None:
    data = small(world().data())
    dense_NK = data.targets.dense()
    yes_alone = int((dense_NK[data.validation_V] == 1).sum(axis=0).argmax())
    asked_GK = np.stack([np.arange(NUM_SEEN) != yes_alone, np.full(NUM_SEEN, True)])
    group_N = np.zeros(len(dense_NK), np.int64)
    group_N[data.train_M] = 1
    positives = [np.flatnonzero(row == 1).tolist() for row in dense_NK]
    silence = Silence(group_N=group_N, asked_GK=asked_GK)
    targets = Targets.of(positives, num_labels=NUM_SEEN, silence=silence)
    found = fit_quietly(replace(data, targets=targets), recipe(epochs=1))
    assert label_id(yes_alone) not in found.report.left_out, "it judges nothing"
    rows = {row.label_id: row for row in found.calibration if row.scorer == "fused"}
    assert rows[label_id(yes_alone)].positives == 0 and rows[label_id(yes_alone)].threshold > 0.01


def test_a_model_learned_from_what_it_was_trained_and_validated_on() -> None:
    data = small(world().data())
    used = np.concatenate([data.train_M, data.validation_V])
    assert len(used) < len(data.targets)
    np.testing.assert_array_equal(undisturbed(True)[1].parts.learned_from, np.unique(data.fingerprints_N[used]))


def test_a_target_precision_raises_thresholds() -> None:
    found = fit_quietly(small(world().data()), recipe(epochs=1), target_precision=0.95)
    usual = undisturbed(True)[1]
    assert found.parts.to_bytes() == usual.parts.to_bytes()
    strict_mean, usual_mean = (np.mean([row.threshold for row in rows.calibration]) for rows in (found, usual))
    assert strict_mean > usual_mean
    names = {*(label_id(number) for number in range(NUM_SEEN)), ANY_LABEL}
    assert found.report.unreached["decoder"] and set(found.report.unreached["decoder"]) <= names


@given(
    seed=st.integers(0, 1000),
    num_labels=st.integers(1, 40),
    share=st.floats(0, 0.9),
    rate=st.floats(0, 0.5),
)
def test_labels_left_out_can_be_judged_and_leave_others_to_train(
    seed: int, num_labels: int, share: float, rate: float
) -> None:
    rng = np.random.default_rng(seed)
    truth_NK = rng.random((30, num_labels)) < rate
    targets = Targets.of([np.flatnonzero(row).tolist() for row in truth_NK], num_labels=num_labels)
    validation_V = np.arange(20, 30)
    config = recipe(holdout_label_share=share, seed=seed)
    left_out = choose_left_out(targets, validation_V, config)
    assert np.array_equal(left_out, choose_left_out(targets, validation_V, config))
    assert np.array_equal(left_out, np.unique(left_out))
    judged_K = truth_NK[20:].any(axis=0) & ~truth_NK[20:].all(axis=0)
    assert judged_K[left_out].all()
    count = round(share * int(judged_K.sum()))
    enough = count >= fitting.MIN_LEFT_OUT and num_labels - count >= fitting.MIN_LEFT_OUT
    assert len(left_out) == (count if enough else 0)
