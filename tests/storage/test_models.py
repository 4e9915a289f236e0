"""Promotion: what may be shown, what was shown before, and what was overridden."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.checkpoint import CheckpointRecord
from schemas.errors import ModelError
from schemas.manifest import ModelRecord
from schemas.retraining import Gate, GateReport
from storage.checkpoints import with_id, write_checkpoint
from storage.files import Folder, checksum
from storage.models import CALIBRATION_FILE, CURRENT, WEIGHTS, promote, read_promotion, rollback
from storage.retraining import write_gates
from tests.stores import NOON, make_model


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a store with three models, promoted one after the other."""
    folder = Folder(str(tmp_path))
    for model_id in ("m1", "m2", "m3"):
        make_model(folder, model_id)
    return folder


def gate(name: str, passed: bool | None) -> Gate:
    return Gate.model_validate({"name": name, "limit": 0.01, "before": 0.8, "after": 0.7, "passed": passed, "why": ""})


def compare(folder: Folder, model_id: str, gates: Sequence[Gate], *, passed: bool) -> None:
    write_gates(
        folder,
        GateReport(
            decision_id="d",
            current_model_id="m3",
            new_model_id=model_id,
            held_out_images=40,
            learned_by_current=0,
            canary=None,
            canary_images=0,
            gates=tuple(gates),
            labels=(),
            passed=passed,
            at=NOON,
        ),
    )


def make_checkpoint(folder: Folder) -> ModelRecord:
    zero_shot = make_model(folder, "base", promoted=False)
    weights = b"weights"
    checkpoint = CheckpointRecord(
        base="bundled:scenes",
        text=None,
        head=None,
        train=None,
        branches=("clip",),
        fusion={},
        finetuned=False,
        epochs=0,
        taxonomy="t",
        taxonomy_digest="d",
        novel_labels=(),
        data=None,
        weights_sha256=checksum(weights),
        versions={},
    )
    record = with_id(zero_shot.model_copy(update={"checkpoint": checkpoint}), ())
    write_checkpoint(folder, record, weights=weights, calibration=(), metrics=checkpoint, card="")
    return record


def shown(folder: Folder) -> str | None:
    promotion = read_promotion(folder)
    return promotion.model_id if promotion is not None else None


def test_rolling_back_twice_goes_two_models_back(folder: Folder) -> None:
    assert rollback(folder, "worse").previous == "m3"
    assert shown(folder) == "m2"
    assert rollback(folder, "worse still").history == ()
    assert shown(folder) == "m1"
    with pytest.raises(ModelError, match="no earlier model to go back to: no model was promoted before m1"):
        rollback(folder, "once more")
    assert shown(folder) == "m1"


def test_without_a_promotion_there_is_nothing_to_go_back_from(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model is promoted in this store"):
        rollback(Folder(str(tmp_path)), "worse")


def test_after_a_rollback_a_promotion_goes_on_from_there(folder: Folder) -> None:
    rollback(folder, "worse")
    promote(folder, "m3", "it was better after all")
    promotion = read_promotion(folder)
    assert promotion is not None
    assert (promotion.model_id, promotion.previous, promotion.history) == ("m3", "m2", ("m1", "m2"))


def test_a_promotion_of_the_time_before_there_was_a_history_is_read(folder: Folder) -> None:
    folder.write_bytes(
        CURRENT, b'{"model_id": "m3", "since": "2026-01-01T00:00:00Z", "reason": "by hand", "previous": "m1"}'
    )
    assert rollback(folder, "worse").model_id == "m1"
    with pytest.raises(ModelError, match="no earlier model"):
        rollback(folder, "once more")


def test_promoting_the_promoted_model_changes_nothing(folder: Folder) -> None:
    before = folder.read_bytes(CURRENT)
    promote(folder, "m3", "again")
    assert folder.read_bytes(CURRENT) == before


def test_a_model_that_failed_its_gates_is_refused_unless_it_is_forced(folder: Folder) -> None:
    compare(folder, "m1", [gate("seen_map", False), gate("novel_map", True), gate("flip_rate", None)], passed=False)
    with pytest.raises(ModelError, match=r"m1 did not pass seen_map when .* m3 .*--force"):
        promote(folder, "m1", "I want it")
    assert shown(folder) == "m3"
    assert promote(folder, "m1", "I want it", force=True).forced == ("seen_map",)
    assert promote(folder, "m2", "never compared").forced == ()


def test_a_model_that_could_not_be_judged_is_kept_back_by_what_was_not_measured(folder: Folder) -> None:
    compare(folder, "m1", [gate("seen_map", None), gate("novel_map", None)], passed=False)
    with pytest.raises(ModelError, match="seen_map, novel_map"):
        promote(folder, "m1", "I want it")
    assert promote(folder, "m1", "I want it", force=True).forced == ("seen_map", "novel_map")


def test_a_model_that_passed_needs_no_force(folder: Folder) -> None:
    compare(folder, "m1", [gate("seen_map", True), gate("novel_map", None)], passed=True)
    assert promote(folder, "m1", "better", force=True).forced == ()


@pytest.mark.parametrize("lost", [WEIGHTS, CALIBRATION_FILE])
def test_a_checkpoint_that_is_not_whole_is_never_shown(folder: Folder, lost: str) -> None:
    record = make_checkpoint(folder)
    promote(folder, record.model_id, "whole")
    rollback(folder, "back")
    folder.remove(f"models/{record.model_id}/{lost}")
    with pytest.raises(ModelError, match=f"not whole: {lost}"):
        promote(folder, record.model_id, "half")
    assert shown(folder) == "m3"


def test_rolling_back_to_a_model_that_is_not_whole_is_refused(folder: Folder) -> None:
    record = make_checkpoint(folder)
    promote(folder, record.model_id, "whole")
    promote(folder, "m1", "another")
    folder.remove(f"models/{record.model_id}/{WEIGHTS}")
    with pytest.raises(ModelError, match="not whole"):
        rollback(folder, "back")
    assert shown(folder) == "m1"
