"""A checkpoint is a model once its record is there, and only with the weights that the record was written with."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.checkpoint import CalibrationRow, CheckpointRecord
from schemas.errors import ModelError, StoreError
from schemas.manifest import ModelRecord
from schemas.record import Record
from schemas.tables import ANY_LABEL, CALIBRATION
from storage.checkpoints import calibration_bytes, read_calibration, read_weights, with_id, write_checkpoint
from storage.files import Folder, checksum
from storage.models import read_models

WEIGHTS = b"weights of a head"
ROWS = (
    CalibrationRow(scorer="fused", label_id="dog", slope=1.25, intercept=-3.1, threshold=0.1 + 0.2, positives=12),
    CalibrationRow(scorer="fused", label_id=ANY_LABEL, slope=1e-300, intercept=-0.0, threshold=1.0, positives=0),
)


class Metrics(Record):
    """What a training found out."""

    epochs: int = 3


def record_of(**changes: object) -> ModelRecord:
    values: dict[str, object] = {
        "base": "open_clip:tiny",
        "text": None,
        "head": None,
        "train": None,
        "branches": ("clip", "linear"),
        "fusion": {"seen": {"clip": 1.0, "linear": 0.5}, "novel": {"clip": 1.0}},
        "finetuned": False,
        "epochs": 3,
        "taxonomy": "street",
        "taxonomy_digest": "d",
        "novel_labels": (),
        "data": None,
        "weights_sha256": checksum(WEIGHTS),
        "versions": {},
    }
    checkpoint = CheckpointRecord.model_validate(values | changes)
    return ModelRecord(
        model_id="",
        encoder_id="e1",
        text_encoder_id="t1",
        kind="decoder",
        name="open_clip:tiny",
        architecture="tiny",
        image_size=(8, 8),
        embedding_width=4,
        seen_labels=("dog",),
        checkpoint=checkpoint,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def write(folder: Folder) -> ModelRecord:
    record = with_id(record_of(), ROWS)
    write_checkpoint(folder, record, weights=WEIGHTS, calibration=ROWS, metrics=Metrics(), card="# A model é\n")
    return record


def test_a_checkpoint_comes_back(folder: Folder) -> None:
    record = write(folder)
    place = f"models/{record.model_id}"
    names = ("README.md", "calibration.parquet", "config.json", "metrics.json", "model.safetensors")
    assert folder.list("models") == [f"{place}/{name}" for name in names]
    assert read_models(folder) == {record.model_id: record}
    assert read_weights(folder, record) == WEIGHTS
    assert read_calibration(folder, record.model_id) == ROWS
    assert folder.read_bytes(f"{place}/README.md").decode() == "# A model é\n"
    assert Metrics.model_validate_json(folder.read_bytes(f"{place}/metrics.json")) == Metrics()


def test_the_record_is_written_last(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write_bytes = Folder.write_bytes

    def note(self: Folder, name: str, data: bytes) -> None:
        written.append(name.rpartition("/")[2])
        write_bytes(self, name, data)

    monkeypatch.setattr(Folder, "write_bytes", note)
    write(folder)
    assert written[-1] == "config.json" and sorted(written[:-1]) == [
        "README.md",
        "calibration.parquet",
        "metrics.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("writes", range(5))
def test_killed_while_it_is_written_it_is_no_model(
    writes: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Folder.write_bytes
    done: list[str] = []

    def fail_at_last(self: Folder, name: str, data: bytes) -> None:
        if len(done) == writes:
            raise StoreError("the disk is full")
        done.append(name)
        write_bytes(self, name, data)

    monkeypatch.setattr(Folder, "write_bytes", fail_at_last)
    with pytest.raises(StoreError):
        write(folder)
    assert read_models(folder) == {}


def test_an_id_is_of_all_that_decides_a_score() -> None:
    record = with_id(record_of(), ROWS)
    assert with_id(record_of(), ROWS) == record and len(record.model_id) == 16
    unheard = record_of(versions={"torch": "9"}, taxonomy="other", epochs=9)
    assert with_id(unheard, ROWS).model_id == record.model_id
    changed = ROWS[0].model_copy(update={"threshold": 0.5})
    others = [
        with_id(record_of(), (changed, ROWS[1])),
        with_id(record_of(weights_sha256="0"), ROWS),
        with_id(record_of(fusion={"seen": {"clip": 1.0}, "novel": {"clip": 1.0}}), ROWS),
        with_id(record_of().model_copy(update={"seen_labels": ("cat",)}), ROWS),
        with_id(record_of().model_copy(update={"encoder_id": "e2"}), ROWS),
        with_id(record_of().model_copy(update={"text_encoder_id": "t2"}), ROWS),
    ]
    assert len({record.model_id, *(other.model_id for other in others)}) == 1 + len(others)


def test_changed_weights_are_refused(folder: Folder) -> None:
    record = write(folder)
    path = f"models/{record.model_id}/model.safetensors"
    for data in (WEIGHTS + b"!", WEIGHTS[:-1], b""):
        folder.write_bytes(path, data)
        with pytest.raises(ModelError, match=rf"'{path}' is not what the model's record says.*put it back"):
            read_weights(folder, record)


@pytest.mark.parametrize("name", ["model.safetensors", "calibration.parquet"])
def test_a_missing_file_is_named_with_the_next_step(name: str, folder: Folder) -> None:
    record = write(folder)
    folder.remove(f"models/{record.model_id}/{name}")
    with pytest.raises(ModelError) as caught:
        read_weights(folder, record)
        read_calibration(folder, record.model_id)
    message = str(caught.value)
    assert f"models/{record.model_id}/{name}" in message and folder.url in message
    assert message.endswith("put it back, or train again")


def test_a_calibration_that_cannot_be_read_is_refused(folder: Folder, tmp_path: Path) -> None:
    record = write(folder)
    path = f"models/{record.model_id}/calibration.parquet"
    whole = folder.read_bytes(path)
    pq.write_table(pq.read_table(tmp_path / path).drop_columns(["slope"]), tmp_path / "other.parquet")
    flipped = whole[:10] + bytes([whole[10] ^ 0xFF]) + whole[11:]
    for data in (b"", whole[:-1], flipped, b"label_id,slope\n", (tmp_path / "other.parquet").read_bytes()):
        folder.write_bytes(path, data)
        with pytest.raises(ModelError, match=rf"'{path}' cannot be read.*put it back, or train again"):
            read_calibration(folder, record.model_id)


def test_calibration_is_a_table_with_the_declared_schema(folder: Folder, tmp_path: Path) -> None:
    record = write(folder)
    table = pq.read_table(tmp_path / f"models/{record.model_id}/calibration.parquet")
    assert table.schema.equals(CALIBRATION)
    assert calibration_bytes(ROWS) == calibration_bytes(tuple(ROWS)) != calibration_bytes(ROWS[:1])
    assert calibration_bytes(())
