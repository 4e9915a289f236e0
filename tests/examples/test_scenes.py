"""The demo world: same seed, same pictures; and a world whose truth, captions and taxonomy agree."""

import io
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from examples.scenes.captions import ALLOWED_LABELS, batch_captions, caption_of, caption_truth, touched_concepts
from examples.scenes.pictures import (
    CONCEPT_INDEX,
    CONCEPTS,
    GRID,
    load_pictures,
    model_pixels,
    patch_shares,
    render_pictures,
)
from examples.scenes.render import (
    COLOURS,
    HEIGHT,
    LABELS,
    NEVER_IN_CAPTIONS,
    SHAPES,
    WIDTH,
    draw_scene,
    iter_scenes,
    render_scene,
    scene_jpeg,
    taxonomy_yaml,
)

IDS = {label.id for label in LABELS}


def test_same_seed_gives_same_bytes_whatever_came_before() -> None:
    first, again = list(iter_scenes(4, seed=7)), list(iter_scenes(4, seed=7))
    assert first == again
    assert [key for key, _, _ in first] == [f"scene-{index:06d}" for index in range(4)]
    assert scene_jpeg(3, seed=7)[0] == first[3][1]
    assert first[0][1] != next(iter_scenes(1, seed=8))[1]


def test_pictures_are_rgb_jpegs_of_one_size() -> None:
    for _, jpeg, labels in iter_scenes(5, seed=1):
        with Image.open(io.BytesIO(jpeg)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
        assert 3_000 < len(jpeg) < 60_000
        assert labels == tuple(sorted(set(labels))) and IDS.issuperset(labels) and 1 <= len(labels) <= 5


def test_render_scene_needs_only_a_generator() -> None:
    scene = render_scene(np.random.default_rng(5))
    assert scene.image.size == (WIDTH, HEIGHT) and scene.image.mode == "RGB"
    assert scene.labels == render_scene(np.random.default_rng(5)).labels


def test_every_label_occurs_about_equally_often() -> None:
    counts = Counter(label for index in range(220) for label in render_scene(np.random.default_rng(index)).labels)
    assert counts.keys() == IDS
    assert max(counts.values()) < 5 * np.mean(list(counts.values()))


def test_later_objects_leave_most_of_earlier_ones_visible() -> None:
    for seed in range(15):
        _, objects = draw_scene(np.random.default_rng(seed))
        total = sum(item.mask for item in objects)
        assert float(np.max(total)) <= 1.001  # visible masks share no pixel
        assert all(item.mask.sum() > 250 for item in objects)


def test_labels_are_colours_by_shapes() -> None:
    assert (len(COLOURS), len(SHAPES), len(LABELS)) == (8, 8, 64)
    assert LABELS[0].id == "red-circle" and LABELS[0].name == "red circle"


def test_never_captioned_labels_take_each_colour_and_each_shape_twice() -> None:
    assert len(NEVER_IN_CAPTIONS) == 16 and IDS.issuperset(NEVER_IN_CAPTIONS)
    parts = Counter(part for label in NEVER_IN_CAPTIONS for part in label.split("-"))
    assert parts == Counter({part: 2 for part in (*COLOURS, *SHAPES)})


def test_captions_never_name_a_never_captioned_label() -> None:
    rng = np.random.default_rng(0)
    truth = render_pictures(0, 24, seed=3).truth
    never = {CONCEPT_INDEX[label] for label in NEVER_IN_CAPTIONS}
    names = [label.name for label in LABELS if label.id in NEVER_IN_CAPTIONS]
    assert truth[:, sorted(never)].any()  # the pictures do hold them
    for caption in (caption for _ in range(40) for caption in batch_captions(truth, 48, rng)):
        assert never.isdisjoint(caption.concepts)
        assert not any(name in caption.text for name in names)
    with pytest.raises(ValueError, match="never captioned"):
        caption_of((sorted(NEVER_IN_CAPTIONS)[0],), rng)


def test_a_caption_is_true_when_all_it_names_is_there() -> None:
    rng = np.random.default_rng(0)
    pictures = render_pictures(0, 16, seed=4)
    captions = batch_captions(pictures.truth, 30, rng)
    truth = caption_truth(captions, pictures.truth)
    for column, caption in enumerate(captions):
        assert (truth[:, column] == pictures.truth[:, list(caption.concepts)].all(axis=1)).all()
    assert truth[:, -30:].any(axis=0).mean() > 0.4  # pair captions are drawn from the batch
    assert len(ALLOWED_LABELS) == 48


def test_false_labels_around_a_never_captioned_object_are_told_apart() -> None:
    assert {"red-triangle", "red-ring"} < NEVER_IN_CAPTIONS
    present = np.zeros((2, len(CONCEPTS)), dtype=np.bool_)
    present[0, [CONCEPT_INDEX[concept] for concept in ("red-triangle", "red", "triangle")]] = True
    present[1, [CONCEPT_INDEX[concept] for concept in ("red-square", "red", "square")]] = True
    touched = touched_concepts(present)
    names = {CONCEPTS[m] for m in np.flatnonzero(touched[0])}
    assert names == {label.id for label in LABELS if label.colour == "red" or label.shape == "triangle"}
    assert not touched[1].any()  # red squares are captioned, so what is false of them is said


def test_pictures_hold_what_iter_scenes_says() -> None:
    pictures = load_pictures(3, 9, workers=1)
    for row, (_, jpeg, labels) in enumerate(iter_scenes(3, seed=9)):
        assert (pictures.pixels[row] == model_pixels(jpeg)).all()
        assert {LABELS[k].id for k in np.flatnonzero(pictures.truth[row, : len(LABELS)])} == set(labels)
    shares = patch_shares(pictures.objects, pictures.shares)
    assert shares.shape == (3, GRID * GRID, len(CONCEPT_INDEX)) and 0 <= shares.min() and shares.max() <= 1.01
    assert ((shares.max(axis=1) > 0) == pictures.truth).all()


def test_taxonomy_parses_and_keeps_the_asked_order() -> None:
    taxonomy = yaml.safe_load(taxonomy_yaml())
    assert taxonomy["name"] == "scenes" and all("{}" in template for template in taxonomy["templates"])
    assert [(row["id"], row["name"]) for row in taxonomy["labels"]] == [(label.id, label.name) for label in LABELS]
    some = yaml.safe_load(taxonomy_yaml(["blue-moon", "red-circle"]))
    assert [row["id"] for row in some["labels"]] == ["blue-moon", "red-circle"]
    with pytest.raises(ValueError, match="teal-blob"):
        taxonomy_yaml(["teal-blob"])
