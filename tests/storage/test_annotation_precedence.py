"""Of how many answers of a file something newer takes the place, whatever dataset and shard they name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.annotation_precedence import count_outdated
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path))
    make_model(folder)
    make_run(folder, "r1", make_taxonomy("ant"), {"0": Shard(scores={}, keys=["a"], statuses=[OK])})
    return folder


def said(day: int, dataset: str | None = None, shard: str | None = None, label_id: str = "ant") -> Annotation:
    at = datetime(2026, 5, day, tzinfo=UTC)
    return Annotation(key="a", label_id=label_id, value=1, source="me", dataset=dataset, shard=shard, at=at)


def outdated(folder: Folder, answers: Iterable[Annotation]) -> int:
    """Write answers as one file, and return how many of them do not count: the same before and after."""
    with open_catalog(folder) as before:
        path = write_annotations(folder, answers).path
        count = count_outdated(before, folder, path)
    with open_catalog(folder) as after:
        assert count_outdated(after, folder, path) == count
    return count


@pytest.mark.parametrize(
    ("known", "brought", "count"),
    [
        (said(2), said(1), 1),
        (said(2), said(2), 0),
        (said(2), said(3), 0),
        (said(2), said(1, label_id="bee"), 0),
        (said(2, "street", "0"), said(1), 1),
        (said(2), said(1, "street", "0"), 1),
        (said(2, "street"), said(1, None, "0"), 1),
        (said(2, "street"), said(1, "park"), 0),
        (said(2, "street", "0"), said(1, "street", "1"), 0),
    ],
)
def test_what_is_newer_of_the_same_label_where_both_may_hold_counts(
    folder: Folder, known: Annotation, brought: Annotation, count: int
) -> None:
    write_annotations(folder, [known])
    assert outdated(folder, [brought]) == count


def test_older_answers_of_the_same_file_are_none(folder: Folder) -> None:
    assert outdated(folder, [said(1), said(4)]) == 0
    assert outdated(folder, [said(2), said(3)]) == 1
