"""Which sample a file of annotations means by a key, a path or a file name."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.annotation_formats.content import Picture
from storage.catalog import open_catalog
from storage.files import Folder
from storage.picture_keys import MatchedPictures, match_pictures
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

KEYS = {"0": ["train/17", "train/18", "test/17", "a.b", "a.b.jpg", "deep/er/é x"], "1": ["train/18", "lone"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Two datasets of two shards each; `other` has no more than `lone` in its own."""
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    make_model(folder)
    shards = {name: Shard(scores={}, keys=keys, statuses=[OK] * len(keys)) for name, keys in KEYS.items()}
    make_run(folder, "r1", make_taxonomy("ant"), shards)
    only = {"9": Shard(scores={}, keys=["lone"], statuses=[OK])}
    make_run(folder, "r2", make_taxonomy("ant"), only, dataset="other")
    return folder


def match(folder: Folder, *pictures: Picture) -> MatchedPictures:
    with open_catalog(folder) as connection:
        return match_pictures(connection, pictures)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("train/17.jpg", "train/17"),
        ("images/train/17.png", "train/17"),
        ("/data/x/train/17.jpg", "train/17"),
        ("../train/17.jpg", "train/17"),
        ("18.jpg", "train/18"),  # in two shards, and one key
        ("a.b.jpg", "a.b.jpg"),  # as `pack` names the second file of one name
        ("a.b.png", "a.b"),
        ("x.jpg", None),
        ("é x.webp", "deep/er/é x"),
        ("er/é x.webp", "deep/er/é x"),
        ("other/é x.webp", None),
        ("lone", "lone"),
    ],
)
def test_a_path_is_the_key_that_it_ends_like(folder: Folder, path: str, key: str | None) -> None:
    matched = match(folder, Picture(path, is_key=False))
    assert matched.num_known == (key is not None)
    assert list(matched.keys.values()) == [key or path.rpartition(".")[0]]


def test_a_path_that_fits_several_keys_is_ambiguous(folder: Folder) -> None:
    picture = Picture("17.jpg", is_key=False)
    matched = match(folder, picture)
    assert matched.ambiguous == {picture: ["test/17", "train/17"]}
    assert (matched.keys, matched.unknown) == ({}, [])


def test_a_key_is_a_key(folder: Folder) -> None:
    known, unknown = Picture("train/17", is_key=True), Picture("17", is_key=True)
    matched = match(folder, known, unknown, known)
    assert matched.keys == {known: "train/17", unknown: "17"}
    assert matched.unknown == [unknown]


def test_a_dataset_and_a_shard_are_the_samples_own(folder: Folder) -> None:
    here = [
        Picture("lone", True, "other"),
        Picture("lone", True, None, "1"),
        Picture("x/lone.jpg", False, "other", "9"),
    ]
    elsewhere = [Picture("train/17", True, "other"), Picture("lone", True, "other", "1"), Picture("17", True, "street")]
    matched = match(folder, *here, *elsewhere)
    assert matched.unknown == elsewhere
    places = [[("street", "0")], [("other", "9"), ("street", "1")]]
    assert matched.elsewhere == dict(zip(elsewhere, places, strict=False))
    assert [matched.keys[picture] for picture in here] == ["lone"] * 3


def test_of_a_store_without_samples_nothing_is_known(tmp_path: Path) -> None:
    matched = match(Folder(str(tmp_path)), Picture("a.jpg", is_key=False))
    assert (list(matched.keys.values()), matched.num_known) == (["a"], 0)
