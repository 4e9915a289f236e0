"""A scorer's calibration: what it is made of, what is said of it, how it is applied and stored."""

from __future__ import annotations

import numpy as np
import pytest

from clipdecoder.judging.calibration import Calibrated, Calibration, HeldOut, calibrate
from clipdecoder.judging.metrics import expected_calibration_error, reliability_bins
from clipdecoder.judging.score_maps import fit_novel, fit_seen
from schemas.evaluation import CalibrationCheck
from schemas.scores import ODDS_STEPS
from schemas.tables import ANY_LABEL
from tests.clipdecoder.worlds import World, rare_labels

SEEN, NOVEL = rare_labels(30), rare_labels(12, seed=1)
IDS = tuple(f"label-{number}" for number in range(30))


def held_out(world: World, num_images: int = 400, seed: int = 0) -> HeldOut:
    logits, targets = world.draw(num_images, seed)
    return HeldOut(logits_NK=logits, targets_NK=targets)


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate("fused", IDS, held_out(SEEN), held_out(NOVEL))


def test_rows_are_the_seen_labels_and_one_for_all_others(calibrated: Calibrated) -> None:
    found = calibrated.calibration
    seen, novel = held_out(SEEN), held_out(NOVEL)
    assert found.scorer == "fused" and found.label_ids == (*IDS, ANY_LABEL)
    maps, any_map = fit_seen(seen.logits_NK, seen.targets_NK), fit_novel(novel.logits_NK, novel.targets_NK)
    np.testing.assert_array_equal(found.slope_R, [*maps.slope_K, any_map.slope])
    np.testing.assert_array_equal(found.intercept_R, [*maps.intercept_K, any_map.intercept])
    assert found.positives_R.tolist() == [*seen.targets_NK.sum(axis=0), novel.targets_NK.sum()]
    assert (found.slope_R > 0).all() and ((found.threshold_R > 0) & (found.threshold_R < 1)).all()


def test_labels_find_their_row_by_id(calibrated: Calibrated) -> None:
    found = calibrated.calibration
    asked = ("never-seen", IDS[7], "unheard-of", IDS[0])
    logits = np.array([[0.5, 1.0, 0.5, 2.0]], np.float32)
    scores = found.scores(logits, asked)
    assert scores.dtype == np.float32 and scores.shape == (1, 4)
    assert scores[0, 0] == scores[0, 2]
    assert found.rows(asked).tolist() == [30, 7, 30, 0]
    exact = 1 / (1 + np.exp(-(found.slope_R[7] * 1.0 + found.intercept_R[7])))
    assert scores[0, 1] == pytest.approx(exact, rel=1 / ODDS_STEPS)
    assert found.thresholds(asked).tolist() == [found.threshold_R[row] for row in (30, 7, 30, 0)]
    # Whatever else is asked, a label's score is the same.
    assert found.scores(logits[:, 1:2], asked[1:2])[0, 0] == scores[0, 1]


def test_stored_rows_give_the_same_calibration_back(calibrated: Calibrated) -> None:
    rows = calibrated.calibration.records()
    other = calibrate("decoder", IDS, held_out(SEEN, seed=5), None).calibration.records()
    back = Calibration.of([*other, *reversed(rows)], "fused")
    logits, _ = SEEN.draw(5, seed=2)
    assert np.array_equal(back.scores(logits, IDS), calibrated.calibration.scores(logits, IDS))
    assert np.array_equal(back.thresholds(["new"]), calibrated.calibration.thresholds(["new"]))


def test_checks_foretell_the_error_on_new_images_and_new_labels(calibrated: Calibrated) -> None:
    checks = {check.group: check for check in calibrated.checks}
    for group, world in (("seen", SEEN), ("novel", rare_labels(40, seed=7))):
        check = checks[group]
        logits, targets = world.draw(5000, seed=9)
        ids = IDS if group == "seen" else [f"new-{number}" for number in range(40)]
        true_error = expected_calibration_error(reliability_bins(calibrated.calibration.scores(logits, ids), targets))
        assert check.ece is not None and check.ece < 0.02 and true_error < 0.02
        assert check.log_loss is not None and check.constant_log_loss is not None
        assert check.log_loss < 0.9 * check.constant_log_loss
    assert checks["seen"].num_labels == 30 and checks["novel"].num_cells == 12 * 400


def test_a_small_error_over_all_cells_is_easy_and_the_check_says_so(calibrated: Calibrated) -> None:
    check: CalibrationCheck = calibrated.checks[0]
    assert check.constant_ece is not None and check.constant_ece < 0.005  # a constant has it as well
    assert check.likely_ece is not None and check.ece is not None and check.likely_ece > check.ece
    assert check.num_likely_cells < 0.5 * check.num_cells


def test_without_labels_left_out_the_usual_map_holds_for_all_others() -> None:
    seen = held_out(SEEN)
    found = calibrate("fused", IDS, seen, None)
    usual = fit_seen(seen.logits_NK, seen.targets_NK).usual
    assert found.calibration.slope_R[-1] == usual.slope and found.calibration.intercept_R[-1] == usual.intercept
    assert found.calibration.positives_R[-1] == 0
    assert [check.group for check in found.checks] == ["seen"]


def test_a_precision_out_of_reach_is_named() -> None:
    found = calibrate("fused", IDS, held_out(SEEN), held_out(NOVEL), target_precision=0.999)
    assert IDS[0] in found.unreached and set(found.unreached) < {*IDS, ANY_LABEL}
    assert calibrate("fused", IDS, held_out(SEEN), None).unreached == ()


def test_a_label_with_positives_alone_is_as_one_without_evidence() -> None:
    whole = held_out(SEEN)
    targets = whole.targets_NK.copy()
    common = int(targets.sum(axis=0).argmax())
    targets[:, common] = np.where(targets[:, common] == 1, 1, -1)
    yes_alone = HeldOut(logits_NK=whole.logits_NK, targets_NK=targets)
    unsaid = HeldOut(logits_NK=whole.logits_NK, targets_NK=np.where(np.arange(30) == common, np.int8(-1), targets))
    found, expected = (calibrate("fused", IDS, seen, None) for seen in (yes_alone, unsaid))
    assert found.calibration.records() == expected.calibration.records()
    assert found.calibration.positives_R[common] == 0
    assert found.calibration.threshold_R[common] == pytest.approx(found.calibration.threshold_R[-1])
