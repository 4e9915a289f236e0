"""Which pictures could be asked about: near, high and drawn ones, each content once, nothing that is answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from schemas.sample import SampleStatus
from schemas.taxonomy import Label
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder
from storage.review import Candidate, ReviewPool, known_pictures, review_labels, review_pool, shown_scorer
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

DOG = [0.9, 0.6, 0.55, 0.4, 0.1, None]
CONTENTS = [f"{number:02x}" for number in range(6)]
KEYS = [f"k{number}" for number in range(6)]


def shard(scores: dict[str, Sequence[float | None]], contents: Sequence[str] = CONTENTS) -> Shard:
    return Shard(scores=scores, statuses=[OK] * len(contents), keys=KEYS[: len(contents)], contents=contents)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a store whose model has seen `cat`, and scored six pictures for `dog` and `cat`."""
    folder = Folder(str(tmp_path))
    make_model(folder, seen=["cat"])
    make_run(folder, "r1", make_taxonomy("dog", "cat"), {"a": shard({"dog": DOG, "cat": [0.5] * 6})})
    return folder


def ask(folder: Folder, *label_ids: str, per_label: int = 10, seed: int = 0) -> ReviewPool:
    with open_catalog(folder) as connection:
        ids = label_ids or [label.label_id for label in review_labels(connection)]
        return review_pool(connection, ids, per_label=per_label, seed=seed)


def keys(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.key for candidate in candidates]


def answer(folder: Folder, key: str, label_id: str, value: int | None = 1, **changes: str) -> None:
    write_annotations(folder, [Annotation(key=key, label_id=label_id, value=value, source="me", **changes)])


def test_labels_and_model(folder: Folder) -> None:
    with open_catalog(folder) as connection:
        assert shown_scorer(connection) == {"model_id": "m1", "scorer": "clip"}
        assert [(label.label_id, label.name, label.seen) for label in review_labels(connection)] == [
            ("cat", "CAT", True),
            ("dog", "DOG", False),
        ]


def test_each_side_of_the_threshold_is_ranked_from_it(folder: Folder) -> None:
    pool = ask(folder, "dog").labels["dog"]
    assert keys(pool.above) == ["k2", "k1", "k0"] and keys(pool.below) == ["k3", "k4"]
    assert keys(pool.highest) == ["k0", "k1", "k2", "k3", "k4"]
    assert not any(candidate.judged for candidate in pool.highest)


def test_a_drawn_picture_may_have_no_score_and_the_seed_decides(folder: Folder) -> None:
    drawn = ask(folder, "dog").labels["dog"].drawn
    assert sorted(keys(drawn)) == KEYS
    assert [candidate.score is None for candidate in sorted(drawn, key=lambda each: each.key)] == [False] * 5 + [True]
    assert keys(drawn) == keys(ask(folder, "dog").labels["dog"].drawn)
    assert any(keys(drawn) != keys(ask(folder, "dog", seed=seed).labels["dog"].drawn) for seed in range(1, 6))


def test_of_equal_contents_one_picture_is_left(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    scores = {"dog": [0.9, 0.8, 0.7]}
    shards = {"a": shard(scores, ["x", "y", "x"]), "b": shard(scores, ["z", "y", "w"])}
    make_run(folder, "r1", make_taxonomy("dog"), shards)
    found = ask(folder)
    assert sorted(c.sha256 for c in found.labels["dog"].highest) == ["w", "x", "y", "z"]
    assert {(c.shard, c.sample) for c in found.labels["dog"].highest if c.sha256 in "xy"} == {("a", 0), ("a", 1)}
    assert found.duplicates == 2


@pytest.mark.parametrize("value", [1, 0, None])
def test_what_is_answered_is_left_out_for_that_label(folder: Folder, value: int | None) -> None:
    answer(folder, "k1", "dog", value, dataset="street", shard="a")
    found = ask(folder)
    assert "k1" not in keys(found.labels["dog"].highest) + keys(found.labels["dog"].drawn)
    assert "k1" in keys(found.labels["cat"].highest)
    assert found.answered == 1


def test_an_answer_by_key_alone_counts_and_one_about_another_shard_does_not(folder: Folder) -> None:
    answer(folder, "k0", "dog")
    answer(folder, "k1", "dog", dataset="street", shard="b")
    answer(folder, "k2", "dog", dataset="elsewhere")
    assert sorted(keys(ask(folder, "dog").labels["dog"].highest)) == ["k1", "k2", "k3", "k4"]


def test_a_copy_of_an_answered_picture_is_not_asked_about(folder: Folder) -> None:
    make_run(folder, "r2", make_taxonomy("dog", "cat"), {"z": shard({"dog": [0.5]}, ["03"])}, dataset="other")
    answer(folder, "k3", "dog", dataset="street")
    assert "03" not in {c.sha256 for c in ask(folder, "dog").labels["dog"].highest}


def test_merged_labels_are_one_question_and_answers_for_any_of_them_count(folder: Folder) -> None:
    merged = make_taxonomy(
        "dog", Label(id="hound", name="hound", merged_into="dog"), Label(id="old", name="old", retired=True)
    )
    scores = {"dog": [0.1, 0.2, 0.3], "hound": [0.8, 0.1, 0.4]}
    make_run(folder, "r2", merged, {"m": shard(scores, ["p", "q", "r"])}, dataset="merged", hours=1)
    answer(folder, "k1", "hound", dataset="merged")
    found = ask(folder, "dog")
    assert {c.sha256: round(c.score or 0, 3) for c in found.labels["dog"].highest if c.dataset == "merged"} == {
        "p": 0.8,
        "r": 0.4,
    }
    with open_catalog(folder) as connection:
        assert {"hound", "old"}.isdisjoint(label.label_id for label in review_labels(connection))


def test_failed_samples_are_never_asked_about(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    broken = Shard(
        scores={"dog": [0.5, None]}, statuses=[OK, SampleStatus.DECODE_ERROR], keys=["a", "b"], contents=["1", "2"]
    )
    make_run(folder, "r1", make_taxonomy("dog"), {"s": broken})
    found = ask(folder)
    assert keys(found.labels["dog"].highest) == ["a"] == keys(found.labels["dog"].drawn)


def test_no_more_are_returned_than_can_be_used(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    contents = [f"{number:03x}" for number in range(300)]
    scores = {"dog": [(number + 1) / 302 for number in range(300)]}
    many = Shard(scores=scores, statuses=[OK] * 300, keys=contents, contents=contents)
    make_run(folder, "r1", make_taxonomy("dog"), {"s": many})
    found = ask(folder, per_label=3)
    pool = found.labels["dog"]
    assert [len(each) for each in (pool.above, pool.below, pool.highest, pool.drawn)] == [6, 6, 6, 6]


def test_known_pictures(folder: Folder) -> None:
    with open_catalog(folder) as connection:
        assert known_pictures(connection, ["k1", "strange"]) == {("street", "a", "k1")}
