"""The views `annotations` and `ground_truth`: answers and side files together, and what holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.manifest import Fingerprint
from schemas.sample import SampleStatus
from schemas.taxonomy import Label, Taxonomy
from storage.annotations import Annotation, read_answers, write_annotations
from storage.catalog import open_catalog
from storage.files import Folder
from storage.ground_truth import SampleLabels, ShardLabels
from storage.patterns import ShardRef
from storage.side_labels import keep_side_labels
from storage.taxonomies import put_in_force, write_taxonomy
from tests.stores import NOON, OK, Shard, make_model, make_run, make_taxonomy

STREET = make_taxonomy(
    Label(id="dog", name="Dog", synonyms=("Straße",)),
    Label(id="hound", name="hound"),
    Label(id="cat", name="cat"),
    Label(id="pager", name="pager"),
)
MERGED = make_taxonomy(
    Label(id="dog", name="Dog", synonyms=("Straße",)),
    Label(id="hound", name="hound", merged_into="dog"),
    Label(id="cat", name="cat"),
    Label(id="pager", name="pager", retired=True),
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A store with two shards of three samples, whose keys are `a`, `b` and `c` in both."""
    folder = Folder(str(tmp_path / "it's a stôre"))
    make_model(folder)
    shards = {name: Shard(scores={"dog": [0.5] * 3}, keys=["a", "b", "c"]) for name in ("0", "x y/1%")}
    make_run(folder, "r1", STREET, shards)
    return folder


def ask(folder: Folder, query: str) -> list[tuple[Any, ...]]:
    with open_catalog(folder) as connection:
        return connection.execute(query).fetchall()


def truth(folder: Folder, where: str = "true") -> list[tuple[Any, ...]]:
    return ask(folder, f"SELECT shard, key, label_id, value FROM ground_truth WHERE {where} ORDER BY ALL")


def later(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def say(folder: Folder, key: str, label_id: str, value: int | None, hours: float = 0, **scope: str) -> None:
    annotation = Annotation(key=key, label_id=label_id, value=value, source="me", at=later(hours), **scope)
    write_annotations(folder, [annotation])


def side(
    folder: Folder,
    samples: Mapping[int, tuple[str, ...]],
    *,
    absent: tuple[str, ...] = (),
    hours: float = 0,
    shard: str = "0",
    dataset: str = "street",
) -> None:
    """Keep what side files of the first samples of a shard say."""
    found = ShardLabels(
        changed_at=later(hours),
        samples={sample: SampleLabels(labels=words, absent=absent) for sample, words in samples.items()},
        keys={sample: "abc"[sample] for sample in samples},
    )
    ref = ShardRef(shard=shard, url="file:///nowhere.tar", fingerprint=Fingerprint(size=1, tag=str(hours)))
    keep_side_labels(folder, dataset, ref, found)


def test_answers_and_side_files_are_one_table_with_source_and_time(folder: Folder) -> None:
    say(folder, "a", "cat", 1, 1, dataset="street", shard="0")
    say(folder, "b", "cat", None, 2)
    side(folder, {0: ("Dog", "nonsense"), 1: ()}, absent=("cat",), hours=3, shard="x y/1%")
    assert ask(folder, 'FROM annotations ORDER BY "at", key, label_id') == [
        ("street", "0", "a", "cat", 1, "me", later(1)),
        (None, None, "b", "cat", None, "me", later(2)),
        ("street", "x y/1%", "a", "cat", 0, "side-file", later(3)),
        ("street", "x y/1%", "a", "dog", 1, "side-file", later(3)),
        ("street", "x y/1%", "b", "cat", 0, "side-file", later(3)),
    ]


def test_words_of_side_files_mean_what_they_mean_to_training(folder: Folder) -> None:
    side(folder, {0: (" STRASSE\u3000", "straße", "DOG", "dog"), 1: ("Hound\n",), 2: ("", " ", "pager's", "\x00")})
    assert ask(folder, "SELECT key, label_id FROM annotations ORDER BY ALL") == [("a", "dog"), ("b", "hound")]


def test_a_side_file_that_contradicts_itself_says_yes(folder: Folder) -> None:
    side(folder, {0: ("dog",)}, absent=("Dog",))
    assert truth(folder) == [("0", "a", "dog", 1)]


def test_a_dataset_that_nothing_scored_goes_by_the_taxonomy_in_force(folder: Folder) -> None:
    side(folder, {0: ("dog",)}, dataset="other")
    assert ask(folder, "SELECT dataset, label_id FROM annotations") == []
    write_taxonomy(folder, STREET)
    put_in_force(folder, STREET)
    assert ask(folder, "SELECT dataset, label_id FROM annotations") == [("other", "dog")]
    assert truth(folder) == []


def test_the_newest_answer_counts_wherever_it_comes_from(folder: Folder) -> None:
    side(folder, {0: ("dog",), 1: ("dog",), 2: ("dog",)}, hours=2)
    say(folder, "a", "dog", 0, 1)
    say(folder, "b", "dog", 0, 3, dataset="street", shard="0")
    say(folder, "c", "dog", None, 3)
    assert truth(folder) == [
        ("0", "a", "dog", 1),
        ("0", "b", "dog", 0),
        ("x y/1%", "a", "dog", 0),
    ]


def test_answers_hold_for_the_samples_that_they_name(folder: Folder) -> None:
    make_run(folder, "r2", STREET, {"0": Shard(scores={}, keys=["a", "b", "c"])}, dataset="other", hours=1)
    say(folder, "a", "dog", 1, dataset="other")
    say(folder, "b", "dog", 1, shard="0")
    say(folder, "c", "dog", 1, dataset="street", shard="x y/1%")
    say(folder, "d", "dog", 1)
    assert ask(folder, "SELECT dataset, shard, sample, key FROM ground_truth ORDER BY ALL") == [
        ("other", "0", 0, "a"),
        ("other", "0", 1, "b"),
        ("street", "0", 1, "b"),
        ("street", "x y/1%", 2, "c"),
    ]


def test_the_second_sample_of_a_key_has_no_answers(folder: Folder) -> None:
    shard = Shard(scores={}, keys=["a", "a", "b"], statuses=(OK, SampleStatus.DUPLICATE_KEY, SampleStatus.EMPTY))
    make_run(folder, "r2", STREET, {"0": shard}, dataset="other", hours=1)
    say(folder, "a", "dog", 1, dataset="other")
    say(folder, "b", "dog", 1, dataset="other")
    assert ask(folder, "SELECT sample, key FROM ground_truth ORDER BY ALL") == [(0, "a"), (2, "b")]


def test_side_files_of_other_bytes_than_were_scored_are_left_out_where_the_key_differs(folder: Folder) -> None:
    shard = Shard(scores={}, keys=["z", "b", "c"])
    make_run(folder, "r2", STREET, {"0": shard}, hours=1)
    side(folder, {0: ("dog",), 1: ("dog",)})
    assert truth(folder) == [("0", "b", "dog", 1)]


def test_merged_labels_are_joined_after_the_newest_answer_for_each(folder: Folder) -> None:
    say(folder, "a", "hound", 1, 1)  # a yes of any of them is a yes, also if another was answered no since
    say(folder, "a", "dog", 0, 2)
    say(folder, "b", "hound", 1, 1)  # taken back
    say(folder, "b", "hound", 0, 2)
    say(folder, "c", "hound", 1, 1)  # taken back as unsure, so nothing is known of it
    say(folder, "c", "hound", None, 2)
    say(folder, "a", "pager", 1)
    say(folder, "a", "unheard-of", 1)
    before = truth(folder, "shard = '0'")
    assert before == [("0", "a", "dog", 0), ("0", "a", "hound", 1), ("0", "a", "pager", 1), ("0", "b", "hound", 0)]
    write_taxonomy(folder, MERGED)
    put_in_force(folder, MERGED)
    assert truth(folder, "shard = '0'") == [("0", "a", "dog", 1), ("0", "b", "dog", 0)]
    put_in_force(folder, STREET)
    assert truth(folder, "shard = '0'") == before


def test_a_label_that_is_retired_and_merged_is_retired(folder: Folder) -> None:
    make_run(folder, "r2", STREET, {"0": Shard(scores={"dog": [0.1] * 3, "hound": [0.9] * 3}, keys=["a", "b", "c"])})
    labels = (label.model_copy(update={"retired": label.id == "hound"}) for label in MERGED.labels)
    both = MERGED.model_copy(update={"labels": tuple(labels)})
    for taxonomy, tags, keys in ((MERGED, 3, ["a", "b"]), (both, 0, [])):
        write_taxonomy(folder, taxonomy)
        put_in_force(folder, taxonomy)
        say(folder, "a", "hound", 1)
        side(folder, {1: ("hound",)})
        assert ask(folder, "SELECT count(*) FROM tags WHERE shard = '0'") == [(tags,)]
        assert [key for _, key, *_ in truth(folder, "shard = '0'")] == keys


def test_a_row_says_who_gave_the_answer_that_counts_and_when(folder: Folder) -> None:
    write_taxonomy(folder, MERGED)
    put_in_force(folder, MERGED)
    side(folder, {0: ("hound",)}, hours=2)
    say(folder, "a", "dog", 0, 3)
    shown = "SELECT label_id, value, source, \"at\" FROM ground_truth WHERE shard = '0'"
    assert ask(folder, shown) == [("dog", 1, "side-file", later(2))]


def test_without_annotations_nothing_is_read(folder: Folder) -> None:
    for view in ("annotations", "ground_truth"):
        assert "PARQUET" not in str(ask(folder, f"EXPLAIN FROM {view}")).upper()


def test_a_remote_store_has_side_labels_too(bucket: str) -> None:
    folder = Folder(f"{bucket}/store")
    make_model(folder)
    make_run(folder, "r1", STREET, {"x y/0": Shard(scores={}, keys=["a", "b", "c"])})
    side(folder, {1: ("Dog",)}, shard="x y/0")
    assert truth(folder) == [("x y/0", "b", "dog", 1)]


VALUES = st.sampled_from((1, 0, None))
ANSWERS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(("dog", "hound", "cat", "pager")),
        VALUES,
        st.integers(0, 3),
        st.sampled_from((None, "street", "other")),
        st.sampled_from((None, "0", "x y/1%")),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(said=ANSWERS, taxonomy=st.sampled_from((STREET, MERGED)))
def test_the_view_holds_what_the_answers_say_of_each_sample(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[Any, ...]], taxonomy: Taxonomy
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    shards = {name: Shard(scores={}, keys=["a", "b", "c"]) for name in ("0", "x y/1%")}
    make_run(folder, "r1", taxonomy, shards)
    for number in range(0, len(said), 5):  # several files
        rows = [
            Annotation(key=key, label_id=label_id, value=value, source="me", at=later(at), dataset=dataset, shard=shard)
            for key, label_id, value, at, dataset, shard in said[number : number + 5]
        ]
        write_annotations(folder, rows)
    answers, active = read_answers(folder), {label.id for label in taxonomy.active_labels()}
    expected: dict[tuple[str, str, str], int] = {}
    for shard in shards:
        for key in "abc":
            for label_id, answer in answers.of("street", shard, key).items():
                place = shard, key, taxonomy.resolve(label_id)
                if answer.value is not None and place[2] in active:
                    expected[place] = max(answer.value, expected.get(place, 0))
    assert {row[:3]: row[3] for row in truth(folder)} == expected
