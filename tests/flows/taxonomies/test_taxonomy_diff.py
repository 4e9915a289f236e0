"""What a change of a taxonomy costs in a store, and how `taxonomy diff` shows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.models import load_model
from flows.taxonomies.cost import DatasetCost, TaxonomyCost, cost_of
from flows.taxonomies.summary import change_lines, change_rows, cost_lines
from schemas.errors import StoreError
from schemas.taxonomy import Label, Taxonomy
from schemas.taxonomy_diff import diff_taxonomies
from storage.files import Folder
from storage.models import promote
from storage.taxonomies import find_taxonomy, load_taxonomy
from tests.flows.annotated import AnnotatedWorld
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text
from tests.stores import Shard, make_model, make_run, make_taxonomy


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world that was tagged, for tests that only ask."""
    world = make_world(tmp_path_factory.mktemp("tagged"))
    world.tag()
    return world


def changed(world: World, **changes: dict[str, Any]) -> Taxonomy:
    """Return the world's taxonomy with some labels changed, by id with _ for -, and new ones at its end."""
    old = load_taxonomy(str(world.taxonomy))
    fields = {label_id.replace("_", "-"): change for label_id, change in changes.items()}
    labels = [label.model_copy(update=fields.pop(label.id, {})) for label in old.labels]
    labels += [Label(id=label_id, **change) for label_id, change in fields.items()]
    return old.model_copy(update={"labels": tuple(labels)})


def only(cost: TaxonomyCost) -> DatasetCost:
    (dataset,) = cost.datasets
    return dataset


def costs(world: World, new: Taxonomy) -> dict[tuple[str | None, str | None], str | None]:
    """Return what each change costs, by label and kind."""
    diff = diff_taxonomies(load_taxonomy(str(world.taxonomy)), new)
    rows = change_rows(diff, cost_of(Folder(world.store), new))
    return {(row["label"], row["change"]): row["cost"] for row in rows}


def test_what_views_do_costs_nothing(tagged: World) -> None:
    new = changed(
        tagged,
        red_circle={"name": "crimson disc", "query_names": ("red circle",)},
        blue_star={"merged_into": "red-circle"},
        green_square={"retired": True},
        white_heart={"parent": "red-circle"},
    )
    cost = cost_of(Folder(tagged.store), new)
    assert (cost.queries, cost.scores, cost.images_to_read, only(cost).labels) == (0, 0, 0, ())
    assert set(costs(tagged, new).values()) == {"views only"}
    diff = diff_taxonomies(load_taxonomy(str(tagged.taxonomy)), new)
    assert list(cost_lines(diff, cost)) == [
        "cost: views only; no query is embedded, no score computed, no image read"
    ]  # fmt: skip


def test_new_and_reworded_labels_are_scored_from_stored_embeddings(tagged: World) -> None:
    new = changed(tagged, blue_star={"name": "azure star"}, dog={"name": "dog", "synonyms": ("hound",)})
    cost = cost_of(Folder(tagged.store), new)
    assert [(label.label_id, label.texts, label.images) for label in only(cost).labels] == [
        ("blue-star", 2, 10),
        ("dog", 4, 10),
    ]
    assert (only(cost).scores, only(cost).images_to_read, only(cost).tokens) == (20, 0, False)
    assert costs(tagged, new) == {
        ("blue-star", "renamed"): "views only",
        ("blue-star", "reworded"): "2 texts, 10 images, from embeddings",
        ("dog", "added"): "4 texts, 10 images, from embeddings",
    }


def test_it_is_the_store_that_says_what_is_missing(world: World) -> None:
    """A restored label has its scores still; one that was never scored has not; a new shard has none."""
    world.tag()
    text = world.taxonomy.read_text()
    world.taxonomy.write_text(text.replace("name: blue star}", "name: blue star, retired: true}"))
    world.tag()
    restored = changed(world, blue_star={"retired": False})
    assert costs(world, restored) == {("blue-star", "restored"): "views only"}
    world.shard("00002", pictures(2, 3))
    world.tag()
    assert costs(world, restored) == {("blue-star", "restored"): "2 texts, 3 images, from embeddings"}


def test_images_are_read_where_features_are_missing(world: World) -> None:
    world.tag()
    size = (world.folder / "shards" / "00001.tar").stat().st_size
    next(Path(world.store, "features").rglob("00001.parquet")).unlink()
    new = changed(world, dog={"name": "dog"})
    cost = cost_of(Folder(world.store), new)
    assert (only(cost).shards_to_read, cost.images_to_read, cost.bytes_to_read) == (1, 5, size)
    assert costs(world, new) == {("dog", "added"): "2 texts, 10 images, 5 of them read"}
    (line,) = cost_lines(diff_taxonomies(None, new), cost)
    assert "1 query of 2 texts, 10 scores for which 5 images in 1 shard (" in line and "embeddings are not" in line


def test_a_scorer_that_looks_at_patches_needs_tokens(world: World) -> None:
    world.tag(local=True)
    new = changed(world, dog={"name": "dog"})
    assert (only(cost_of(Folder(world.store), new)).scorer, costs(world, new)) == (
        "clip+local",
        {("dog", "added"): "2 texts, 10 images, 10 of them read"},
    )
    world.tag(local=True, store_tokens=True, labels="red-circle")
    assert costs(world, new) == {("dog", "added"): "2 texts, 10 images, from patch tokens"}


def test_after_a_promotion_every_label_lacks_scores(annotated: AnnotatedWorld, model_id: str) -> None:
    annotated.tag(model="bundled:scenes", name="world")
    promote(Folder(annotated.store), model_id, "for the test")
    same = load_taxonomy(str(annotated.taxonomy))
    cost = cost_of(Folder(annotated.store), same)
    assert (cost.queries, only(cost).model_id, only(cost).scorer) == (20, model_id, "fused")
    assert (cost.scores, cost.images_to_read) == (20 * 160, 0)
    said = list(cost_lines(diff_taxonomies(same, same), cost))
    assert said[-1].startswith("- 20 of these labels did not change, and lack scores all the same")
    model = load_model(Folder(annotated.store), model_id, "cpu")
    assert only(cost).tokens == model.scorer(same.vocabulary(), "fused").needs_tokens
    shutil.rmtree(Path(annotated.store, "tokens"))
    assert cost_of(Folder(annotated.store), same).images_to_read == (160 if only(cost).tokens else 0)


def test_datasets_of_other_taxonomies_do_not_count(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    make_model(folder)
    things, scenes = make_taxonomy("ant", "bee"), make_taxonomy("bee", "sea", name="scenes")
    make_run(folder, "r1", things, {"00000": Shard()}, dataset="both")
    make_run(folder, "r2", scenes, {"00000": Shard()}, dataset="both", hours=1)
    make_run(folder, "r3", things, {"00000": Shard()}, dataset="one", hours=2)
    assert [cost.dataset for cost in cost_of(folder, things).datasets] == ["both", "one"]
    assert [cost.dataset for cost in cost_of(folder, scenes).datasets] == ["both"]
    assert cost_of(folder, make_taxonomy("ant", name="new")).datasets == ()
    # In a dataset with two taxonomies a label of both is that of the newer one, and so are its texts.
    reworded = Taxonomy(name="street", labels=(Label(id="ant", name="ANTS"), Label(id="bee", name="BEES")))
    assert [[label.label_id for label in cost.labels] for cost in cost_of(folder, reworded).datasets] == [
        ["ant"],
        ["ant", "bee"],
    ]


def test_without_a_store_costs_are_unknown_and_the_diff_is_not(tmp_path: Path) -> None:
    new = make_taxonomy("ant", Label(id="bee", name="bee", retired=True))
    with pytest.raises(StoreError, match="there is no store"):
        cost_of(Folder(str(tmp_path / "nowhere")), new)
    diff = diff_taxonomies(make_taxonomy("bee"), new)
    assert [row["cost"] for row in change_rows(diff, None)] == [None, "views only", "views only", None]
    (line,) = cost_lines(diff, cost_of(Folder(str(tmp_path)), new))
    assert line.startswith(
        "cost: unknown; no dataset of the store was tagged with a taxonomy named 'street' yet; `clipdecoder"
    )


def test_a_label_that_may_not_go_is_said_to_be_refused(tagged: World, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(taxonomy_text(("red-circle", "blue-star", "green-square")))
    done = diff("applied", str(new), "--store", tagged.store, cwd=tmp_path)
    assert "refused: it has scores; retire or merge it" in done.stdout and "views only │" not in done.stdout
    assert json.loads(diff("applied", str(new), "--store", tagged.store, "--json", cwd=tmp_path).stdout)["refused"] == [
        "white-heart"
    ]
    assert "refused" not in diff(str(tagged.taxonomy), str(new), cwd=tmp_path).stdout, "no store is at hand"


def test_a_long_table_ends_and_says_so(tagged: World, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(taxonomy_text((*LABELS, *(f"label-{number}" for number in range(60)))))
    shown = diff("applied", str(new), "--store", tagged.store, cwd=tmp_path).stdout
    assert shown.count("│ added ") == 50 and "and 10 more changes (--json has all)" in shown


def test_a_first_version_is_one_line() -> None:
    first = diff_taxonomies(None, make_taxonomy("ant", "bee"))
    assert change_rows(first, None) == []
    assert list(change_lines(first))[1:] == [
        "- all labels are new, 2 of them: no taxonomy of this name was in force before"
    ]


def test_changed_templates_are_one_line() -> None:
    old = make_taxonomy("ant", "bee", Label(id="cat", name="cat", templates=("{}",)))
    diff = diff_taxonomies(old, old.model_copy(update={"templates": ("a {}.", "the {}.")}))
    assert change_rows(diff, None) == []
    assert list(change_lines(diff))[1] == (
        "- templates changed: 2 labels reworded (a photo of a {}. -> a {}. | the {}.)"
    )
    assert list(change_lines(diff_taxonomies(old, old))) == [f"taxonomy street: both are version {old.digest}"]
    other = old.model_copy(update={"name": "road"})
    assert "another name is another taxonomy" in list(change_lines(diff_taxonomies(old, other)))[1]
    turned = Taxonomy(name="street", labels=(Label(id="ant", name="ant", synonyms=("b", "a")),))
    again = Taxonomy(name="street", labels=(Label(id="ant", name="ant", synonyms=("a", "b")),))
    assert "no label is different" in list(change_lines(diff_taxonomies(turned, again)))[1]


def test_a_version_is_a_file_a_digest_or_the_applied_one(tagged: World) -> None:
    folder, old = Folder(tagged.store), load_taxonomy(str(tagged.taxonomy))
    assert find_taxonomy(folder, old.digest) == find_taxonomy(folder, "applied") == find_taxonomy(folder, "applied:t")
    for unknown in ("0" * 16, old.digest[:6]):
        with pytest.raises(StoreError, match="neither a file nor, digit for digit, a version"):
            find_taxonomy(folder, unknown)


def diff(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `taxonomy diff` and have it say what it loaded."""
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: sys.stderr.write(repr(set(sys.modules)))"
    return subprocess.run(
        [sys.executable, "-c", program, "taxonomy", "diff", *words],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_shows_a_table_and_loads_neither_torch_nor_prefect(tagged: World, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(taxonomy_text().replace("name: blue star}", "name: azure star}") + "  - {id: dog, name: dog}\n")
    done = diff("applied", str(new), "--store", tagged.store, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "│ dog       │ added    │" in done.stdout and "from stored embeddings; no image is read" in done.stdout
    loaded = {name.partition(".")[0] for name in eval(done.stderr)}
    assert not loaded & {"torch", "prefect", "open_clip", "timm", "torchvision", "webdataset"}


def test_the_command_as_json_and_without_a_store(tagged: World, tmp_path: Path) -> None:
    old, new = str(tagged.taxonomy), tmp_path / "new.yaml"
    new.write_text(taxonomy_text() + "  - {id: dog, name: dog}\n")
    found = json.loads(diff(old, str(new), "--store", tagged.store, "--json", cwd=tmp_path).stdout)
    assert found["diff"]["to_score"] == ["dog"] and found["cost"]["datasets"][0]["scores"] == 10
    found = json.loads(diff(old, str(new), "--json", cwd=tmp_path).stdout)
    assert found["cost"] is None and "there is no store at 'store'" in found["cost_unknown"]
    assert [change["kind"] for change in found["diff"]["changes"]] == ["added"]
    refused = diff("applied", str(new), cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "") and "no taxonomy is applied" in refused.stderr
