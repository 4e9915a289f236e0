"""What a checkpoint says of itself comes back from JSON as it was, and nothing unheard of comes with it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from schemas.checkpoint import Branch, CalibrationRow, CheckpointRecord, Scorer, TrainingData, TrainingSource
from schemas.manifest import ModelRecord
from schemas.tables import CALIBRATION
from schemas.training import train_config

DATA = TrainingData(
    sources=(TrainingSource(dataset="street", root="file:///data", patterns=("file:///data/*.tar",)),),
    digest="0123",
    shards=2,
    images=100,
    train_images=90,
    validation_images=10,
    positives=250,
    unknown_labels={"é x": 3},
)
RECIPE = train_config(finetune=2, groups=4)
RECORD = CheckpointRecord(
    base="open_clip:ViT-B-32/openai",
    text="table:texts.parquet",
    head=RECIPE.head(token_width=512, query_width=300, num_labels=12),
    train=RECIPE,
    branches=("linear", "decoder"),
    fusion={"seen": {"linear": 0.1, "decoder": 4.0}, "novel": {"linear": 1.0, "decoder": 0.0}},
    finetuned=True,
    epochs=5,
    taxonomy="street",
    taxonomy_digest="abcd",
    novel_labels=("bee",),
    data=DATA,
    weights_sha256="00",
    versions={"torch": "2"},
)


def model_record(**changes: Any) -> ModelRecord:
    values: dict[str, Any] = {
        "model_id": "m1",
        "encoder_id": "e1",
        "text_encoder_id": "t1",
        "kind": "decoder",
        "scorers": ("fused", "decoder", "clip"),
        "name": RECORD.base,
        "architecture": "ViT-B-32",
        "image_size": (224, 224),
        "embedding_width": 512,
        "calibration": "fitted",
        "seen_labels": ("dog", "cat"),
        "checkpoint": RECORD,
    }
    return ModelRecord(**values | changes)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        RECORD.model_copy(update={"head": None, "train": None, "data": None, "text": None, "calibration_data": DATA}),
        model_record(),
        model_record(checkpoint=None, slope=1.5, intercept=-0.1),
        CalibrationRow(scorer="fused", label_id="*", slope=0.1 + 0.2, intercept=-1e-9, threshold=0.5, positives=3),
    ],
)
def test_records_come_back_from_json(record: Any) -> None:
    assert type(record).model_validate_json(record.model_dump_json(indent=2)) == record


@pytest.mark.parametrize(
    "changed",
    [
        {"branches": ("clip", "magic")},
        {"fusion": {"seen": {"magic": 1.0}, "novel": {}}},
        {"fusion": {"both": {"clip": 1.0}}},
        {"head": {"token_width": 0, "query_width": 8}},
        {"later": 1},
    ],
)
def test_what_is_unheard_of_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CheckpointRecord.model_validate(RECORD.model_dump() | changed)


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECORD.epochs = 6


def test_a_calibration_row_is_a_row_of_the_table() -> None:
    assert list(CalibrationRow.model_fields) == CALIBRATION.names


def test_a_model_record_takes_every_scorer_and_no_other() -> None:
    assert model_record(scorers=get_args(Scorer)).scorers == get_args(Scorer)
    with pytest.raises(ValidationError):
        model_record(scorers=("linear",))
    assert set(get_args(Branch)) >= {*RECORD.branches}


def test_a_training_on_one_dataset_is_read_as_it_was_once_written() -> None:
    old = DATA.model_dump(mode="json")
    [source] = old.pop("sources")
    del old["held_out_images"]
    assert TrainingData.model_validate(source | old) == DATA
    assert DATA.datasets == "street"
    with pytest.raises(ValidationError):
        TrainingData.model_validate(source | old | {"later": 1})
