"""Export: what a query chooses becomes shards that can be tagged, trained on and exported again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.annotations import run_import
from flows.cli.app import app
from schemas.annotations import ImportRequest
from schemas.errors import RequestError, RunError, StoreError
from schemas.export import TAGS_KEY, ExportManifest
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from tests.flows.annotated import TRAIN_PICTURES, AnnotatedWorld, scenes
from tests.flows.disks import NEVER, FullDisk, HookedDisk
from tests.flows.exports import ALL, contents, export, exported, make_scenes_world, said
from tests.flows.world import LABELS, World
from tests.nasty import TEXT_AS_JPEG, jpeg, png

ROOT = Path(__file__).parents[2]
TAGGED = "select distinct dataset, shard, key from tags"


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a tagged world of three shards of five scenes; for tests that change nothing but what they export."""
    world = make_scenes_world(tmp_path_factory.mktemp("scenes"))
    world.tag()
    return world


def into(place: Path) -> str:
    return str(place / "{:05d}.tar")


def test_bytes_and_side_files_go_over_as_they_are_with_the_tags_beside_them(tagged: World, tmp_path: Path) -> None:
    summary = export(tagged, TAGGED, into(tmp_path), samples_per_shard=4)
    originals = {key: (data, labels) for key, data, labels in scenes(15, 0)}
    samples = exported(*summary.files)
    tags = Counter(key for (key,) in tagged.ask("select key from tags"))
    assert summary.ok and samples.keys() == tags.keys() and 4 < len(samples)
    assert (summary.samples, summary.tags) == (len(samples), tags.total())
    for key, sample in samples.items():
        data, labels = originals[key]
        assert (sample.data, sample.member) == (data, f"{key}.jpg")
        written = said(sample)
        tag_rows = written.pop(TAGS_KEY)["tags"]
        assert written == {"labels": list(labels), "caption": key}
        asked = f"select label_id, score from tags where key = '{key}' order by score desc"
        assert [tuple(tag.values()) for tag in tag_rows] == tagged.ask(asked)


def test_the_index_and_the_manifest_say_where_all_came_from(tagged: World, tmp_path: Path) -> None:
    summary = export(tagged, ALL, into(tmp_path), samples_per_shard=4)
    rows = [row for n in range(4) for row in pq.read_table(tmp_path / f"{n:05d}.parquet").to_pylist()]
    places = [(row["dataset"], row["shard"], row["sample"], row["source_key"]) for row in rows]
    assert places == tagged.ask("select dataset, shard, sample, key from samples order by all")
    samples = exported(*summary.files)
    assert [row["key"] for row in rows] == list(samples)
    assert all(row["sha256"] == hashlib.sha256(samples[row["key"]].data).hexdigest() for row in rows)
    assert [row["tags"] for row in rows] == [said(sample)[TAGS_KEY]["tags"] for sample in samples.values()]
    manifest = ExportManifest.model_validate_json((tmp_path / "manifest.json").read_text())
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [
        (f"{n:05d}.tar", 4 if n < 3 else 3) for n in range(4)
    ]
    record = manifest.record
    ((digest, model_id),) = tagged.ask("select taxonomy_digest, model_id from runs")
    assert (record.query, record.model_id, record.taxonomy_digests) == (ALL, model_id, {"world": (digest,)})
    assert [(source.url, source.samples) for source in record.sources] == [
        (str(tagged.folder / "shards" / f"{n:05d}.tar"), 5) for n in range(3)
    ]
    thresholds = tagged.ask("select label_id, threshold from thresholds where scorer = 'clip' order by label_id")
    assert [(label.label_id, label.threshold) for label in record.labels] == thresholds


def test_an_export_can_be_tagged_and_exported_again(tagged: World, tmp_path: Path) -> None:
    first = export(tagged, TAGGED, into(tmp_path / "first"), samples_per_shard=3)
    store = str(tmp_path / "store")
    outcome = tagged.tag(shards=(str(tmp_path / "first" / "*.tar"),), store=store)
    assert outcome.whole and outcome.statuses.total() == first.samples
    scores = f"select key, label_id, score, logit from scores where key in ({TAGGED.replace('dataset, shard, ', '')})"
    before, after = (
        tagged.ask(f"{scores} order by all"),
        tagged.ask("select key, label_id, score, logit from scores order by all", store),
    )
    assert [row[:2] for row in after] == [row[:2] for row in before] and len(after) > 10
    assert [row[2:] for row in after] == [pytest.approx(row[2:], abs=1e-5) for row in before]
    again = export(tagged, "select key from samples", into(tmp_path / "again"), store=store)
    samples, earlier = exported(*again.files), exported(*first.files)
    assert {key: sample.data for key, sample in samples.items()} == {key: s.data for key, s in earlier.items()}
    for key, sample in samples.items():
        now, then = said(sample), said(earlier[key])
        assert list(now) == ["labels", "caption", TAGS_KEY] and now["labels"] == then["labels"]
        assert [tag["label_id"] for tag in now[TAGS_KEY]["tags"]] == [tag["label_id"] for tag in then[TAGS_KEY]["tags"]]


def test_an_export_can_be_trained_on(annotated: AnnotatedWorld, model_id: str, tmp_path: Path) -> None:
    annotated.tag(model="bundled:scenes")
    summary = export(annotated, ALL, into(tmp_path / "shards"), samples_per_shard=TRAIN_PICTURES // 2)
    assert summary.samples == TRAIN_PICTURES
    shards = (str(tmp_path / "shards" / "*.tar"),)
    learned = annotated.train(shards=shards, store=str(tmp_path / "store"))
    copied = Path(tmp_path / "store", "models", learned.model_id, "model.safetensors").read_bytes()
    assert hashlib.sha256(copied).hexdigest() == annotated.weights(model_id), "the same pictures, labels and order"


def make_odd_world(folder: Path) -> World:
    """Return a tagged world of keys that repeat, side files of every kind, and members that are no pictures."""
    world = make_scenes_world(folder, shards=0)
    world.shard(
        "a",
        [
            ("same.jpg", jpeg(1)),
            ("same.json", b'{"n": 1.50}\n'),
            ("same.txt", b"a caption"),
            ("broken.jpg", TEXT_AS_JPEG),
            ("empty.jpg", b""),
            ("IMG.2024.01.PNG", png(2)),
            ("IMG.2024.01.PNG.json", b'{"labels": []}'),
            ("same.png", png(3)),
        ],
    )
    world.shard("b", [("same.jpg", jpeg(4)), ("same.json", b"[1]"), ("same.cls", b"7"), ("deep/é x.webp", jpeg(5))])
    world.tag()
    return world


def test_keys_that_repeat_begin_with_their_shard(tmp_path: Path) -> None:
    world = make_odd_world(tmp_path)
    summary = export(world, f"{ALL} where key <> 'empty'")
    samples = exported(*summary.files)
    assert [sample.member for sample in samples.values()] == [
        *("a/same.jpg", "broken.jpg", "IMG.2024.01.PNG", "b/same.jpg", "deep/é x.webp")
    ]
    assert samples["a/same"].side["txt"] == b"a caption" and samples["b/same"].side["cls"] == b"7"
    assert samples["a/same"].side["json"].startswith(b'{"n": 1.50, "clipdecoder": ')
    assert said(samples["IMG.2024.01"])["labels"] == []
    assert (summary.ok, summary.renamed, summary.untagged) == (True, 2, 1)
    assert samples["b/same"].side["json"] == b"[1]"
    assert "2 samples have a key that another one has too" in "\n".join(summary.lines())


def test_what_has_no_bytes_is_named_and_the_rest_is_exported(tmp_path: Path) -> None:
    world = make_odd_world(tmp_path)
    summary = export(world, "select dataset, shard, sample, key from samples")
    assert not summary.ok and summary.samples == 5
    assert {(each.keys, each.reason) for each in summary.missing} == {
        (("empty",), "no bytes of theirs can be read: empty"),
        (("same",), "no bytes of theirs can be read: duplicate_key"),
    }


def test_shards_that_are_gone_or_changed_cost_their_samples(tmp_path: Path) -> None:
    world = make_scenes_world(tmp_path)
    world.tag()
    export(world, to=into(tmp_path / "whole"), samples_per_shard=4)
    gone, changed = (tmp_path / "shards" / f"{n:05d}.tar" for n in (0, 2))
    gone.rename(tmp_path / "gone.tar")
    (tmp_path / "changed.tar").hardlink_to(changed)
    changed.unlink()
    world.shard("00002", [("other.jpg", jpeg(1))])
    summary = export(world, samples_per_shard=4)
    assert not summary.ok and summary.samples == 5
    assert [(each.shard, len(each.keys), each.reason.split(":")[0]) for each in summary.missing] == [
        ("00000", 5, "missing"),
        ("00002", 5, "changed"),
    ]
    assert [Path(url).name for url in summary.files] == ["00001.tar", "00002.tar"]
    assert not (tmp_path / "out" / "00000.tar").exists() and not (tmp_path / "out" / "00003.parquet").exists()
    lines = "\n".join(summary.lines())
    assert "samples not exported: 10;" in lines and "world/00000: 5, such as s0-" in lines
    (tmp_path / "gone.tar").rename(gone)
    changed.unlink()
    (tmp_path / "changed.tar").rename(changed)
    summary = export(world, samples_per_shard=4)
    assert summary.ok and summary.samples == 15
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_cut_short_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    world = make_scenes_world(tmp_path, shards=1)
    path = tmp_path / "shards" / "00000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    world.tag()
    summary = export(world, "select dataset, shard, sample, key from samples where status = 'ok'")
    assert summary.ok and 0 < summary.samples < 5
    assert world.ask("select count(*) from samples where status = 'ok'") == [(summary.samples,)]


def test_the_same_again_reads_and_writes_nothing(tagged: World, tmp_path: Path) -> None:
    export(tagged, ALL, into(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0*")}
    summary = export(tagged, ALL, into(tmp_path))
    assert (summary.kept, summary.samples) == (1, 15)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("0*")} == before
    (tmp_path / "00000.tar").write_bytes(b"cut")
    assert export(tagged, ALL, into(tmp_path)).kept == 0
    assert len(exported(str(tmp_path / "00000.tar"))) == 15


def test_another_export_or_other_shards_are_not_touched(tagged: World, tmp_path: Path) -> None:
    export(tagged, ALL, into(tmp_path / "one"))
    before = contents(tmp_path)
    with pytest.raises(RequestError, match="has an export already, and this one differs in query, samples, digest"):
        export(tagged, f"{ALL} where shard <> '00000'", into(tmp_path / "one"))
    with pytest.raises(RequestError, match="differs in samples_per_shard"):
        export(tagged, ALL, into(tmp_path / "one"), samples_per_shard=3)
    with pytest.raises(RequestError, match="already has 3 shards"):
        export(tagged, ALL, into(tagged.folder / "shards"))
    with pytest.raises(RequestError, match=r"must end in \.tar and have one place for the shard's number"):
        export(tagged, ALL, str(tmp_path / "one.tar"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "manifest.json").write_text("{}")
    with pytest.raises(RequestError, match=r"has a manifest\.json of something else"):
        export(tagged, ALL, into(tmp_path / "two"))
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "00007.parquet").write_text("of something else")
    with pytest.raises(RequestError, match=r"00007\.parquet"):
        export(tagged, ALL, into(tmp_path / "three"))
    assert contents(tmp_path / "one") == {name[4:]: digest for name, digest in before.items()}


@pytest.mark.slow
def test_killed_at_every_step_of_every_write(tagged: World, tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tagged.store)
    command = [sys.executable, "-m", "tests.flows.dying_export", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == [] and result["steps"] > 20
    assert len(result["files"]) == 2 * 4 + 2, "shards with an index each, the record and the manifest"


def test_a_disk_that_fills_up_ends_it_and_the_same_goes_on(tagged: World, tmp_path: Path) -> None:
    fsspec.register_implementation("full", FullDisk, clobber=True)
    FullDisk.steps, FullDisk.full_at = 0, 10
    try:
        with pytest.raises(RunError, match="shards that are whole stay, and the same command goes on"):
            export(tagged, ALL, f"full://{into(tmp_path)}", samples_per_shard=4)
        FullDisk.full_at = 0
        with pytest.raises(StoreError, match="cannot write"):
            export(tagged, ALL, f"full://{into(tmp_path / 'new')}")
    finally:
        FullDisk.full_at = NEVER
    summary = export(tagged, ALL, f"full://{into(tmp_path)}", samples_per_shard=4)
    assert summary.ok and summary.kept == 1 and summary.samples == 15


class CountingDisk(HookedDisk):
    """Counts how often each tar is opened to be read."""

    protocol = "counting"
    opened: ClassVar[Counter[str]] = Counter()

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if path.endswith(".tar") and mode == "rb":
            self.opened[Path(path).name] += 1
        return super().open(path, mode, **options)


def test_each_source_is_read_once_and_only_where_needed(tmp_path: Path) -> None:
    fsspec.register_implementation("counting", CountingDisk, clobber=True)
    world = make_scenes_world(tmp_path)
    world.tag(shards=(f"counting://{tmp_path}/shards/*.tar",))
    CountingDisk.opened.clear()
    export(world, f"{ALL} where shard <> '00001'", samples_per_shard=3)
    assert CountingDisk.opened == {"00000.tar": 1, "00002.tar": 1}
    (tmp_path / "out" / "00003.parquet").unlink()
    CountingDisk.opened.clear()
    assert export(world, f"{ALL} where shard <> '00001'", samples_per_shard=3).kept == 3
    assert CountingDisk.opened == {"00002.tar": 1}


def test_from_store_to_store(tagged: World, bucket: str, tmp_path: Path) -> None:
    source = Folder(f"{bucket}/shards")
    for path in sorted((tagged.folder / "shards").glob("*.tar")):
        source.write_bytes(path.name, path.read_bytes())
    store = f"{bucket}/store"
    tagged.tag(shards=(f"{bucket}/shards/*.tar",), store=store)
    summary = export(tagged, ALL, f"{bucket}/out/{{:05d}}.tar", store=store, samples_per_shard=4)
    assert summary.ok and summary.files[0] == f"{bucket}/out/00000.tar"
    export(tagged, ALL, into(tmp_path), samples_per_shard=4)
    for url in summary.files:
        assert exported(url) == exported(str(tmp_path / Path(url).name))
    out = Folder(f"{bucket}/out")
    out.remove("00001.parquet")
    assert export(tagged, ALL, f"{bucket}/out/{{:05d}}.tar", store=store, samples_per_shard=4).kept == 3
    source.remove("00000.tar")
    out.remove("00000.parquet")
    again = export(tagged, ALL, f"{bucket}/out/{{:05d}}.tar", store=store, samples_per_shard=4)
    assert [(each.shard, len(each.keys)) for each in again.missing] == [("00000", 4)] and again.samples == 11
    labels = export(tagged, ALL, f"{bucket}/labels.parquet", store=store, format="parquet")
    assert pq.read_table(labels.files[0].removeprefix("s3://"), filesystem=out.fs).num_rows == 15


# --- labels without pictures -----------------------------------------------------------------------------------------


def test_a_csv_opens_as_a_table(tagged: World, tmp_path: Path) -> None:
    to = str(tmp_path / "labels.csv")
    assert export(tagged, ALL, to, format="csv").samples == 15
    relation = duckdb.sql(
        "select key, label_id, score::float as score from "
        "(select key, unnest(string_split(labels, ';')) as label_id, unnest(string_split(scores, ';')) as score "
        f"from read_csv('{to}', all_varchar = true) where labels <> '') order by all"
    )
    assert relation.fetchall() == tagged.ask("select key, label_id, score from tags order by all")
    places = duckdb.sql(f"select dataset, shard, sample, key from read_csv('{to}', types = {{'shard': 'varchar'}})")
    assert places.fetchall() == tagged.ask("select dataset, shard, sample, key from samples order by all")


def test_a_parquet_file_opens_as_a_table(tagged: World, tmp_path: Path) -> None:
    to = str(tmp_path / "labels.parquet")
    summary = export(tagged, ALL, to, format="parquet")
    rows = duckdb.sql(f"select key, t.label_id, t.score from (select key, unnest(tags) as t from '{to}') order by all")
    tags = tagged.ask("select key, label_id, score from tags order by all")
    assert rows.fetchall() == tags and summary.tags == len(tags) > 5
    sizes = duckdb.sql(f"select key, width, height, sha256 from '{to}' order by all").fetchall()
    assert sizes == tagged.ask("select key, width, height, sha256 from samples order by all")


def test_coco_has_pictures_categories_and_an_annotation_for_each_tag(tagged: World, tmp_path: Path) -> None:
    to = tmp_path / "labels.json"
    export(tagged, TAGGED, str(to), format="coco")
    value = json.loads(to.read_text())
    images = {image["id"]: image for image in value["images"]}
    categories = {category["id"]: category for category in value["categories"]}
    assert {category["name"]: category["display_name"] for category in categories.values()} == {
        label_id: label_id.replace("-", " ") for label_id in LABELS
    }
    found = []
    for annotation in value["annotations"]:
        image = images[annotation["image_id"]]
        assert annotation["bbox"] == [0, 0, image["width"], image["height"]] and annotation["iscrowd"] == 0
        assert annotation["area"] == image["width"] * image["height"]
        found.append((image["file_name"], categories[annotation["category_id"]]["name"], annotation["score"]))
    assert sorted(found) == tagged.ask("select key, label_id, score from tags order by all")
    assert len({annotation["id"] for annotation in value["annotations"]}) == len(found)


@pytest.mark.parametrize("format", ["csv", "coco"])
def test_tags_can_come_back_as_answers(tagged: World, tmp_path: Path, format: str) -> None:
    """A person who corrects the file brings it back with `annotations import`."""
    to = str(tmp_path / f"labels.{format}")
    export(tagged, TAGGED, to, format=format)
    store = tmp_path / "store"
    shutil.copytree(tagged.store, store)
    request = ImportRequest(store=str(store), file=to, taxonomy=str(tagged.taxonomy))
    report = run_import(request)
    tags = tagged.ask("select distinct key, label_id from tags order by all")
    asked = "select distinct key, label_id from annotations where source not like '%side%' and value = 1 order by all"
    assert report.ok and set(tags) <= set(tagged.ask(asked, str(store)))


def test_labels_go_into_a_file(tagged: World, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder; name a file in it"):
        export(tagged, ALL, f"{tmp_path}/", format="csv")


def test_a_run_alone_with_its_own_tags(tmp_path: Path) -> None:
    world = make_scenes_world(tmp_path, shards=2)
    first = world.tag(shards=(str(tmp_path / "shards" / "00000.tar"),))
    world.tag(floor=0.3)
    run_id = next(iter(first.reports.values())).run_id
    done = export(world, "select key, shard from samples", into(tmp_path / "run"), run=run_id)
    manifest = json.loads(Path(done.manifest or "").read_text())
    assert done.samples == 5 and manifest["record"]["run_id"] == run_id
    with open_catalog(world.store, run_id=run_id) as connection:
        tags = run_query(connection, "select key, label_id from tags").to_pylist()
    written = {
        (key, tag["label_id"]) for key, each in exported(*done.files).items() for tag in said(each)[TAGS_KEY]["tags"]
    }
    assert written == {(row["key"], row["label_id"]) for row in tags}
    everything = export(world, "select key, shard from samples", into(tmp_path / "all"))
    assert everything.samples == 10
    assert json.loads(Path(everything.manifest or "").read_text())["record"]["run_id"] is None


# --- the command -----------------------------------------------------------------------------------------------------


def command(*words: str) -> Any:
    return CliRunner().invoke(app, ["export", *words])


def test_the_command_says_what_it_did(tagged: World, tmp_path: Path) -> None:
    words = ("--store", tagged.store, "--sql", TAGGED, "--to", into(tmp_path), "--samples-per-shard", "4")
    done = command(*words)
    assert done.exit_code == 0 and "samples: " in done.stdout and "manifest.json" in done.stdout
    again = json.loads(command(*words, "--json").stdout)
    assert again["kept"] == len(again["files"]) > 1 and again["missing"] == [] and again["format"] == "webdataset"
    for name, format in (("x.csv", "csv"), ("x.parquet", "parquet"), ("x.json", "coco")):
        to = str(tmp_path / name)
        done = command("--store", tagged.store, "--sql", TAGGED, "--to", to, "--json")
        assert done.exit_code == 0 and json.loads(done.stdout)["format"] == format and Path(to).stat().st_size > 100


def test_the_command_refuses_and_fails_by_its_exit_code(tmp_path: Path) -> None:
    world = make_odd_world(tmp_path)
    for words, message in (
        (("--sql", "select key from samples", "--to", into(tmp_path / "o")), "select dataset and shard too"),
        (("--sql", ALL, "--to", str(tmp_path / "x.txt")), "unknown suffix '.txt'"),
        (("--sql", "drop table x", "--to", into(tmp_path / "o")), "read-only"),
        (("--sql", ALL, "--to", into(tmp_path / "o"), "--model", "none"), "unknown model 'none'"),
        (("--sql", ALL, "--to", into(tmp_path / "o"), "--run", "none"), "unknown run 'none'"),
        (("--sql", ALL, "--to", into(tmp_path / "o"), "--run", "world", "--model", "x"), "leave out --model x"),
    ):
        done = command("--store", world.store, *words)
        assert isinstance(done.exception, RequestError) and message in str(done.exception)
    assert not (tmp_path / "o").exists()
    done = command("--store", world.store, "--sql", ALL, "--to", into(tmp_path / "o"))
    assert done.exit_code == 1 and "samples not exported: 1;" in done.stdout


def test_the_command_loads_neither_torch_nor_prefect(tagged: World, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom flows.cli.app import app\n"
        f"app(['export', '--store', {tagged.store!r}, '--sql', {ALL!r}, '--to', {into(tmp_path)!r}], "
        "standalone_mode=False)\n"
        "assert not {'torch', 'prefect'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
