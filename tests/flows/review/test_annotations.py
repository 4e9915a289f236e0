"""`annotations import`: words become labels, pictures become samples, and what is known already stays as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.annotations import run_import
from schemas.annotations import ImportReport, ImportRequest
from schemas.config import make_request
from schemas.errors import ConfigError, RequestError, StoreError
from schemas.taxonomy import parse_taxonomy
from storage.annotations import read_answers
from storage.catalog import open_catalog
from storage.files import Folder
from storage.taxonomies import put_in_force, write_taxonomy
from tests.stores import OK, Shard, make_model, make_run, make_taxonomy

TAXONOMY = """
name: street
labels:
  - {id: dog, name: Dog, synonyms: [canine]}
  - {id: hound, name: hound, merged_into: dog}
  - {id: red-car, name: red car}
  - {id: pager, name: pager, retired: true}
"""


class Store:
    """A store of one dataset `street` with one shard `0` of the samples `x/a`, `x/b` and `c`, and a taxonomy."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, str(root / "store")
        self.folder = Folder(self.url)
        make_model(self.folder)
        make_run(
            self.folder,
            "r1",
            make_taxonomy("dog"),
            {"0": Shard(scores={}, keys=["x/a", "x/b", "c"], statuses=[OK] * 3)},
        )
        (root / "taxonomy.yaml").write_text(TAXONOMY)

    def bring(self, text: Any, name: str = "a.csv", **options: Any) -> ImportReport:
        """Import a file of this content."""
        path = self.root / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        request = {"store": self.url, "file": str(path), "taxonomy": str(self.root / "taxonomy.yaml"), **options}
        return run_import(make_request(ImportRequest, **request))

    def said(self, key: str, dataset: str = "street") -> dict[str, int | None]:
        return {label: answer.value for label, answer in read_answers(self.folder).of(dataset, "0", key).items()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_words_become_the_labels_that_they_name_and_merged_ones_stay_themselves(store: Store) -> None:
    report = store.bring("key,label,value\nx/a,CANINE,1\nx/a,Hound,no\nx/a,red-car,\nc,dog,1\n")
    assert store.said("x/a") == {"dog": 1, "hound": 0, "red-car": None}
    assert (report.rows, report.samples, report.labels, report.new, report.ok) == (4, 2, 3, True, True)
    assert report.lines() == [f"answers: 4, labels: 3, pictures: 2; written to {report.path}"]


def test_the_same_file_twice_changes_nothing_and_says_so(store: Store) -> None:
    text = "key,label\nx/a,dog\n"
    first = store.bring(text)
    before = Path(store.folder.path(first.path)).read_bytes()
    again = store.bring(text)
    assert not again.new and again.path == first.path and "nothing changed" in again.lines()[0]
    assert Path(store.folder.path(first.path)).read_bytes() == before


def test_what_the_file_does_not_say_the_request_says(store: Store) -> None:
    at = "2026-05-31T12:00"
    store.bring("key,label,dataset,source\nx/a,dog,,\nx/b,dog,other,Ana\n", dataset="street", source="Bo", at=at)
    answers = read_answers(store.folder)
    first, second = answers.of("street", "0", "x/a")["dog"], answers.of("other", "0", "x/b")["dog"]
    assert (first.source, second.source) == ("Bo", "Ana")
    assert first.at == second.at == datetime(2026, 5, 31, 12, tzinfo=UTC)
    assert store.said("x/a", "other") == {}
    store.bring("key,label\nc,dog\n", name="by hand.csv")
    assert read_answers(store.folder).of("any", "any", "c")["dog"].source == "by hand.csv"


def test_what_means_nothing_is_counted_and_named(store: Store) -> None:
    report = store.bring(
        "path,labels,absent\na.jpg,dog;horse,horse\nb.jpg,pager,\nnew/d.jpg,dog,\nx/c.jpg,dog;whale,\n,dog,\n"
    )
    assert store.said("x/a") == store.said("c") == store.said("new/d") == {"dog": 1}
    assert (report.rows, report.samples) == (4, 4)
    assert (report.unknown_words.count, report.unknown_words.examples) == (2, ("horse", "whale"))
    assert (report.unknown_keys.count, report.unknown_keys.examples) == (1, ("new/d",))
    assert not report.ok and report.bad.examples == ("line 6: path is empty",)
    text = "\n".join(report.lines())
    assert "'horse', 'whale'" in text and "'new/d'" in text and "line 6" in text


def test_spaces_about_a_key_count_only_where_a_sample_has_them(store: Store) -> None:
    make_run(store.folder, "r2", make_taxonomy("dog"), {"1": Shard(scores={}, keys=["c "], statuses=[OK])})
    report = store.bring("key,label,dataset,shard\nx/a ,dog,street ,0 \nc ,dog,,\n new,dog,,\n")
    assert store.said("x/a") == {"dog": 1} and store.said("c") == {}
    assert read_answers(store.folder).of("street", "1", "c ").keys() == {"dog"}
    assert report.unknown_keys.examples == (" new",) and report.misplaced.count == 0


def test_a_row_whose_key_and_path_are_two_pictures_is_bad(store: Store) -> None:
    report = store.bring(
        "key,path,label\nx/a,b.jpg,dog\nx/b,y/x/b.jpg,dog\nc,nowhere.jpg,dog\nx/a,,dog\nown,c.png,dog\n"
    )
    assert (report.rows, report.bad.count) == (4, 1)
    (said,) = report.bad.examples
    assert said == "key 'x/a' and path 'b.jpg' name two pictures (the path is 'x/b'); leave one of them empty"
    with pytest.raises(RequestError, match="has 1 row, and none can be read:\n  key 'x/a' and path 'b.jpg' name two"):
        store.bring("key,path,label,shard\nx/a,b.jpg,dog,0.tar\n", dataset="street")


COCO = {
    "images": [{"id": n, "file_name": f"{name}.jpg"} for n, name in enumerate(("a", "b", "c"))],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "red car"}, {"id": 3, "name": "unheard of"}],
    "annotations": [{"image_id": 0, "category_id": 1}],
}


def test_a_complete_file_says_no_to_what_it_does_not_name(store: Store) -> None:
    store.bring(COCO, name="a.json")
    assert [store.said(key) for key in ("x/a", "x/b", "c")] == [{"dog": 1}, {}, {}]
    report = store.bring(COCO, name="a.json", complete=True)
    assert store.said("x/a") == {"dog": 1, "red-car": 0}
    assert store.said("x/b") == store.said("c") == {"dog": 0, "red-car": 0}
    assert (report.rows, report.samples, report.labels, report.unknown_words.count) == (6, 3, 2, 1)


def test_a_complete_file_of_single_answers_is_taken_together(store: Store) -> None:
    text = "key,label,value,at\nx/a,dog,,2026-05-01\nx/a,red car,1,2026-05-02\nx/b,dog,1,2026-05-03\n"
    store.bring(text, complete=True)
    assert store.said("x/a") == {"dog": None, "red-car": 1}
    assert store.said("x/b") == {"dog": 1, "red-car": 0}
    assert read_answers(store.folder).of("", "", "x/b")["red-car"].at == datetime(2026, 5, 3, tzinfo=UTC)


def test_a_path_that_fits_several_keys_is_left_out(store: Store) -> None:
    shard = Shard(scores={}, keys=["y/a"], statuses=[OK])
    make_run(store.folder, "r2", make_taxonomy("dog"), {"0": shard}, dataset="other", hours=1)
    report = store.bring("path,labels\na.jpg,dog\nx/b.jpg,dog\n")
    assert report.ambiguous.examples == ("a.jpg",) and "write keys" in report.lines()[1]
    assert store.said("x/a") == {} and store.said("x/b") == {"dog": 1}
    assert store.bring("path,labels\na.jpg,dog\n", dataset="street").ambiguous.count == 0
    assert store.said("x/a") == {"dog": 1}
    with pytest.raises(RequestError, match="several keys would fit 1 path of them"):
        store.bring("path,labels\na.jpg,dog\n")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("key,label\nz,dog\n", {}, r"pictures, none of them in the store: 1 \('z'\); the store has keys such as 'c'"),
        ("key,label\nz,dog\n", {"dataset": "park"}, "none of them in dataset 'park' of the store"),
        (
            "key,label\nc,dog\n",
            {"dataset": "park"},
            "'c' is not in dataset 'park', but in shard '0' of dataset 'street'",
        ),
        (
            "path,label,shard\na.jpg,dog,7.tar\nx/b,dog,7\n",
            {},
            "'a.jpg' is not in shard '7', but in shard '0' of dataset 'street'; 'x/b' is not in shard '7'",
        ),
        (
            "key,label\nc,horse\n",
            {},
            r"none of them a label of 'street': 1 \('horse'\); the taxonomy knows dog, red-car",
        ),
        ("key,label,value\nc,dog,2\n,,\n", {}, r"has 1 row, and none can be read:\n  line 2: value '2'"),
        ("key,label\n", {}, "says nothing about any picture"),
        ("path,labels\nc.jpg,\n", {}, "names no label on any picture$"),
        (
            "path,labels,at\nc.jpg,,\nc.jpg,dog,soon\n",
            {},
            r"on any picture \(1 row cannot be read: line 3: 'soon'",
        ),
        ("key,label\nc,dog\n", {"taxonomy": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_file_that_says_nothing_is_refused_and_nothing_is_written(
    store: Store, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        store.bring(text, **options)
    assert len(read_answers(store.folder)) == 0


def test_requests_that_cannot_be_carried_out(store: Store) -> None:
    with pytest.raises(StoreError, match="no taxonomy is applied"):
        store.bring("key,label\nc,dog\n", taxonomy="applied")
    with pytest.raises(StoreError, match="there is no store"):
        store.bring("key,label\nc,dog\n", store=str(store.root / "elsewhere"))
    with pytest.raises(ConfigError, match="at = 'soon'"):
        store.bring("key,label\nc,dog\n", at="soon")
    with pytest.raises(ConfigError, match="at = 2999-01-01T00:00:00.* is in the future: it is 2"):
        store.bring("key,label\nc,dog\n", at="2999-01-01")


def test_coco_without_annotations_is_told_of_complete(store: Store) -> None:
    bare = COCO | {"annotations": []}
    with pytest.raises(
        RequestError, match="names no label on any picture; it lists dog, red car, unheard of: .*--complete"
    ):
        store.bring(bare, name="a.json")
    assert store.bring(bare, name="a.json", complete=True).rows == 6


def test_answers_about_retired_labels_are_kept_and_hold_when_the_label_is_restored(store: Store) -> None:
    report = store.bring("key,label\nx/a,Pager\n")
    assert store.said("x/a") == {"pager": 1} and report.ok
    assert report.retired.examples == ("pager",) and "kept, and count if the label is restored" in report.lines()[1]
    for text, truth in ((TAXONOMY, []), (TAXONOMY.replace(", retired: true", ""), [("x/a", "pager", 1)])):
        taxonomy = parse_taxonomy(text)
        write_taxonomy(store.folder, taxonomy)
        put_in_force(store.folder, taxonomy)
        with open_catalog(store.folder) as connection:
            assert connection.execute("select key, label_id, value from ground_truth").fetchall() == truth


def test_contradictions_within_a_file_are_named(store: Store) -> None:
    report = store.bring(
        "key,label,value,at\nx/a,dog,1,\nx/a,canine,0,\nx/b,dog,1,2026-05-01\nx/b,dog,0,2026-05-02\nc,dog,,\nc,dog,1,\n"
    )
    assert report.contradictions.examples == ("x/a: dog",) and "the yes counts" in report.lines()[1]
    assert store.said("x/a") == {"dog": 1} and store.said("x/b") == {"dog": 0}


def test_rows_of_the_future_are_left_out(store: Store) -> None:
    report = store.bring("key,label,at\nx/a,dog,2999-01-01\nx/b,dog,\n")
    assert report.rows == 1 and report.bad.examples[0].startswith("line 2: '2999-01-01' is in the future")
    assert store.said("x/a") == {} and not report.ok


def test_answers_that_something_newer_takes_the_place_of_are_counted(store: Store) -> None:
    first = "key,label,value\nx/a,dog,1\nx/b,dog,1\n"
    assert store.bring(first).outdated == 0
    assert store.bring("key,label,value,dataset,shard\nx/a,dog,0,street,0.tar\n").outdated == 0
    again = store.bring(first)
    assert not again.new and again.outdated == 1 and "answers that do not count: 1;" in again.lines()[1]
    assert store.bring("key,label,value\nx/a,dog,0\nc,dog,1\n", at="2026-01-01").outdated == 1
    assert store.bring("key,label,dataset\nx/a,dog,other\nc,dog,\n", at="2026-01-02").outdated == 1
    assert store.said("x/a") == {"dog": 0}


def test_a_shard_may_be_written_as_its_file_is_called(store: Store) -> None:
    report = store.bring("key,label,shard\nx/a,dog,0.tar\nx/b,dog,0.tar.gz\nc,dog,1\n")
    assert store.said("x/a") == store.said("x/b") == {"dog": 1} and store.said("c") == {}
    assert report.unknown_keys.count == 0 and report.misplaced.count == 1
    assert report.lines()[-1] == "  'c' is not in shard '1', but in shard '0' of dataset 'street'"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, and let it say at its end what it has loaded."""
    program = "import sys; from flows.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    return subprocess.run(
        [sys.executable, "-c", program, "annotations", "import", *words], capture_output=True, text=True, check=False
    )


def test_the_command_takes_the_applied_taxonomy(store: Store) -> None:
    taxonomy = parse_taxonomy(TAXONOMY)
    write_taxonomy(store.folder, taxonomy)
    put_in_force(store.folder, taxonomy)
    answers = store.root / "answers.csv"
    answers.write_text("key,label,value\nx/a,Canine,1\nx/b,red car,0\n")
    done = command(str(answers), "--store", store.url, "--json", "--source", "Ana", "--dataset", "street")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["format"], report["taxonomy"], report["new"]) == (2, "csv", "street", True)
    assert not {"torch", "prefect"} & set(done.stderr.split())
    with open_catalog(store.folder) as connection:
        shown = connection.execute("select dataset, key, label_id, value, source from annotations order by key")
        assert shown.fetchall() == [("street", "x/a", "dog", 1, "Ana"), ("street", "x/b", "red-car", 0, "Ana")]


def test_rows_that_cannot_be_read_are_exit_1(store: Store) -> None:
    (store.root / "answers.csv").write_text("key,label,value\nx/a,dog,1\nc,dog,perhaps\n")
    words = (str(store.root / "answers.csv"), "--store", store.url, "--taxonomy", str(store.root / "taxonomy.yaml"))
    done = command(*words)
    assert done.returncode == 1 and "line 3: value 'perhaps'" in done.stdout
    assert store.said("x/a") == {"dog": 1}
