"""What holds of a sample: side file and answers joined, the newest first, merges afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.training.sample_truth import SampleTruth, TruthFinder
from schemas.taxonomy import Label, Taxonomy
from storage.annotations import Annotation, read_answers, write_annotations
from storage.files import Folder
from storage.ground_truth import SampleLabels, ShardLabels

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BEFORE, AFTER, LATER = -1.0, 1.0, 2.0  # hours from the shard's last change

TAXONOMY = Taxonomy(
    name="t",
    labels=(
        Label(id="dog", name="Dog"),
        Label(id="cat", name="Cat"),
        Label(id="cow", name="Cow"),
        Label(id="puppy", name="Puppy", merged_into="dog"),
        Label(id="gone", name="Gone", retired=True),
    ),
)

Said = tuple[str, int | None, float]  # label, answer, hours from noon


def finder(folder: Path, *said: Said) -> TruthFinder:
    """Return a finder over these answers about the key `a` of shard 0 of dataset street."""
    rows = [
        Annotation(
            key="a",
            label_id=label_id,
            value=value,
            source="me",
            dataset="street",
            shard="0",
            at=NOON + timedelta(hours=hours),
        )
        for label_id, value, hours in said
    ]
    if rows:
        write_annotations(Folder(str(folder)), rows)
    return TruthFinder(taxonomy=TAXONOMY, answers=read_answers(Folder(str(folder))))


def side_file(labels: tuple[str, ...] = (), absent: tuple[str, ...] = ()) -> ShardLabels:
    """Return a shard that was changed at noon, with one annotated sample."""
    return ShardLabels(changed_at=NOON, samples={0: SampleLabels(labels=labels, absent=absent)}, keys={0: "a"})


def truth(there: str = "", absent: str = "", unsure: str = "", *, described: bool = True) -> SampleTruth:
    lists = (tuple(text.split()) for text in (there, absent, unsure))
    return SampleTruth(**dict(zip(("there", "absent", "unsure"), lists, strict=True)), described=described)


@pytest.mark.parametrize(
    ("side", "answers", "expected"),
    [
        (side_file(("dog", "cat"), ("cow",)), [], truth("dog cat", "cow")),
        (side_file(("dog",)), [("dog", 0, AFTER)], truth("", "dog")),
        (side_file(("dog",)), [("dog", 0, BEFORE)], truth("dog")),
        (side_file((), ("dog",)), [("dog", 1, AFTER)], truth("dog")),
        (side_file((), ("dog",)), [("dog", 1, BEFORE)], truth("", "dog")),
        # Silence is older than any answer: nobody said no.
        (side_file(("cat",)), [("dog", 1, BEFORE)], truth("cat dog")),
        # Somebody looked and could not tell: that takes back what was said before, and keeps silence from being a no.
        (side_file(("dog",)), [("dog", None, AFTER)], truth("", "", "dog")),
        (side_file(("dog",)), [("dog", None, BEFORE)], truth("dog")),
        (side_file(("cat",)), [("dog", None, AFTER)], truth("cat", "", "dog")),
        (side_file(("dog",)), [("dog", None, AFTER), ("dog", 1, LATER)], truth("dog")),
        # Of one label's words and of one time the yes counts.
        (side_file(("dog",), ("dog",)), [], truth("dog")),
        (side_file((), ("dog",)), [("dog", 1, 0.0)], truth("dog")),
        # Merged labels answer for one, each with its own newest.
        (side_file(("puppy",)), [], truth("dog")),
        (side_file(("puppy",)), [("dog", 0, AFTER)], truth("dog")),
        (side_file(("puppy",)), [("puppy", 0, AFTER)], truth("", "dog")),
        (side_file(("puppy", "dog")), [("puppy", 0, AFTER)], truth("dog")),
        (side_file(("puppy",)), [("puppy", None, AFTER)], truth("", "", "dog")),
        (side_file((), ("dog",)), [("puppy", None, AFTER)], truth("", "dog")),
        # What the taxonomy does not show is no ground truth.
        (side_file(("gone", "horse")), [("gone", 1, AFTER), ("horse", 1, AFTER)], truth()),
        (None, [("dog", 1, AFTER), ("cat", 0, AFTER)], truth("dog", "cat", described=False)),
        (None, [("dog", None, AFTER)], truth("", "", "dog", described=False)),
        (None, [], truth(described=False)),
    ],
)
def test_what_holds(tmp_path: Path, side: ShardLabels | None, answers: list[Said], expected: SampleTruth) -> None:
    found = finder(tmp_path, *answers).of("street", "0", 0, "a", side or ShardLabels(changed_at=NOON))
    assert {name: set(getattr(found, name)) for name in ("there", "absent", "unsure")} == {
        name: set(getattr(expected, name)) for name in ("there", "absent", "unsure")
    }
    assert found.described == expected.described


def test_a_doubt_alone_is_no_annotation() -> None:
    assert not truth("", "", "dog", described=False).annotated
    assert truth(described=True).annotated and truth("", "dog", described=False).annotated


def test_what_a_datasets_side_files_name_was_asked(tmp_path: Path) -> None:
    found = finder(tmp_path, ("cow", 1, AFTER))
    found.of("street", "0", 0, "a", side_file(("puppy",), ("cat", "horse")))
    found.of("park", "0", 0, "a", side_file())
    assert found.asked == {"street": {"dog", "cat"}, "park": set()}, "an answer asks about its own picture alone"
    assert found.words.unknown == {"horse": 1}
