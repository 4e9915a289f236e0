"""Answers beside the shards: kept once, and the newest counts for each sample and label."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.tables import ANNOTATIONS
from storage.annotations import (
    Annotation,
    Answer,
    annotations_digest,
    read_annotations,
    read_answers,
    write_annotations,
)
from storage.files import Folder

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def yes(key: str = "a", label_id: str = "dog", **fields: object) -> Annotation:
    values: dict[str, object] = {"key": key, "label_id": label_id, "value": 1, "source": "me", **fields}
    return Annotation(**values)  # type: ignore[arg-type]


def test_what_is_written_is_read(folder: Folder) -> None:
    rows = [yes(at=NOON), yes("b/é 1", value=None, dataset="street", shard="0", at=NOON + timedelta(microseconds=1))]
    written = write_annotations(folder, rows)
    assert (written.rows, written.new) == (2, True)
    table = read_annotations(folder, written.path)
    assert table.schema.equals(ANNOTATIONS)
    assert [Annotation(**row) for row in table.to_pylist()] == rows


def test_the_same_answers_are_one_file_whatever_their_order_and_the_first_time_stays(folder: Folder) -> None:
    first = write_annotations(folder, [yes(), yes("b")], now=NOON)
    before = Path(folder.path(first.path)).read_bytes()
    again = write_annotations(folder, [yes("b"), yes(), yes()])
    assert (again.path, again.rows, again.new) == (first.path, 2, False)
    assert Path(folder.path(first.path)).read_bytes() == before
    assert read_answers(folder).of("d", "s", "a") == {"dog": Answer(1, NOON, "me")}


def test_answers_that_state_another_time_are_other_answers(folder: Folder) -> None:
    """Yes, then no, then yes again: the third must count, though it says what the first said."""
    for hours, value in enumerate((1, 0, 1)):
        assert write_annotations(folder, [yes(value=value, at=NOON + timedelta(hours=hours))]).new
    assert read_answers(folder).of("d", "s", "a")["dog"] == Answer(1, NOON + timedelta(hours=2), "me")


def test_an_answer_holds_for_the_samples_that_it_names(folder: Folder) -> None:
    rows = [
        yes("a", "anywhere"),
        yes("a", "in street", dataset="street"),
        yes("a", "in 0", shard="0"),
        yes("a", "there", dataset="street", shard="0"),
        yes("b", "other"),
    ]
    write_annotations(folder, rows)
    answers = read_answers(folder)
    assert answers.of("street", "0", "a").keys() == {"anywhere", "in street", "in 0", "there"}
    assert answers.of("street", "1", "a").keys() == {"anywhere", "in street"}
    assert answers.of("park", "0", "a").keys() == {"anywhere", "in 0"}
    assert answers.of("park", "1", "c") == {}


def test_the_keys_of_a_shard(folder: Folder) -> None:
    write_annotations(folder, [yes("a"), yes("b", dataset="street", shard="0"), yes("c", shard="1")])
    answers = read_answers(folder)
    assert answers.keys([("street", "0")]) == {"a", "b"}
    assert answers.keys([("park", "1"), ("park", "2")]) == {"a", "c"}
    assert answers.keys([]) == frozenset()
    assert [answers.has("street", "0", key) for key in "abc"] == [True, True, False]
    assert answers.speak_of("park", "9"), "an answer that names no shard holds there too"


def test_of_which_shards_answers_speak(folder: Folder) -> None:
    write_annotations(folder, [yes("a", dataset="street", shard="0"), yes("b", dataset="park")])
    answers = read_answers(folder)
    places = [("street", "0"), ("street", "1"), ("park", "1")]
    assert [answers.speak_of(*place) for place in places] == [True, False, True]


def test_of_answers_of_one_time_yes_counts_before_no_and_no_before_unsure(folder: Folder) -> None:
    rows = [yes("a", value=value) for value in (0, 1, None)] + [yes("b", value=value) for value in (None, 0)]
    write_annotations(folder, rows, now=NOON)
    answers = read_answers(folder)
    assert (answers.of("d", "s", "a")["dog"].value, answers.of("d", "s", "b")["dog"].value) == (1, 0)


def test_a_store_without_annotations_has_none(folder: Folder) -> None:
    answers = read_answers(folder)
    assert (len(answers), answers.of("d", "s", "a"), answers.speak_of("d", "s")) == (0, {}, False)


def test_the_digest_is_of_what_is_there(folder: Folder) -> None:
    empty = annotations_digest(folder)
    write_annotations(folder, [yes()])
    one = annotations_digest(folder)
    write_annotations(folder, [yes()])
    assert empty != one == annotations_digest(folder) == read_answers(folder).digest
    write_annotations(folder, [yes("b")])
    assert one != annotations_digest(folder)


@pytest.mark.parametrize("damage", ["cut", "other columns"])
def test_a_damaged_file_is_named(folder: Folder, damage: str) -> None:
    path = Path(folder.path(write_annotations(folder, [yes()]).path))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        pq.write_table(pq.read_table(path).drop_columns(["shard"]), path)
    with pytest.raises(StoreError, match=f"annotations/{path.name}.*put it back"):
        read_answers(folder)


def test_a_remote_store(bucket: str) -> None:
    folder = Folder(f"{bucket}/store")
    assert write_annotations(folder, [yes()]).new
    assert not write_annotations(folder, [yes()]).new
    assert read_answers(folder).of("d", "s", "a")["dog"].value == 1


SCOPES = st.sampled_from((None, "x", "y"))
ROWS = st.tuples(
    st.sampled_from("ab"), st.sampled_from(("dog", "cat")), st.sampled_from((1, 0, None)), st.integers(0, 2)
)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(ROWS, SCOPES, SCOPES), min_size=1, max_size=10))
def test_the_newest_that_holds_for_the_sample_counts(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[tuple[str, str, int | None, int], str | None, str | None]],
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    for (key, label_id, value, hours), dataset, shard in rows:
        at = NOON + timedelta(hours=hours)
        write_annotations(folder, [yes(key, label_id, value=value, at=at, dataset=dataset, shard=shard)])
    answers = read_answers(folder)
    for place in [(d, s, k) for d in "xy" for s in "xy" for k in "ab"]:
        said = answers.of(*place)
        for label_id in ("dog", "cat"):
            holding = [
                (hours, -1 if value is None else value)
                for (key, label, value, hours), dataset, shard in rows
                if (key, label) == (place[2], label_id) and dataset in (None, place[0]) and shard in (None, place[1])
            ]
            assert (label_id in said) == bool(holding)
            if holding:
                hours, value = max(holding)
                assert said[label_id] == Answer(None if value < 0 else value, NOON + timedelta(hours=hours), "me")
        assert bool(said) == answers.has(*place) == (place[2] in answers.keys([place[:2]]))
