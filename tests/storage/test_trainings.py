"""What a training keeps while it runs, as a second process finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from storage.files import Folder
from storage.trainings import TrainingFolder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def kept(folder: Folder, training_id: str = "t1") -> TrainingFolder:
    """Return the folder as a new process opens it."""
    return TrainingFolder(folder=folder, training_id=training_id)


def log_of(folder: Folder) -> list[dict[str, int]]:
    return [json.loads(line) for line in folder.read_bytes("training/t1/log.jsonl").decode().splitlines()]


def test_a_state_is_replaced_and_each_stage_has_its_own(folder: Folder) -> None:
    assert kept(folder).load("choose") is None
    kept(folder).save("choose", b"first")
    kept(folder).save("choose", b"second")
    kept(folder).save("final", b"third")
    assert (kept(folder).load("choose"), kept(folder).load("final")) == (b"second", b"third")
    assert folder.list("training") == ["training/t1/choose.safetensors", "training/t1/final.safetensors"]
    assert kept(folder, "t2").load("choose") is None


def test_a_second_process_adds_to_the_log_of_the_first(folder: Folder) -> None:
    first = kept(folder)
    first.log({"epoch": 1})
    first.log({"epoch": 2})
    second = kept(folder)
    second.log({"epoch": 3})
    second.log({"epoch": 4})
    assert log_of(folder) == [{"epoch": number} for number in (1, 2, 3, 4)]


def test_a_log_of_texts_with_line_breaks_stays_a_line_per_record(folder: Folder) -> None:
    for text in ("two\nlines", "a\u2028b", "é"):
        kept(folder).log({"text": text})
    assert [record["text"] for record in log_of(folder)] == ["two\nlines", "a\u2028b", "é"]


def test_clearing_removes_this_training_alone(folder: Folder) -> None:
    for training_id in ("t1", "t10"):
        kept(folder, training_id).save("choose", b"state")
        kept(folder, training_id).log({"epoch": 1})
    kept(folder).clear()
    assert kept(folder).load("choose") is None
    assert folder.list("training") == ["training/t10/choose.safetensors", "training/t10/log.jsonl"]
    kept(folder).clear()  # nothing is there, and that is fine
    kept(folder).log({"epoch": 5})
    assert log_of(folder) == [{"epoch": 5}]
