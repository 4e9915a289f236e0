"""Features of a shard: made once, kept, and never changed because somebody asked for patch tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdecoder.clock import StageClock
from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.model import load_image_encoder
from flows.tagging.features import FeatureRequest, feature_tagger, shard_features
from schemas.errors import ShardError
from schemas.sample import SampleStatus
from storage.files import Folder
from storage.ground_truth import read_labels
from storage.parts import ShardFeatures, features_path, write_features
from storage.patterns import ShardRef, list_shards
from storage.side_labels import side_labels, side_labels_path
from storage.tokens import tokens_path
from tests.flows.world import World, decoded, pictures, taxonomy_text
from tests.nasty import TEXT_AS_JPEG
from tests.stores import keep_tokens

NUM_PICTURES = 11
KEEP: dict[str, Any] = {"tokens": True, "store_tokens": True}


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return load_image_encoder("bundled:scenes", device="cpu")


@pytest.fixture
def shard(tmp_path: Path) -> World:
    """Return a world of one shard with a file that is no picture in its middle."""
    world = World(tmp_path)
    members = pictures(0, NUM_PICTURES)
    world.shard("00000", [*members[:4], ("bad.jpg", TEXT_AS_JPEG), *members[4:]])
    return world


def ask(world: World, encoder: ImageEncoder, **changes: Any) -> tuple[ShardFeatures, int]:
    """Return the shard's features and how many images were decoded for them."""
    values: dict[str, Any] = {"batch_size": 4, "decode_threads": 2, "max_pixels": 10**6} | changes
    wanted = FeatureRequest(store=world.store, dataset="world", encoder_id=encoder.encoder_id, **values)
    return shard_features(wanted, only_ref(world), feature_tagger(encoder, tokens=wanted.wants_tokens), StageClock())


def stored(world: World, kind: str) -> dict[str, bytes]:
    """Return the content of the stored files of a kind."""
    return {path.name: path.read_bytes() for path in Path(world.store, kind).rglob("*.parquet")}


def only_ref(world: World) -> ShardRef:
    [ref] = list_shards([str(world.folder / "shards" / "*.tar")]).shards
    return ref


def round_otherwise(world: World, encoder: ImageEncoder) -> ShardFeatures:
    """Store the shard's features as another machine might have made them."""
    features, _ = ask(world, encoder)
    other = replace(features, embeddings_ND=np.nextafter(features.embeddings_ND, np.float16(2)))
    write_features(Folder(world.store), features_path(encoder.encoder_id, "world", "00000"), other)
    return other


def fail(world: World, encoder: ImageEncoder, *, sample: int, with_tokens: bool) -> None:
    """Store the shard's features as if one of its good samples could not be decoded then."""
    features, _ = ask(world, encoder, tokens=True)
    others = features.ok_samples != sample
    failed = {"status": SampleStatus.DECODE_ERROR, "error": "no memory", "width": None, "height": None}
    rows = tuple(replace(row, **failed) if row.sample == sample else row for row in features.rows)
    assert features.tokens_NTC is not None
    tokens_NTC = features.tokens_NTC[others]
    poorer = replace(features, rows=rows, embeddings_ND=features.embeddings_ND[others], tokens_NTC=tokens_NTC)
    folder = Folder(world.store)
    write_features(folder, features_path(encoder.encoder_id, "world", "00000"), poorer)
    if with_tokens:
        keep_tokens(folder, tokens_path(encoder.encoder_id, "world", "00000"), poorer)


def test_features_are_made_once(shard: World, encoder: ImageEncoder) -> None:
    made, decoded = ask(shard, encoder)
    again, decoded_again = ask(shard, encoder, batch_size=3)
    assert (decoded, decoded_again) == (NUM_PICTURES + 1, 0)
    assert made.rows == again.rows and len(made.rows) == NUM_PICTURES + 1
    np.testing.assert_array_equal(made.embeddings_ND, again.embeddings_ND)
    assert made.tokens_NTC is None and stored(shard, "tokens") == {}


def test_tokens_asked_for_later_cost_a_pass_and_change_no_embedding(shard: World, encoder: ImageEncoder) -> None:
    ask(shard, encoder)
    first = round_otherwise(shard, encoder)
    before = stored(shard, "features")
    for _ in range(2):  # not kept, so not there the second time either
        found, decoded = ask(shard, encoder, tokens=True, batch_size=5)
        assert decoded == NUM_PICTURES + 1
        assert stored(shard, "features") == before and stored(shard, "tokens") == {}
        np.testing.assert_array_equal(found.embeddings_ND, first.embeddings_ND)
        assert found.tokens_NTC is not None and found.tokens_NTC.shape == (NUM_PICTURES, *encoder.token_shape)
    kept, decoded = ask(shard, encoder, **KEEP, batch_size=7)
    assert decoded == NUM_PICTURES + 1 and stored(shard, "features") == before
    found, decoded = ask(shard, encoder, tokens=True)
    assert decoded == 0
    np.testing.assert_array_equal(found.tokens_NTC, kept.tokens_NTC)  # type: ignore[arg-type]


def test_a_batch_of_bad_pictures_moves_no_embedding_to_another(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = World(tmp_path)
    bad = [(f"bad-{i}.jpg", TEXT_AS_JPEG) for i in range(3)]
    world.shard("00000", [*bad, *pictures(0, 5)])
    first = round_otherwise(world, encoder)
    found, decoded = ask(world, encoder, tokens=True, batch_size=2)
    assert decoded == 8 and found.rows == first.rows
    np.testing.assert_array_equal(found.embeddings_ND, first.embeddings_ND)


def test_tokens_that_nobody_asked_for_are_not_read(shard: World, encoder: ImageEncoder) -> None:
    ask(shard, encoder, **KEEP)
    found, decoded = ask(shard, encoder)
    assert decoded == 0 and found.tokens_NTC is None


def test_a_retry_decodes_only_what_failed_and_keeps_the_tokens_of_the_rest(shard: World, encoder: ImageEncoder) -> None:
    first, _ = ask(shard, encoder, **KEEP)
    before = stored(shard, "tokens"), stored(shard, "features")
    again, decoded = ask(shard, encoder, **KEEP, retry_failed=True, batch_size=3)
    assert decoded == 1
    assert (stored(shard, "tokens"), stored(shard, "features")) == before
    np.testing.assert_array_equal(again.tokens_NTC, first.tokens_NTC)  # type: ignore[arg-type]


def test_a_retry_that_needs_tokens_anew_keeps_the_embeddings(shard: World, encoder: ImageEncoder) -> None:
    ask(shard, encoder)
    first = round_otherwise(shard, encoder)
    before = stored(shard, "features")
    found, decoded = ask(shard, encoder, **KEEP, retry_failed=True)
    assert decoded == NUM_PICTURES + 1
    np.testing.assert_array_equal(found.embeddings_ND, first.embeddings_ND)
    assert stored(shard, "features") == before
    assert ask(shard, encoder, **KEEP)[1] == 0, "the tokens belong to the features that are stored"


@pytest.mark.parametrize("with_tokens", [False, True])
def test_a_picture_that_is_read_at_last_gets_embedding_and_tokens(
    shard: World, encoder: ImageEncoder, with_tokens: bool
) -> None:
    whole, _ = ask(shard, encoder, **KEEP)
    before = stored(shard, "features"), stored(shard, "tokens")
    fail(shard, encoder, sample=2, with_tokens=with_tokens)
    assert len(ask(shard, encoder)[0].embeddings_ND) == NUM_PICTURES - 1
    found, decoded = ask(shard, encoder, **KEEP, retry_failed=True)
    assert decoded == (2 if with_tokens else NUM_PICTURES + 1)
    assert found.rows == whole.rows
    np.testing.assert_array_equal(found.embeddings_ND, whole.embeddings_ND)
    np.testing.assert_array_equal(found.tokens_NTC, whole.tokens_NTC)  # type: ignore[arg-type]
    assert (stored(shard, "features"), stored(shard, "tokens")) == before


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_a_damaged_file_is_made_again(shard: World, encoder: ImageEncoder, kind: str) -> None:
    ask(shard, encoder, **KEEP)
    before = stored(shard, kind)
    [path] = Path(shard.store, kind).rglob("*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    _, decoded = ask(shard, encoder, **KEEP)
    assert decoded == NUM_PICTURES + 1 and stored(shard, kind) == before


def test_side_files_are_kept_with_the_features(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = World(tmp_path)
    said = [("s0-1.json", b'{"labels": ["dog"]}'), ("bad.jpg", TEXT_AS_JPEG), ("bad.json", b'{"absent": ["cat"]}')]
    path = world.shard("00000", [*pictures(0, 2), *said])
    ref = only_ref(world)
    ask(world, encoder)
    expected = read_labels(str(path))
    path.unlink()
    assert side_labels(Folder(world.store), "world", ref) == expected
    assert set(expected.samples) == {1, 2}, "whether the picture can be decoded or not"


def test_features_that_are_there_cost_no_reading_of_side_files(shard: World, encoder: ImageEncoder) -> None:
    ask(shard, encoder)
    ref = only_ref(shard)
    path = side_labels_path("world", ref.shard)
    Folder(shard.store).remove(path)
    assert ask(shard, encoder)[1] == 0
    assert not Folder(shard.store).exists(path)
    assert ask(shard, encoder, tokens=True)[1] > 0
    assert Folder(shard.store).exists(path), "where the shard is read anyway, they are kept"


def test_tokens_of_other_bytes_are_not_taken(shard: World, encoder: ImageEncoder) -> None:
    ask(shard, encoder, **KEEP)
    shard.shard("00000", pictures(7, NUM_PICTURES))
    ask(shard, encoder)  # stores features of the new bytes, and no tokens
    found, decoded = ask(shard, encoder, **KEEP)
    assert decoded == NUM_PICTURES, "as many samples as before, and not their tokens"
    assert found.tokens_NTC is not None
    again, decoded = ask(shard, encoder, **KEEP)
    assert decoded == 0
    np.testing.assert_array_equal(again.tokens_NTC, found.tokens_NTC)  # type: ignore[arg-type]


def test_tokens_of_what_a_retry_mended_are_stored_when_they_are_asked_for(shard: World, encoder: ImageEncoder) -> None:
    shard.taxonomy.write_text(taxonomy_text())
    fail(shard, encoder, sample=2, with_tokens=True)
    asked: dict[str, Any] = {"max_pixels": 10**6}
    for options, num_decoded, num_tokens in (
        ({"store_tokens": True}, 0, NUM_PICTURES - 1),
        ({"retry_failed": True}, 2, NUM_PICTURES - 1),
        ({"store_tokens": True}, NUM_PICTURES + 1, NUM_PICTURES),
        ({"store_tokens": True}, 0, NUM_PICTURES),
    ):
        outcome = shard.tag(**asked, **options)
        assert outcome.complete and decoded(outcome) == num_decoded
        [path] = Path(shard.store, "tokens").rglob("*.parquet")
        assert pq.read_metadata(path).num_rows == num_tokens


def test_a_shard_without_a_good_picture_has_tokens_of_none(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = World(tmp_path)
    world.shard("00000", [("bad.jpg", TEXT_AS_JPEG)])
    for decoded_wanted in (1, 0):
        found, decoded = ask(world, encoder, **KEEP)
        assert decoded == decoded_wanted
        assert found.tokens_NTC is not None and found.tokens_NTC.shape == (0, *encoder.token_shape)


def test_a_shard_that_is_gone_has_none(shard: World, encoder: ImageEncoder) -> None:
    ref = replace(only_ref(shard), fingerprint=None)
    wanted = FeatureRequest(
        store=shard.store,
        dataset="world",
        encoder_id=encoder.encoder_id,
        batch_size=4,
        decode_threads=1,
        max_pixels=10**6,
    )
    with pytest.raises(ShardError, match="is not there"):
        shard_features(wanted, ref, feature_tagger(encoder, tokens=False), StageClock())
