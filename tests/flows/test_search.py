"""Search: what the scorer would say of a text, what is like a sample or a file, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clipdecoder.encoders.encoder import EncoderPair
from clipdecoder.encoders.model import load_image_encoder, load_text_encoder
from clipdecoder.encoders.text_tables import TableText
from examples.scenes.render import taxonomy_yaml
from flows.cli.app import app
from flows.search import run_search
from flows.searching.page import search_page
from flows.searching.query import embed_texts
from schemas.config import make_request
from schemas.errors import ClipdecoderError, ConfigError, ModelError, RequestError, StoreError
from schemas.search import SearchRequest, SearchResult
from schemas.taxonomy import parse_taxonomy
from storage.files import Folder
from storage.models import read_models
from storage.parts import features_path
from tests.flows.annotated import LABELS, AnnotatedWorld, scenes
from tests.flows.world import World, pictures, taxonomy_text
from tests.nasty import Member, jpeg

PICTURES: list[Member] = [(f"{key}.jpg", data) for key, data, _ in scenes(36, 5)]


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return 36 rendered pictures in three tagged shards, one of them with a picture that is broken as well."""
    world = World(tmp_path_factory.mktemp("scenery"))
    for number in range(3):
        world.shard(f"{number:05d}", [*PICTURES[number::3], *([("broken.jpg", b"no")] if number == 1 else [])])
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    world.tag(floor=0.0)
    return world


@pytest.fixture
def own(scenery: World, tmp_path: Path) -> World:
    """Return a copy of the store that a test may damage."""
    shutil.copytree(scenery.folder / "store", tmp_path / "store")
    return replace(scenery, folder=tmp_path)


def search(world: World, *texts: str, **options: Any) -> SearchResult:
    return run_search(make_request(SearchRequest, **{"store": world.store, "texts": texts, **options}))


def places(result: SearchResult) -> list[tuple[str, str]]:
    return [(hit.shard, hit.key) for hit in result.hits]


def features(world: World, shard: str) -> Path:
    (model,) = read_models(Folder(world.store)).values()
    return Path(world.store, features_path(model.encoder_id, "world", shard))


def test_a_text_finds_what_the_scorer_of_that_text_says(scenery: World) -> None:
    taxonomy = parse_taxonomy(scenery.taxonomy.read_text())
    for label in taxonomy.labels[:2]:
        result = search(scenery, *taxonomy.texts_of(label), top=36)
        logits = dict(
            scenery.ask(
                f"select (shard, key)::varchar, logit from scores where label_id = '{label.id}'"
            )  # all: floor 0
        )
        assert len(logits) == len(result.hits) == result.searched == 36 and result.shards == 3
        assert [hit.rank for hit in result.hits] == list(range(1, 37))
        for hit in result.hits:
            # The scorer takes float16 embeddings to be of length 1; a search does not.
            assert hit.cosine == pytest.approx(logits[f"({hit.shard}, {hit.key})"], abs=5e-4)
        assert [hit.cosine for hit in result.hits] == sorted((hit.cosine for hit in result.hits), reverse=True)


def test_the_best_tags_are_beside_each_hit(scenery: World) -> None:
    tags = scenery.ask("select shard, key, list(label_id order by score desc, label_id)[:3] from tags group by all")
    known = {(shard, key): labels for shard, key, labels in tags}
    result = search(scenery, "a red circle", top=36)
    assert (
        known and {(hit.shard, hit.key): [tag.label_id for tag in hit.tags] for hit in result.hits if hit.tags} == known
    )


def test_like_a_sample_is_like_its_picture_and_leaves_itself_out(scenery: World) -> None:
    name, data = PICTURES[4]
    assert isinstance(data, bytes)
    key = name.removesuffix(".jpg")
    (scenery.folder / name).write_bytes(data)
    of_file = search(scenery, like_file=str(scenery.folder / name), top=36)
    assert places(of_file)[0] == ("00001", key) and of_file.hits[0].cosine == pytest.approx(1, abs=1e-4)
    of_key = search(scenery, like=key, top=35)
    assert places(of_key) == places(of_file)[1:] and [hit.rank for hit in of_key.hits] == list(range(1, 36))
    np.testing.assert_allclose([hit.cosine for hit in of_key.hits], [hit.cosine for hit in of_file.hits[1:]], atol=1e-3)
    assert places(search(scenery, like=key, top=3)) == places(of_key)[:3]


def test_threads_change_nothing_and_the_least_cosine_cuts(scenery: World) -> None:
    result = search(scenery, "a red circle", top=10)
    for threads in (1, 3):
        assert search(scenery, "a red circle", top=10, decode_threads=threads) == result
    cut = search(scenery, "a red circle", top=10, min_score=result.hits[3].cosine)
    assert cut.hits == result.hits[:4]
    assert search(scenery, "a red circle", min_score=1).hits == ()


@pytest.mark.parametrize(
    ("texts", "options", "kind", "message"),
    [
        ((), {}, ConfigError, "one thing to look for, and 0 were given"),
        (("a",), {"like": "x"}, ConfigError, "and 2 were given"),
        (("a",), {"shard": "00000"}, ConfigError, "--shard 00000 says where the key of --like is"),
        (("a", " "), {}, ConfigError, "a text is empty"),
        (("a " * 99,), {}, ConfigError, r"^a text of \d+ tokens, and the model reads \d+: 'a a"),
        (("a",), {"dataset": "sea"}, ConfigError, "unknown dataset 'sea'; known: world"),
        (("a",), {"model": "0123"}, ModelError, "unknown model '0123'; known: "),
        (("a",), {"top": 0}, ConfigError, "top = 0"),
        (("a",), {"min_score": 2}, ConfigError, "min_score = 2"),
        ((), {"like": "s5-00000"}, ConfigError, r"no sample has the key 's5-00000'; the nearest keys: s5-scene-\d+, "),
        ((), {"like": "broken"}, ConfigError, "'broken' in world/00001 has no embedding: its picture is unsupported"),
        ((), {"like_file": "absent.jpg"}, RequestError, "absent.jpg: cannot be read"),
        ((), {"like_file": __file__}, ConfigError, "unsupported: .*; take another picture"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(
    scenery: World, texts: tuple[str, ...], options: dict[str, Any], kind: type[ClipdecoderError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        search(scenery, *texts, **options)


def test_a_key_that_several_samples_have_needs_its_shard(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.taxonomy.write_text(taxonomy_text())
    for number in range(2):
        world.shard(f"{number:05d}", [("same.jpg", jpeg(number)), *pictures(number, 3)])
    world.tag()
    world.tag(name="other", shards=(str(tmp_path / "shards" / "00001.tar"),))
    with pytest.raises(
        ConfigError, match="3 samples have the key 'same'; say which one: --dataset other --shard 00001"
    ):
        search(world, like="same")
    with pytest.raises(ConfigError, match="2 samples have .*: --dataset world --shard 00000; --dataset world --shard"):
        search(world, like="same", dataset="world")
    with pytest.raises(ConfigError, match="no sample of other/00000 has the key 'same'; it stands in: --dataset other"):
        search(world, like="same", dataset="other", shard="00000")
    found = search(world, like="same", shard="00001", dataset="world")
    assert ("00001", "same") not in places(found) and len(found.hits) == 7
    assert {hit.dataset for hit in search(world, like="same", dataset="other").hits} == {"other"}
    twins = search(world, "a", top=12).hits  # the same pictures in both datasets: equal, in the order of datasets
    for hit in (hit for hit in twins if hit.dataset == "other"):
        twin = twins[hit.rank]
        assert (twin.dataset, twin.key, twin.cosine) == ("world", hit.key, hit.cosine)


def test_a_shard_with_new_bytes_is_found_by_them_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.taxonomy.write_text(taxonomy_text())
    world.shard("00000", pictures(0, 4))
    world.tag()
    world.shard("00000", pictures(7, 3))
    world.tag()
    assert sorted(places(search(world, "a"))) == [("00000", f"s7-{n}") for n in range(3)]


def test_shards_without_embeddings_are_named_and_the_others_searched(own: World) -> None:
    whole = search(own, "a red circle", top=36)
    features(own, "00000").unlink()
    part = search(own, "a red circle", top=36)
    assert (part.searched, part.shards, part.lacking, part.ok) == (24, 2, ("world/00000",), True)
    assert [hit.key for hit in part.hits] == [hit.key for hit in whole.hits if hit.shard != "00000"]
    assert "1 shards, e.g. world/00000; `clipdecoder backfill --model" in "\n".join(part.notes())
    with pytest.raises(StoreError, match="shard '00000' of dataset 'world' has no embeddings by the encoder"):
        search(own, like=next(hit.key for hit in whole.hits if hit.shard == "00000"))
    features(own, "00001").write_bytes(features(own, "00001").read_bytes()[:-5])
    damaged = search(own, "a red circle", top=36)
    assert (damaged.searched, damaged.ok) == (12, False) and "00001.parquet" in damaged.unreadable[0]
    done = CliRunner().invoke(app, ["search", "a red circle", "--store", own.store])
    assert done.exit_code == 1 and "00001.parquet" in done.stderr and "00002" in done.stdout
    features(own, "00002").unlink()
    with pytest.raises(StoreError, match=r"00001\.parquet"):
        search(own, "a")
    features(own, "00001").unlink()
    with pytest.raises(StoreError, match="no embeddings by the encoder .* `clipdecoder tag SHARDS .* makes them"):
        search(own, "a")


def test_a_model_without_a_joint_space_is_refused_for_texts(scenery: World) -> None:
    (record,) = read_models(Folder(scenery.store)).values()
    image, text = load_image_encoder("bundled:scenes"), load_text_encoder("bundled:scenes")
    query_D = embed_texts(EncoderPair(image=image, text=text), record, ["a red circle", "a red circle "])
    assert np.linalg.norm(query_D) == pytest.approx(1)
    apart = EncoderPair(image=image, text=TableText(["a"], np.ones((1, 4)), "table:t"))
    with pytest.raises(ModelError, match="no space that texts and pictures share.* --like KEY and --like-file"):
        embed_texts(apart, record, ["a"])


def test_a_trained_model_searches_with_its_own_towers(annotated: AnnotatedWorld, model_id: str) -> None:
    annotated.tag(shards=(annotated.test,), name="test", model=model_id, batch_size=32)
    result = search(annotated, "a red circle", model=model_id, top=80)
    assert (result.model_id, result.searched) == (model_id, 80) and any(hit.tags for hit in result.hits)
    assert search(annotated, "a red circle", top=80).hits == result.hits


def test_a_store_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(StoreError, match="there is no store"):
        search(world, "a")
    Path(world.store).mkdir()
    with pytest.raises(StoreError, match="nothing was tagged in .* yet"):
        search(world, "a")


def test_the_page_shows_the_pictures_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.taxonomy.write_text(taxonomy_text())
    world.shard("00000", [("<script>alert(1)<∕script>.jpg", jpeg(1)), *pictures(0, 3)])
    world.tag()
    result = search(world, "<img src=x onerror=alert(2)>", top=4)
    page = search_page(world.store, result)
    assert page.count("<img ") == page.count('src="data:image/webp;base64,') == 4
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "onerror" in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    (tmp_path / "shards" / "00000.tar").unlink()
    gone = search_page(world.store, search(world, "a", top=4))
    assert "<img " not in gone and "4 pictures cannot be shown" in gone
    assert "Nothing reaches" in search_page(world.store, search(world, "a", min_score=1))


def test_the_command(scenery: World, tmp_path: Path) -> None:
    words = ["search", "a red circle", "--store", scenery.store, "--top", "2"]
    page = tmp_path / "hits.html"
    done = CliRunner().invoke(app, [*words, "--json", "-o", str(page)])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [hit["rank"] for hit in said["hits"]] == [1, 2] and said["searched"] == 36
    assert page.read_text().count("<img ") == 2
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and said["hits"][0]["key"] in done.stdout and "2 of 36 embeddings" in done.stderr
    with pytest.raises(ConfigError, match="ends in .html"):
        CliRunner().invoke(app, [*words, "-o", "hits.csv"], catch_exceptions=False)


def test_like_a_key_loads_neither_torch_nor_prefect(scenery: World) -> None:
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    key = PICTURES[0][0].removesuffix(".jpg")
    words = ["search", "--like", key, "--store", scenery.store, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert len(json.loads(done.stdout)["hits"]) == 20
    loaded = {name.partition(".")[0] for name in eval(done.stderr[done.stderr.index("{") :])}
    assert not loaded & {"torch", "prefect", "open_clip", "timm", "torchvision", "webdataset"}
