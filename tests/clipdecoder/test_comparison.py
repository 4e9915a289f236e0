"""What an evaluation sets a model beside, and under which names."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.judging.baselines import Ridge
from clipdecoder.judging.comparison import baseline_outputs, constant_output, scorer_outputs
from clipdecoder.judging.evaluation import GroundTruth, ScorerOutput
from clipdecoder.judging.metrics import mean_average_precision
from clipdecoder.scoring.scores import all_logits
from clipdecoder.scoring.trained_model import TrainedModel
from schemas.sample import SampleRow
from tests.clipdecoder.fitted_world import (
    EVERYTHING,
    NUM_JUDGED,
    NUM_LABELS,
    NUM_SEEN,
    model,
    vocabulary,
    world,
)

ORDER = [NUM_LABELS - 1, *range(NUM_SEEN), NUM_SEEN]  # a novel label first and last, others not asked for


def truth_of(numbers: list[int]) -> GroundTruth:
    images: list[SampleRow] = []
    return GroundTruth(
        targets_NK=world().judged_targets_NK[:, numbers],
        images=images,
        label_ids=[label.label_id for label in vocabulary(numbers)],
        names=[label.name for label in vocabulary(numbers)],
        seen_K=np.array(numbers) < NUM_SEEN,
    )


def outputs_of(trained: TrainedModel, numbers: list[int], *, joint: bool = True) -> dict[str, ScorerOutput]:
    found = baseline_outputs(trained, vocabulary(numbers), world(joint=joint).judged, truth_of(numbers))
    return {output.scorer: output for output in found}


def test_each_scorer_under_its_name_with_its_scores() -> None:
    trained = model()
    scorers = {name: trained.scorer(EVERYTHING, name) for name in trained.record.scorers}
    outputs = scorer_outputs(scorers, world().judged, joint=True)
    assert [output.scorer for output in outputs] == ["fused", "decoder", "clip+local", "clip"]
    for output, scorer in zip(outputs, scorers.values(), strict=True):
        assert np.array_equal(output.logits_NK, all_logits(*world().judged, scorer))
        assert output.scores_NK is not None
        np.testing.assert_array_equal(output.scores_NK, scorer.maps.scores(output.logits_NK))


def test_without_a_joint_space_clip_is_the_regression_and_is_called_so() -> None:
    trained = model(joint=False)
    scorers = {name: trained.scorer(EVERYTHING, name) for name in trained.record.scorers}
    outputs = scorer_outputs(scorers, world(joint=False).judged, joint=False)
    assert [output.scorer for output in outputs] == ["fused", "decoder", "linear"]
    linear_NK = trained.branches.logits("linear", trained.queries(EVERYTHING), *world(joint=False).judged)
    np.testing.assert_allclose(outputs[-1].logits_NK, linear_NK, atol=1e-5)
    assert list(outputs_of(trained, ORDER, joint=False)) == ["ridge", "label_ridge", "constant"]


def test_baselines_come_in_the_order_of_the_labels_asked_for() -> None:
    trained = model()
    outputs, whole = outputs_of(trained, ORDER), outputs_of(trained, list(range(NUM_LABELS)))
    assert list(outputs) == ["linear", "ridge", "label_ridge", "constant"]
    for name, output in outputs.items():
        assert output.logits_NK.shape == (NUM_JUDGED, len(ORDER))
        np.testing.assert_allclose(output.logits_NK, whole[name].logits_NK[:, ORDER], rtol=1e-4, atol=1e-5)
        assert (output.scores_NK is None) == (name != "constant")
    assert outputs["label_ridge"].groups == ("seen",) and not outputs["label_ridge"].logits_NK[:, [0, -1]].any()
    assert outputs["ridge"].groups == ("seen", "novel", "all")


def test_baselines_know_what_their_training_images_say() -> None:
    seen = list(range(NUM_SEEN))
    outputs = outputs_of(model(), seen)
    targets_NK = truth_of(seen).targets_NK
    for name in ("linear", "ridge", "label_ridge"):
        assert mean_average_precision(outputs[name].logits_NK, targets_NK)[0] > 0.3, name  # chance: 0.1
    parts = model().parts.part("ridge")
    expected = Ridge.from_arrays(parts).cosines(world().judged[0], world().data().queries_KQ)
    np.testing.assert_array_equal(outputs["ridge"].logits_NK, expected)


def test_the_constant_is_the_frequency_in_training_or_for_novel_labels_in_the_evaluation() -> None:
    constant = outputs_of(model(), ORDER)["constant"]
    assert constant.scores_NK is not None and (constant.scores_NK == constant.scores_NK[0]).all()
    trained_K = world().data().targets.dense(world().data().train_M).mean(axis=0)
    np.testing.assert_allclose(constant.scores_NK[0, 1:-1], trained_K, atol=1e-6)
    novel_K = truth_of(ORDER).targets_NK[:, [0, -1]].mean(axis=0)
    np.testing.assert_allclose(constant.scores_NK[0, [0, -1]], novel_K, atol=1e-6)


def test_without_training_images_there_is_the_constant_alone() -> None:
    trained = model()
    bare = TrainedModel(
        trained.record.model_copy(
            update={"checkpoint": trained.record.checkpoint.model_copy(update={"head": None, "branches": ("clip",)})}  # type: ignore[union-attr]
        ),
        trained.encoders,
        type(trained.parts)(
            head=None, linear=None, reference=trained.parts.reference, learned_from=trained.parts.learned_from
        ),
        (),
    )
    outputs = outputs_of(bare, ORDER)
    assert list(outputs) == ["constant"]
    np.testing.assert_allclose(outputs["constant"].scores_NK[0], truth_of(ORDER).targets_NK.mean(axis=0), atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("unknown", [0.0, 0.9])
def test_a_constant_counts_what_is_known(unknown: float) -> None:
    truth = truth_of(ORDER)
    hidden = np.random.default_rng(0).random(truth.targets_NK.shape) < unknown
    truth.targets_NK[hidden] = -1
    output = constant_output(np.full(len(ORDER), np.nan), truth)
    known = (truth.targets_NK >= 0).sum(axis=0)
    expected = (truth.targets_NK == 1).sum(axis=0) / np.maximum(known, 1)
    np.testing.assert_allclose(output.logits_NK[0], expected, atol=1e-6)
