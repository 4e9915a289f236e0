"""Annotated images as arrays: what counts as annotated, in which words, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.images import decode_image
from clipdecoder.encoders.model import load_image_encoder
from flows.features import FeatureRequest
from flows.ground_truth import AnnotatedImages, Room, gather
from schemas.errors import RequestError, RunError
from storage.patterns import list_shards
from storage.taxonomies import load_taxonomy
from tests.flows.annotated import AnnotatedWorld, make_written_world, scenes
from tests.flows.world import World, taxonomy_text
from tests.nasty import TEXT_AS_JPEG, Member, build_tar, cut_tar, jpeg

MAX_PIXELS = 10**6


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return load_image_encoder("bundled:scenes", device="cpu")


def features(world: World, encoder: ImageEncoder, *, tokens: bool = False) -> FeatureRequest:
    return FeatureRequest(
        store=world.store,
        dataset="world",
        encoder_id=encoder.encoder_id,
        batch_size=8,
        decode_threads=2,
        max_pixels=MAX_PIXELS,
        tokens=tokens,
    )


def gathered(
    world: World, encoder: ImageEncoder, *, patterns: Sequence[str] = (), tokens: bool = False, pixels: bool = False
) -> AnnotatedImages:
    """Return what is gathered of a world's shards, arrays copied from where they lie on the disk."""
    shards = list_shards(patterns or (str(world.folder / "shards" / "*.tar"),)).shards
    wanted = features(world, encoder, tokens=tokens)
    with gather(shards, wanted, encoder, load_taxonomy(str(world.taxonomy)), pixels=pixels) as images:
        assert images.scratch.is_dir()
        scratch = images.scratch
    assert not scratch.exists(), "it is gone when the block ends"
    return images


def small_world(folder: Path, *shards: Sequence[Member]) -> World:
    world = World(folder)
    world.taxonomy.write_text(taxonomy_text())
    for number, members in enumerate(shards):
        world.shard(f"{number:05d}", members)
    return world


def test_ids_names_and_cases_mean_their_label(tmp_path: Path, encoder: ImageEncoder) -> None:
    says = [
        b'{"labels": ["red-circle", "Blue Star"], "absent": ["white heart"]}',
        b'{"labels": [], "absent": []}',
        b'{"labels": ["red circle", "RED CIRCLE", "dog", "dog", "cat"]}',
        b'{"absent": ["dog"]}',
    ]
    members = [member for i, text in enumerate(says) for member in ((f"{i}.jpg", jpeg(i)), (f"{i}.json", text))]
    images = gathered(small_world(tmp_path, members), encoder)
    assert [row.key for row in images.rows] == ["0", "1", "2", "3"], "saying that there is none is an annotation"
    assert list(images.labels) == [("red-circle", "blue-star"), (), ("red-circle",), ()]
    assert list(images.absent) == [("white-heart",), (), (), ()]
    assert images.unknown_words() == {"dog": 2, "cat": 1}
    assert (images.num_failed, images.damaged, images.shards) == (0, {}, 1)


def test_what_is_not_annotated_damaged_or_no_picture_is_left_out(tmp_path: Path, encoder: ImageEncoder) -> None:
    said = b'{"labels": ["red-circle"]}'
    first: list[Member] = [("a.jpg", jpeg(0)), ("a.json", said), ("b.jpg", jpeg(1)), ("c.jpg", jpeg(2))]
    first += [("c.json", b'{"caption": "a circle"}'), ("d.jpg", TEXT_AS_JPEG), ("d.json", said)]
    second: list[Member] = [("e.jpg", jpeg(3)), ("e.json", b'{"labels": "red-circle"}'), ("f.jpg", jpeg(4))]
    second += [("f.json", b"{"), ("g.jpg", jpeg(5)), ("g.json", said)]
    images = gathered(small_world(tmp_path, first, second), encoder, tokens=True)
    assert [(row.shard, row.key) for row in images.rows] == [("00000", "a"), ("00001", "g")]
    assert images.num_failed == 1, "the text that calls itself a JPEG"
    assert set(images.damaged) == {"e", "f"} and "must be a list of texts" in images.damaged["e"]


def test_every_array_is_of_its_row(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": labels} if key.endswith("1") else None, 30)
    images = gathered(world, encoder, tokens=True, pixels=True)
    kept = [data for key, data, _ in scenes(160, 0)[:30] if key.endswith("1")]
    assert len(images) == len(kept) == 3
    pixels_NHWC = [
        encoder.transform.to_pixels(decode_image(data, max_pixels=MAX_PIXELS), max_pixels=MAX_PIXELS) for data in kept
    ]
    assert images.pixels_NHWC is not None and images.tokens_NTC is not None
    np.testing.assert_array_equal(images.pixels_NHWC, pixels_NHWC)
    encoded = encoder.encode(np.stack(pixels_NHWC), tokens=True)
    np.testing.assert_allclose(images.embeddings_ND, encoded.embeddings_BD, atol=2e-3)
    np.testing.assert_allclose(images.tokens_NTC, encoded.tokens_BTC, atol=2e-2)


def test_the_digest_is_that_of_pictures_and_labels(tmp_path: Path, encoder: ImageEncoder) -> None:
    def digest(name: str, *labels: str, seed: int = 0) -> str:
        (tmp_path / name).mkdir()
        text = ", ".join(f'"{label}"' for label in labels)
        members = [("a.jpg", jpeg(seed)), ("a.json", f'{{"labels": [{text}]}}'.encode())]
        return gathered(small_world(tmp_path / name, members), encoder).digest

    first = digest("first", "red-circle", "blue-star")
    assert digest("other-order", "blue-star", "red-circle") == first
    assert len({first, digest("fewer", "red-circle"), digest("other", "red-circle", "blue-star", seed=1)}) == 3


def test_a_truncated_shard_gives_what_stands_before_the_cut(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = make_written_world(tmp_path, lambda key, labels: {"labels": labels}, 20)
    shard = tmp_path / "shards" / "00000.tar"
    shard.write_bytes(cut_tar(shard.read_bytes(), "s0-scene-000012.jpg"))
    assert 0 < len(gathered(world, encoder)) < 20


def test_nothing_annotated_is_refused_with_the_way_to_annotate(world: World, encoder: ImageEncoder) -> None:
    with pytest.raises(RequestError, match=r"no sample of these 2 shards is annotated: .*clipdecoder pack"):
        gathered(world, encoder)
    world.shard("00000", [("a.jpg", jpeg()), ("a.json", b"[1]")])
    with pytest.raises(RequestError, match="1 side files cannot be used"):
        gathered(world, encoder)


def test_words_of_another_taxonomy_are_refused_with_both_sides(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = small_world(tmp_path, [("a.jpg", jpeg()), ("a.json", b'{"labels": ["dog"]}')])
    with pytest.raises(RequestError, match=r"the side files say 'dog', the taxonomy knows red-circle, blue-star"):
        gathered(world, encoder)


def test_a_shard_that_cannot_be_read_ends_it(annotated: AnnotatedWorld, encoder: ImageEncoder) -> None:
    there, gone = str(annotated.folder / "shards" / "00000.tar"), str(annotated.folder / "shards" / "00007.tar")
    with pytest.raises(RunError, match=r"00007\.tar.*run the same command again"):
        gathered(annotated, encoder, patterns=(there, gone))
    annotated.raw_shard("00001", build_tar([])[:100] + b"no tar" * 500)
    with pytest.raises(RunError, match=r"00001\.tar.*mend or leave out the shard"):
        gathered(annotated, encoder)


def test_a_disk_without_room_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"GB are needed for the tokens of 1000000000000 images.*TMPDIR"):
        Room(tmp_path, 10**12).array("tokens", np.float16, (64, 96))
    assert list(tmp_path.iterdir()) == []
