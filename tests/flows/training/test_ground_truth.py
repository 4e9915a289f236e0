"""Annotated images as arrays: what counts as annotated, in which words, and what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipdecoder.encoders.encoder import ImageEncoder
from clipdecoder.encoders.model import load_image_encoder
from flows.scratch import Room
from flows.tagging.features import FeatureRequest
from flows.training.annotated_images import AnnotatedImages
from flows.training.ground_truth import Source, gather
from schemas.errors import RequestError, RunError
from storage.annotations import Annotation, read_answers, write_annotations
from storage.files import Folder
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
    sources = [Source(wanted=features(world, encoder, tokens=tokens), shards=shards)]
    answers = read_answers(Folder(world.store))
    with gather(sources, encoder, load_taxonomy(str(world.taxonomy)), answers, pixels=pixels) as images:
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
    pixels_NHWC = [encoder.transform.read(data, max_pixels=MAX_PIXELS).pixels_HWC for data in kept]
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


# --- answers, and several datasets -----------------------------------------------------------------------------------


def answer(world: World, key: str, label_id: str, value: int | None, **scope: str) -> None:
    """Answer about a picture, after everything that was said of it before."""
    said = Annotation(key=key, label_id=label_id, value=value, source="me", **scope)
    write_annotations(Folder(world.store), [said])


def described(*labels: str, seed: int = 0) -> list[Member]:
    """Return three pictures, of which the first and the last have side files."""
    first, last = f"p{seed}-0", f"p{seed}-2"
    members: list[Member] = [(f"{first}.jpg", jpeg(seed)), (f"{first}.json", json.dumps({"labels": labels}).encode())]
    members += [(f"p{seed}-1.jpg", jpeg(seed + 1)), (f"{last}.jpg", jpeg(seed + 2))]
    return [*members, (f"{last}.json", b'{"labels": []}')]


def test_answers_alone_annotate_a_picture_partially(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = small_world(tmp_path, described("red-circle", "blue-star"))
    answer(world, "p0-1", "green-square", 1, dataset="world", shard="00000")
    answer(world, "p0-1", "blue-star", None)
    answer(world, "p0-2", "green-square", None)
    images = gathered(world, encoder, tokens=True)
    assert [row.key for row in images.rows] == ["p0-0", "p0-1", "p0-2"]
    assert list(images.described) == [True, False, True]
    assert list(images.datasets) == ["world"] * 3 and images.tokens_NTC is not None and len(images.tokens_NTC) == 3
    labels = ["red-circle", "blue-star", "green-square", "white-heart"]
    assert images.targets(labels, "negative").dense().tolist() == [[1, 1, -1, -1], [-1, -1, 1, -1], [0, 0, -1, -1]]
    assert images.targets(labels, "unknown").dense().tolist() == [[1, 1, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, -1]]
    assert images.subset(np.array([2, 1])).targets(labels, "negative").dense().tolist() == [
        [0, 0, -1, -1],
        [-1, -1, 1, -1],
    ]


def test_a_newer_answer_corrects_a_side_file(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = small_world(tmp_path, described("red-circle", "blue-star"))
    before = gathered(world, encoder)
    answer(world, "p0-0", "red-circle", 0)
    answer(world, "p0-2", "red-circle", 1)
    after = gathered(world, encoder)
    assert (list(after.labels), list(after.absent)) == ([("blue-star",), ("red-circle",)], [("red-circle",), ()])
    assert before.digest != after.digest


def test_answers_of_other_shards_and_bad_pictures_are_no_annotation(tmp_path: Path, encoder: ImageEncoder) -> None:
    members = [*described("red-circle"), ("bad.jpg", TEXT_AS_JPEG), ("p0-1.png", jpeg(9))]
    world = small_world(tmp_path, members)
    answer(world, "p0-1", "red-circle", 1, shard="00001")
    answer(world, "p0-1", "red-circle", 1, dataset="elsewhere")
    answer(world, "p0-1", "dog", 1)
    answer(world, "bad", "red-circle", 1)
    images = gathered(world, encoder)
    assert ([row.key for row in images.rows], images.num_failed) == (["p0-0", "p0-2"], 1)
    answer(world, "p0-1", "red-circle", 1)
    assert [row.sample for row in gathered(world, encoder).rows] == [0, 1, 2], "the second of a key is no sample"


def test_a_shard_of_which_nobody_said_anything_is_not_embedded(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = small_world(tmp_path, described("red-circle"), [("x.jpg", jpeg(7))])
    assert gathered(world, encoder).shards == 2
    features = Folder(world.store).list("features")
    assert [Path(path).stem for path in features] == ["00000"]
    answer(world, "x", "red-circle", 0)
    assert len(gathered(world, encoder)) == 3


def test_every_dataset_was_asked_what_its_own_side_files_name(tmp_path: Path, encoder: ImageEncoder) -> None:
    first, second = World(tmp_path / "first"), World(tmp_path / "second")
    paths = [first.shard("0", described("red-circle")), second.shard("0", described("blue-star", "red-circle", seed=5))]
    (tmp_path / "taxonomy.yaml").write_text(taxonomy_text())
    sources = [
        Source(wanted=replace(features(first, encoder), dataset=path.parts[-3]), shards=list_shards([str(path)]).shards)
        for path in paths
    ]
    answer(first, "p0-1", "blue-star", 0, dataset="first", shard="0")
    answer(first, "p5-1", "blue-star", 0, dataset="first", shard="0")
    taxonomy, answers = load_taxonomy(str(tmp_path / "taxonomy.yaml")), read_answers(Folder(first.store))
    with gather(sources, encoder, taxonomy, answers) as images:
        assert [row.key for row in images.rows] == ["p0-0", "p0-1", "p0-2", "p5-0", "p5-2"]
        assert list(images.datasets) == ["first"] * 3 + ["second"] * 2 and images.shards == 2
        expected = [[1, -1], [-1, 0], [0, -1], [1, 1], [0, 0]]
        assert images.targets(["red-circle", "blue-star"], "negative").dense().tolist() == expected


def test_sql_and_training_know_the_same(tmp_path: Path, encoder: ImageEncoder) -> None:
    members = [*described("red-circle", "Rot", "dog"), ("p0-1.png", jpeg(9)), ("bad.jpg", TEXT_AS_JPEG)]
    world = small_world(tmp_path, members, [*described("Blue Star", seed=5), ("p0-1.jpg", jpeg(11))])
    merged = "  - {id: rot, name: Rot, merged_into: red-circle}\n  - {id: gone, name: gone, retired: true}\n"
    world.taxonomy.write_text(taxonomy_text() + merged)
    world.tag()
    answer(world, "p0-0", "rot", 0, dataset="world", shard="00000")
    answer(world, "p0-1", "rot", 1)
    answer(world, "p0-1", "red-circle", 0, shard="00001")
    answer(world, "p5-0", "blue-star", None)
    answer(world, "p5-2", "gone", 1)
    answer(world, "p5-2", "white-heart", 0, dataset="elsewhere")
    answer(world, "p5-2", "green-square", 0, dataset="world")
    images = gathered(world, encoder)
    ours = {
        (row.shard, row.sample, label_id, value)
        for row, there, absent in zip(images.rows, images.labels, images.absent, strict=True)
        for labels, value in ((there, 1), (absent, 0))
        for label_id in labels
    }
    good = "select g.shard, sample, label_id, value from ground_truth g join samples using (dataset, shard, sample)"
    assert ours == set(world.ask(f"{good} where status = 'ok'"))
    assert ours == {
        ("00000", 0, "red-circle", 1),
        ("00000", 1, "red-circle", 1),
        ("00001", 3, "red-circle", 1),
        ("00001", 2, "green-square", 0),
    }


def test_only_answers_at_all(tmp_path: Path, encoder: ImageEncoder) -> None:
    world = small_world(tmp_path, [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1))])
    answer(world, "a", "red-circle", None)
    with pytest.raises(RequestError, match=r"no sample of these 1 shards is annotated: .*annotations import.*review"):
        gathered(world, encoder)
    answer(world, "b", "red-circle", 0)
    with pytest.raises(RequestError, match="only say which labels are absent"):
        gathered(world, encoder)
    answer(world, "a", "red-circle", 1)
    images = gathered(world, encoder)
    assert images.targets(["blue-star", "red-circle"], "negative").dense().tolist() == [[-1, 1], [-1, 0]]


def test_nothing_annotated_is_refused_with_the_way_to_annotate(world: World, encoder: ImageEncoder) -> None:
    with pytest.raises(RequestError, match=r"no sample of these 2 shards is annotated: .*clipdecoder pack"):
        gathered(world, encoder)
    world.shard("00000", [("a.jpg", jpeg()), ("a.json", b"[1]")])
    with pytest.raises(RequestError, match="1 side file cannot be used"):
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
        Room(tmp_path).pile("tokens", np.float16, (64, 96), 10**12)
    assert list(tmp_path.iterdir()) == []
