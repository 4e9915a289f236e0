"""`--decode fast` makes an encoder of its own, which the store finds again for everything that follows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from examples.scenes.render import taxonomy_yaml
from flows.backfill import plan_backfill, run_backfill
from flows.search import run_search
from schemas.config import BackfillRequest, make_request
from schemas.errors import ModelError
from schemas.search import SearchRequest
from storage.files import Folder
from storage.models import promote, read_models
from storage.taxonomies import load_taxonomy, put_in_force, write_taxonomy
from tests.flows.annotated import LABELS, NOVEL, TRAIN_PICTURES, TRAIN_SEED, AnnotatedWorld, scenes, side_files
from tests.flows.world import decoded
from tests.nasty import encoded

SIDE = 320  # five times the bundled model's: enough for files to be decoded at half their size


def large(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data))
    return encoded(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), "JPEG", quality=90)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedWorld:
    """Return a world of large pictures, tagged for most labels with fast decoding."""
    world = AnnotatedWorld(tmp_path_factory.mktemp("large"))
    pictures = [(key, large(data), labels) for key, data, labels in scenes(TRAIN_PICTURES, TRAIN_SEED)]
    world.shard("00000", side_files(pictures, lambda _, labels: {"labels": list(labels)}))
    world.taxonomy.write_text(taxonomy_yaml(LABELS[:-2]))
    (world.folder / "novel.txt").write_text("\n".join(set(NOVEL) & set(LABELS[:-2])) + "\n")
    world.tag(decode="fast")
    return world


def encoders(world: AnnotatedWorld) -> dict[str, str]:
    """Return the encoder of each model of the store, by the model's name."""
    return {record.name: record.encoder_id for record in read_models(Folder(world.store)).values()}


def grow(world: AnnotatedWorld) -> None:
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    taxonomy = load_taxonomy(str(world.taxonomy))
    write_taxonomy(Folder(world.store), taxonomy)
    put_in_force(Folder(world.store), taxonomy)


def search(world: AnnotatedWorld, **options: Any) -> list[str]:
    found = run_search(make_request(SearchRequest, store=world.store, top=3, **options))
    return [hit.key for hit in found.hits]


def test_backfill_search_and_training_go_on_with_the_same_encoder(world: AnnotatedWorld, tmp_path: Path) -> None:
    assert set(encoders(world)) == {"bundled:scenes+fast"}
    grow(world)
    outcome = run_backfill(plan_backfill(make_request(BackfillRequest, store=world.store)))
    assert outcome.complete and sum(map(decoded, outcome.runs)) == 0
    key, data, _ = scenes(TRAIN_PICTURES, TRAIN_SEED)[0]
    (tmp_path / "same.jpg").write_bytes(large(data))
    assert search(world, like_file=str(tmp_path / "same.jpg"))[0] == key

    trained = world.train(decode="fast")
    config = world.config(trained.model_id)
    assert config["name"] == config["checkpoint"]["base"] == "bundled:scenes+fast"
    assert set(encoders(world).values()) == {config["encoder_id"]}
    again = world.tag(model=trained.model_id)
    assert again.whole and decoded(again) == 0


def test_exact_is_another_encoder_beside_it(world: AnnotatedWorld) -> None:
    fast = encoders(world)["bundled:scenes+fast"]
    exact = world.tag(model="bundled:scenes")
    assert exact.plan.record.encoder_id != fast and decoded(exact) == TRAIN_PICTURES


def test_a_stored_model_is_not_made_to_decode_otherwise(world: AnnotatedWorld) -> None:
    models = read_models(Folder(world.store)).values()
    fast = next(each for each in models if each.name == "bundled:scenes+fast" and each.checkpoint is None)
    promote(Folder(world.store), fast.model_id, "for this test")
    assert world.tag(decode="fast").plan.model.model_id == fast.model_id
    with pytest.raises(
        ModelError, match="decodes fast, and exact was asked for.*--model bundled:scenes --decode exact"
    ):
        world.tag(decode="exact")
    with pytest.raises(ModelError, match="leave one of the two out"):
        world.tag(model="bundled:scenes+fast", decode="exact")
