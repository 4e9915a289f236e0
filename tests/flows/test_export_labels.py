"""Labels for other tools, and pictures beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from flows.annotations import run_import
from schemas.annotations import ImportRequest
from schemas.errors import RequestError
from storage.files import Folder
from tests.flows.annotated import scenes
from tests.flows.exports import ALL, contents, export, make_scenes_world
from tests.flows.world import World, make_world
from tests.nasty import TEXT_AS_JPEG, jpeg

TAGS = "select key, label_id, score from tags order by score desc, label_id"


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world of two shards of five scenes."""
    world = make_scenes_world(tmp_path_factory.mktemp("scenes"), shards=2)
    world.tag()
    return world


def tags_of(world: World) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {key: [] for key, *_ in scenes(10, 0)}
    for key, label_id, score in world.ask(TAGS):
        found[key].append((label_id, score))
    return found


def test_fiftyone_has_every_picture_with_its_labels_and_confidences(tagged: World, tmp_path: Path) -> None:
    summary = export(tagged, to=str(tmp_path / "out"), format="fiftyone", pictures=True)
    said = json.loads((tmp_path / "out" / "labels.json").read_bytes())
    assert summary.samples == len(said["labels"]) == 10 and summary.pictures == str(tmp_path / "out" / "data")
    for key, tags in tags_of(tagged).items():
        assert said["labels"][key] == [{"label": label, "confidence": pytest.approx(score)} for label, score in tags]
        assert {label for label, _ in tags} <= set(said["classes"])
    originals = {f"{key}.jpg": data for key, data, _ in scenes(10, 0)}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()} == originals


def test_label_studio_tasks_come_back_as_answers(tagged: World, tmp_path: Path) -> None:
    summary = export(tagged, to=str(tmp_path / "out"), format="labelstudio", pictures=True)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_bytes())
    config = (tmp_path / "out" / "label-config.xml").read_text()
    assert [Path(file).name for file in summary.files] == ["tasks.json", "label-config.xml"]
    for task in tasks:
        assert (tmp_path / "out" / task["data"]["image"].partition("?d=")[2]).is_file()
        chosen = [choice for each in task["predictions"] for choice in each["result"][0]["value"]["choices"]]
        assert chosen == [label for label, _ in tags_of(tagged)[task["data"]["key"]]]
        assert all(f'<Choice value="{choice}"/>' in config for choice in chosen)
    answered = [task | {"annotations": [{"result": each["result"]} for each in task["predictions"]]} for task in tasks]
    (tmp_path / "answers.json").write_text(json.dumps(answered))
    world = make_scenes_world(tmp_path, shards=2)
    world.tag()
    done = run_import(ImportRequest(store=world.store, file=str(tmp_path / "answers.json")))
    assert done.ok
    tags = {(key, label) for key, label, _ in world.ask(TAGS)}
    answers = world.ask("select key, label_id from annotations where source like 'label-studio%' and value = 1")
    assert set(answers) == tags


def test_tables_and_coco_name_the_copied_pictures(tagged: World, tmp_path: Path) -> None:
    export(tagged, to=str(tmp_path / "a" / "labels.csv"), format="csv", pictures=True)
    export(tagged, to=str(tmp_path / "a" / "labels.json"), format="coco", pictures=True)
    with (tmp_path / "a" / "labels.csv").open() as file:
        files = [row["file"] for row in csv.DictReader(file)]
    coco = json.loads((tmp_path / "a" / "labels.json").read_bytes())
    assert files == [image["file_name"] for image in coco["images"]]
    assert len(files) == 10 and all((tmp_path / "a" / name).is_file() for name in files)


def test_keys_that_lead_out_of_the_folder_stay_inside(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=0)
    names = ("../../evil", "/etc/evil", "etc/evil", "a b?", "a/b", "a//b", "a/./b", "%2Fetc/evil")
    world.shard("00000", [(f"{name}.jpg", jpeg(place)) for place, name in enumerate(names)])
    world.tag()
    before = contents(tmp_path)
    summary = export(world, to=str(tmp_path / "out" / "here"), format="fiftyone", pictures=True)
    new = contents(tmp_path).keys() - before.keys()
    said = json.loads((tmp_path / "out" / "here" / "labels.json").read_bytes())
    assert summary.samples == len(said["labels"]) == len(new) - 1 == len(names)
    assert all(name.startswith("out/here/") for name in new)


@pytest.mark.parametrize(("name", "format"), [("out/labels.csv", "csv"), ("out", "fiftyone")])
def test_keys_that_differ_by_case_alone_keep_their_own_picture(tmp_path: Path, name: str, format: str) -> None:
    world = make_world(tmp_path, shards=0)
    pictures = {"cat/Tom": jpeg(1), "cat/tom": jpeg(2), "CAT/tom": jpeg(3), "dog": jpeg(4)}
    world.shard("00000", [(f"{key}.jpg", data) for key, data in pictures.items()])
    world.tag()
    export(world, to=str(tmp_path / name), format=format, pictures=True)
    folder = tmp_path / "out"
    files = [path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*.jpg")]
    assert len({file.lower() for file in files}) == len(pictures)
    if format == "csv":
        with (folder / "labels.csv").open() as file:
            named = {row["key"]: row["file"] for row in csv.DictReader(file)}
        assert {key: (folder / path).read_bytes() for key, path in named.items()} == pictures
    else:
        said = json.loads((folder / "labels.json").read_bytes())["labels"]
        assert {(folder / "data" / f"{path}.jpg").read_bytes() for path in said} == {*pictures.values()}


def test_pictures_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=0)
    world.shard("00000", [("a.jpg", jpeg()), ("text.jpg", TEXT_AS_JPEG), ("none.jpg", b"")])
    world.shard("00001", [("b.jpg", jpeg())])
    world.tag()
    (tmp_path / "shards" / "00001.tar").unlink()
    summary = export(world, to=str(tmp_path / "out"), format="fiftyone", pictures=True)
    said = json.loads((tmp_path / "out" / "labels.json").read_bytes())
    assert sorted(said["labels"]) == ["a", "text"] and not summary.ok
    assert sorted(key for each in summary.missing for key in each.keys) == ["b", "none"]


def test_labels_alone_read_no_shard(tagged: World, tmp_path: Path) -> None:
    summary = export(tagged, to=str(tmp_path / "out"), format="fiftyone")
    assert summary.pictures is None and sorted(contents(tmp_path)) == ["out/labels.json"]


def test_pictures_go_to_an_object_store(tagged: World, bucket: str) -> None:
    summary = export(tagged, to=f"{bucket}/out", format="labelstudio", pictures=True)
    assert summary.ok and len(Folder(f"{bucket}/out").list("data")) == 10


@pytest.mark.parametrize(("to", "format"), [("out.json", "fiftyone"), ("out/", "coco")])
def test_a_target_of_the_other_kind_is_refused(tagged: World, tmp_path: Path, to: str, format: str) -> None:
    with pytest.raises(RequestError, match="--to"):
        export(tagged, ALL, f"{tmp_path}/{to}", format=format)
    assert not list(tmp_path.iterdir())
