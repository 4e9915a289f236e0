"""Which samples a query chooses: each once, in the order of the shards, with tags, under keys of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import QueryError, RequestError
from schemas.sample import SampleStatus
from storage.catalog import open_catalog
from storage.exports.selection import Selection, output_keys, select_samples
from storage.files import Folder
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

DUPLICATE, BROKEN = SampleStatus.DUPLICATE_KEY, SampleStatus.DECODE_ERROR
ALL = "select dataset, shard, key from samples"


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return a store of two datasets: `street` has shards 0 and 1, which share the key b, and `park` has a shard 0."""
    folder = Folder(str(tmp_path))
    make_model(folder)
    taxonomy = make_taxonomy("dog", "cat")
    shards = {
        "0": Shard(
            keys=["b", "a", "a", "x/c"],
            statuses=[OK, OK, DUPLICATE, BROKEN],
            scores={"dog": [0.9, 0.2, None, None], "cat": [0.95, 0.6, None, None]},
        ),
        "1": Shard(keys=["b"], statuses=[OK], scores={"dog": [0.7], "cat": [None]}),
    }
    make_run(folder, "r1", taxonomy, shards)
    park = {"0": Shard(keys=["p"], statuses=[OK], scores={"dog": [0.4], "cat": [0.3]})}
    make_run(folder, "r2", taxonomy, park, dataset="park")
    return str(tmp_path)


def select(store: str, sql: str) -> Selection:
    with open_catalog(store) as connection:
        return select_samples(connection, sql)


def chosen(selection: Selection) -> list[tuple[str, str, int, str]]:
    names = ("dataset", "shard", "sample", "key")
    return [tuple(row.values()) for row in selection.rows.select(names).to_pylist()]


def test_samples_come_once_in_the_order_of_their_shards_with_their_tags(store: str) -> None:
    selection = select(store, "select KEY, shard from tags order by score")
    assert chosen(selection) == [("street", "0", 0, "0/b"), ("street", "0", 1, "a"), ("street", "1", 0, "1/b")]
    tags = [[(tag["label_id"], round(tag["score"], 2)) for tag in row] for row in selection.rows["tags"].to_pylist()]
    assert tags == [[("cat", 0.95), ("dog", 0.9)], [("cat", 0.6)], [("dog", 0.7)]]
    assert (selection.model_id, selection.renamed, selection.datasets) == ("m1", 2, ["street"])
    assert selection.places == {("street", "0"): 2, ("street", "1"): 1}
    assert [(label.label_id, label.name, label.threshold) for label in selection.labels] == [
        ("cat", "CAT", 0.5),
        ("dog", "DOG", 0.5),
    ]


def test_a_key_alone_is_enough_where_it_stands_once(store: str) -> None:
    assert chosen(select(store, "select key from samples where key <> 'b'")) == [
        ("park", "0", 0, "p"),
        ("street", "0", 1, "a"),
        ("street", "0", 3, "x/c"),
    ]


def test_an_ordinal_chooses_what_no_key_can(store: str) -> None:
    selection = select(store, "select dataset, shard, sample, key from failures")
    assert [place[2] for place in chosen(selection)] == [2, 3]
    assert selection.rows["status"].to_pylist() == [DUPLICATE, BROKEN]


def test_the_digest_is_of_samples_keys_and_tags(store: str) -> None:
    first = select(store, ALL).digest
    assert first == select(store, f"{ALL} order by key desc").digest
    assert first != select(store, f"{ALL} where key <> 'p'").digest
    make_run(Folder(store), "r3", make_taxonomy("dog", "cat"), {"0": Shard(keys=["p"], statuses=[OK])}, dataset="park")
    assert first == select(store, ALL).digest, "scores below every threshold are no tags"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select key from tags", r"several shards: 1 \(b\); select dataset and shard too"),
        ("select key, dataset from tags", r"several shards: 1 \(b\); select shard too: select dataset, shard, key"),
        ("select 'none' as key", r"rows of the query that name no sample of the store: 1 \(none\)"),
        ("select null as key", r"rows of the query that name no sample"),
        ("select key, '7' as shard from tags", r"name no sample of the store: 2 \(a, b\)"),
    ],
)
def test_keys_must_be_of_one_sample_each(store: str, sql: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        select(store, sql)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select shard, sample from samples", r"yields shard, sample and no key; write select key"),
        ("select key from samples where false", "chooses no sample"),
        ("select nothing", "nothing"),
        ("copy samples to 'x.csv'", "read-only"),
        ("create table t as select key from samples", "read-only"),
    ],
)
def test_the_query_must_yield_keys_and_only_read(store: str, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        select(store, sql)


names = st.sampled_from(["a", "b", "a/b", "b/a", "a/a"])


@given(st.sets(st.tuples(names, names, st.integers(0, 2), names), max_size=12))
def test_keys_of_an_export_never_repeat(samples: set[tuple[str, str, int, str]]) -> None:
    places = {(dataset, shard, sample): key for dataset, shard, sample, key in sorted(samples)}
    rows = [
        {"dataset": dataset, "shard": shard, "sample": sample, "source_key": key}
        for (dataset, shard, sample), key in places.items()
    ]
    keys = output_keys(rows)
    assert len(set(keys)) == len(rows)
    assert all(new.endswith(row["source_key"]) for new, row in zip(keys, rows, strict=True))
    if len(set(places.values())) == len(rows):
        assert keys == list(places.values())
