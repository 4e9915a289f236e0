"""The views: which rows they show, with which columns, and that DuckDB still reads as little as it can."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.checkpoint import CalibrationRow
from schemas.errors import ModelError, StoreError
from schemas.manifest import DEFAULT_THRESHOLD, Fingerprint
from schemas.sample import SampleStatus
from schemas.tables import ANNOTATIONS, ANY_LABEL
from schemas.taxonomy import Label
from storage.catalog import open_catalog
from storage.checkpoints import calibration_bytes
from storage.files import Folder
from storage.models import CALIBRATION_FILE
from storage.query import run_query
from tests.stores import NOON, OK, Shard, make_model, make_run, make_taxonomy

COLUMNS = {
    "quality": "dataset shard sample key width height megapixels aspect bytes sha256 phash brightness contrast "
    "sharpness",
    "duplicates": "dataset shard sample key group_id representative reason cosine",
    "samples": "dataset shard sample key status error width height bytes sha256 run_id",
    "scores": "dataset shard sample key label_id logit score run_id model_id scorer",
    "all_scores": "dataset shard sample key label_id logit score run_id model_id scorer",
    "tags": "dataset shard sample key label_id label score logit threshold seen run_id model_id scorer",
    "labels": "dataset label_id name parent merged_into retired active seen threshold description synonyms",
    "runs": "run_id dataset model_id scorer taxonomy_digest labels shards samples failed floor top_k calibration "
    "complete created_at finished_at",
    "failures": "dataset shard sample key status error width height bytes sha256 run_id",
    "annotations": "dataset shard key label_id value source at",
    "ground_truth": "dataset shard sample key label_id value source at",
    "thresholds": "model_id scorer label_id threshold source",
    "models": "model_id name kind architecture encoder_id text_encoder_id scorers calibration slope intercept "
    "seen_labels promoted",
}
ANT_BEE = make_taxonomy("ant", "bee")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty store whose path has everything that could go wrong in SQL."""
    path = tmp_path / "it's a stôre %41 [x]* {a,b}"
    path.mkdir()
    return Folder(str(path))


def ask(store: Folder | str, query: str, model_id: str | None = None) -> list[tuple[Any, ...]]:
    with open_catalog(store, model_id=model_id) as connection:
        return connection.execute(query).fetchall()


def described(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    names = [row[0] for row in connection.execute("SHOW TABLES").fetchall()]
    return {name: [row[:2] for row in connection.execute(f"DESCRIBE {name}").fetchall()] for name in names}


def test_an_empty_store_has_every_view_with_the_columns_of_a_full_one(folder: Folder) -> None:
    with open_catalog(folder) as connection:
        empty = described(connection)
        assert all(connection.execute(f"FROM {name}").fetchall() == [] for name in empty)
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9, 0.1, 0.2]})})
    with open_catalog(folder) as connection:
        assert described(connection) == empty
    assert {name: " ".join(column for column, _ in columns) for name, columns in empty.items()} == COLUMNS


def test_scores_come_with_keys_and_tags_with_names(folder: Folder) -> None:
    make_model(folder, seen=["ant"])
    keys = ["a/b.c", "it's", '日本 \\ "x"']
    make_run(
        folder, "r1", ANT_BEE, {"x y/00%0": Shard(scores={"ant": [0.9, 0.4, 0.5], "bee": [0.6, None, 0.1]}, keys=keys)}
    )
    assert ask(folder, "SELECT key, label_id, round(score, 3) FROM scores ORDER BY label_id, sample") == [
        (keys[0], "ant", pytest.approx(0.9)),
        (keys[1], "ant", pytest.approx(0.4)),
        (keys[2], "ant", pytest.approx(0.5)),
        (keys[0], "bee", pytest.approx(0.6)),
        (keys[2], "bee", pytest.approx(0.1)),
    ]
    assert ask(
        folder, "SELECT dataset, shard, sample, key, label_id, label, threshold, seen, run_id FROM tags ORDER BY ALL"
    ) == [
        ("street", "x y/00%0", 0, keys[0], "ant", "ANT", DEFAULT_THRESHOLD, True, "r1"),
        ("street", "x y/00%0", 0, keys[0], "bee", "BEE", DEFAULT_THRESHOLD, False, "r1"),
        ("street", "x y/00%0", 2, keys[2], "ant", "ANT", DEFAULT_THRESHOLD, True, "r1"),
    ]


def test_the_newest_run_of_a_label_counts_with_the_rows_it_did_not_keep(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "old", ANT_BEE, {"0": Shard(scores={"ant": [0.9, 0.8, 0.7], "bee": [0.9, 0.8, 0.7]})})
    make_run(folder, "new", ANT_BEE, {"0": Shard(scores={"ant": [0.6, None, None]})}, hours=1, labels=["ant"])
    shown = "SELECT label_id, sample, run_id FROM scores ORDER BY ALL"
    assert ask(folder, shown) == [("ant", 0, "new"), ("bee", 0, "old"), ("bee", 1, "old"), ("bee", 2, "old")]
    assert ask(folder, "SELECT run_id, count(*) FROM all_scores GROUP BY 1 ORDER BY 1") == [("new", 1), ("old", 6)]
    assert ask(folder, "SELECT DISTINCT run_id FROM samples") == [("new",)]


def test_rows_of_bytes_that_the_shard_no_longer_has_are_hidden_yet_keep_their_keys(folder: Folder) -> None:
    make_model(folder)
    changed = Fingerprint(size=2, tag="second")
    make_run(folder, "old", ANT_BEE, {"0": Shard(scores={"bee": [0.9] * 3}, keys=["p", "q", "r"])})
    shard = Shard(scores={"ant": [0.9] * 2}, keys=["s", "t"], statuses=(OK, OK), fingerprint=changed)
    make_run(folder, "new", ANT_BEE, {"0": shard}, hours=1, labels=["ant"])
    assert ask(folder, "SELECT key, label_id FROM scores ORDER BY ALL") == [("s", "ant"), ("t", "ant")]
    assert ask(folder, "SELECT key FROM samples ORDER BY ALL") == [("s",), ("t",)]
    old = "SELECT key FROM all_scores WHERE run_id = 'old' ORDER BY ALL"
    assert ask(folder, old) == [("p",), ("q",), ("r",)]


def test_an_incomplete_run_shows_the_shards_that_have_a_report(folder: Folder) -> None:
    make_model(folder)
    shard = Shard(scores={"ant": [0.9] * 3}, statuses=(OK, SampleStatus.EMPTY, OK))
    make_run(folder, "r1", ANT_BEE, {"0": shard}, complete=False)
    stray = Path(folder.path("runs/r1/scores/1.parquet"))
    stray.write_bytes(b"half a file")
    assert ask(folder, "SELECT count(*) FROM scores") == [(3,)]
    assert ask(folder, "SELECT shards, samples, failed, labels, complete, finished_at FROM runs") == [
        (1, 3, 1, 2, False, None)
    ]
    assert ask(folder, "SELECT sample, status FROM failures") == [(1, "empty")]


def test_merged_labels_answer_as_one_with_the_best_score(folder: Folder) -> None:
    make_model(folder)
    before = make_taxonomy("dog", "hound", "whelp", "cat", "pager")
    scores = {
        "dog": [0.6, 0.1, 0.2],
        "hound": [0.8, 0.7, 0.3],
        "whelp": [0.5, 0.9, 0.4],
        "cat": [0.9] * 3,
        "pager": [0.9] * 3,
    }
    make_run(folder, "r1", before, {"0": Shard(scores=scores)})
    after = make_taxonomy(
        Label(id="dog", name="Dog"),
        Label(id="hound", name="hound", merged_into="dog"),
        Label(id="whelp", name="whelp", merged_into="hound"),
        "cat",
        Label(id="pager", name="pager", retired=True),
    )
    assert ask(folder, "SELECT count(*) FROM tags WHERE label_id = 'pager'") == [(3,)]
    make_run(folder, "r2", after, {"0": Shard(scores={"cat": [0.9] * 3})}, hours=1, labels=["cat"])
    assert ask(
        folder, "SELECT sample, key, label, round(score, 3), run_id FROM tags WHERE label_id = 'dog' ORDER BY 1"
    ) == [
        (0, "0/0.é x", "Dog", pytest.approx(0.8), "r1"),
        (1, "0/1.é x", "Dog", pytest.approx(0.9), "r1"),
    ]
    assert ask(folder, "SELECT label_id, count(*) FROM tags GROUP BY 1 ORDER BY 1") == [("cat", 3), ("dog", 2)]
    assert ask(folder, "SELECT merged_into FROM labels WHERE NOT active ORDER BY label_id") == [
        ("dog",),
        (None,),
        ("hound",),
    ]


def test_taxonomies_of_one_name_replace_each_other_and_of_two_names_stand_together(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", make_taxonomy("ant", "bee"), {"0": Shard(scores={"ant": [0.9] * 3, "bee": [0.9] * 3})})
    make_run(folder, "r2", make_taxonomy("fog", name="weather"), {"0": Shard(scores={"fog": [0.9] * 3})}, hours=1)
    assert ask(folder, "SELECT DISTINCT label_id FROM tags ORDER BY 1") == [("ant",), ("bee",), ("fog",)]
    make_run(
        folder, "r3", make_taxonomy("bee", "cow"), {"0": Shard(scores={"cow": [0.9] * 3})}, hours=2, labels=["cow"]
    )
    assert ask(folder, "SELECT DISTINCT label_id FROM tags ORDER BY 1") == [("bee",), ("cow",), ("fog",)]
    assert ask(folder, "SELECT count(*) FROM scores WHERE label_id = 'ant'") == [(3,)]


def test_grouping_is_paid_for_only_where_scores_were_merged(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9] * 3})})
    assert "GROUP" not in explained(folder, "FROM tags").upper()


def test_a_filter_on_labels_reaches_the_parquet_scan(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9] * 3, "bee": [0.9] * 3})})
    for view in ("scores", "tags", "all_scores"):
        plan = explained(folder, f"SELECT count(*) FROM {view} WHERE label_id = 'ant'")
        scan = plan[plan.index("READ_PARQUET") :]
        assert "label_id = 'ant'" in scan.replace('"', ""), plan
        assert "logit" not in scan, "columns that nobody asked for are not read"


def explained(folder: Folder, query: str) -> str:
    return str(ask(folder, f"EXPLAIN {query}")[0][1])


def test_the_promoted_model_is_shown_and_any_other_on_request(folder: Folder) -> None:
    make_model(folder, "m1", seen=["ant"])
    make_model(folder, "m2", seen=["bee"])
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9] * 3})})
    make_run(folder, "r2", ANT_BEE, {"0": Shard(scores={"bee": [0.9] * 3})}, model_id="m2", hours=1)
    assert ask(folder, "SELECT DISTINCT model_id, label_id FROM scores") == [("m2", "bee")]
    assert ask(folder, "SELECT DISTINCT model_id, label_id FROM tags", model_id="m1") == [("m1", "ant")]
    assert ask(folder, "SELECT label_id FROM labels WHERE seen") == [("bee",)]
    assert ask(folder, "SELECT model_id, promoted FROM models ORDER BY 1") == [("m1", False), ("m2", True)]
    assert ask(folder, "SELECT DISTINCT model_id FROM all_scores ORDER BY 1") == [("m1",), ("m2",)]
    with pytest.raises(ModelError, match=r"'m9'; known: m1, m2"):
        open_catalog(folder, model_id="m9")


def test_without_a_promoted_model_the_newest_run_decides(folder: Folder) -> None:
    make_model(folder, "m1", promoted=False)
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9] * 3})})
    assert ask(folder, "SELECT count(*) FROM tags") == [(3,)]


def calibrate(folder: Folder, model_id: str, **thresholds: float) -> None:
    """Write a calibration of the scorer `clip`; `any` is the row for all other labels."""
    rows = [
        CalibrationRow(
            scorer="clip",
            label_id=ANY_LABEL if label == "any" else label,
            slope=1,
            intercept=0,
            threshold=value,
            positives=3,
        )
        for label, value in thresholds.items()
    ]
    folder.write_bytes(f"models/{model_id}/{CALIBRATION_FILE}", calibration_bytes(rows))


def test_calibrated_thresholds_replace_the_default(folder: Folder) -> None:
    make_model(folder, "m1")
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9, 0.2, 0.1], "bee": [0.6, 0.4, 0.3]})})
    calibrate(folder, "m1", ant=0.0)
    assert ask(folder, "FROM thresholds ORDER BY label_id") == [
        ("m1", "clip", "ant", 0.0, "calibration"),
        ("m1", "clip", "bee", DEFAULT_THRESHOLD, "default"),
    ]
    assert ask(folder, "SELECT label_id, count(*) FROM tags GROUP BY 1 ORDER BY 1") == [("ant", 3), ("bee", 1)]


def test_a_novel_label_has_the_threshold_of_any_label(folder: Folder) -> None:
    make_model(folder, "m1")
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9, 0.2, 0.1], "bee": [0.6, 0.4, 0.3]})})
    calibrate(folder, "m1", ant=0.5, any=0.35)
    assert ask(folder, "SELECT label_id, threshold, source FROM thresholds ORDER BY 1") == [
        ("ant", 0.5, "calibration"),
        ("bee", 0.35, "novel"),
    ]
    assert ask(folder, "SELECT label_id, threshold FROM labels ORDER BY 1") == [("ant", 0.5), ("bee", 0.35)]
    assert ask(folder, "SELECT label_id, count(*) FROM tags GROUP BY 1 ORDER BY 1") == [("ant", 1), ("bee", 2)]


def test_each_scorer_has_thresholds_of_its_own(folder: Folder) -> None:
    make_model(folder, "m1")
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9, 0.4, 0.1]})}, labels=["ant"])
    make_run(folder, "r2", ANT_BEE, {"0": Shard(scores={"bee": [0.9, 0.4, 0.1]})}, labels=["bee"], scorer="fused")
    calibrate(folder, "m1", any=0.3)
    assert ask(folder, "SELECT label_id, scorer, threshold, count(*) FROM tags GROUP BY ALL ORDER BY 1") == [
        ("ant", "clip", 0.3, 2),
        ("bee", "fused", DEFAULT_THRESHOLD, 1),
    ]


def test_annotations_are_read_from_all_their_files(folder: Folder) -> None:
    Path(folder.path("annotations")).mkdir()
    for name, value in (("it's one", 1), (".tmp-half", 0), ("two", 0)):
        rows = [{"key": name, "label_id": "ant", "value": value, "source": "me", "at": NOON}]
        pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS), folder.path(f"annotations/{name}.parquet"))
    assert ask(folder, "SELECT key, value FROM annotations ORDER BY 1") == [("it's one", 1), ("two", 0)]


def test_many_threads_read_one_part_of_many_row_groups(folder: Folder) -> None:
    make_model(folder)
    scores = {f"l{number:03d}": [0.2 + number / 500] * 3000 for number in range(100)}
    taxonomy = make_taxonomy(*scores)
    make_run(folder, "r1", taxonomy, {"0": Shard(scores=scores, statuses=[OK] * 3000)})
    with open_catalog(folder) as connection:
        for _ in range(5):
            row = connection.execute(
                "SELECT count(*), count(DISTINCT key), min(score), max(score) FROM scores"
            ).fetchone()
            assert row == (300_000, 3000, pytest.approx(0.2, abs=1e-4), pytest.approx(0.398, abs=1e-4))
        query = "EXPLAIN ANALYZE SELECT count(score) FROM internal.scores WHERE label_id = 'l007'"
        (plan,) = [row[1] for row in connection.execute(query).fetchall()]
        assert "Row Groups Scanned: 1 / 3" in plan, "the other labels are not read"


def test_a_remote_store_is_read_through_fsspec(bucket: str) -> None:
    folder = Folder(f"{bucket}/a store/it's")
    make_model(folder)
    make_run(
        folder, "r1", ANT_BEE, {"x y/0": Shard(scores={"ant": [0.9, 0.4, 0.5]}), "1": Shard(scores={"bee": [0.6] * 3})}
    )
    assert ask(folder.url, "SELECT label_id, count(*) FROM tags GROUP BY 1 ORDER BY 1") == [("ant", 2), ("bee", 3)]
    assert ask(folder.url, "SELECT key FROM scores WHERE label_id = 'ant' ORDER BY score DESC LIMIT 1") == [
        ("x y/0/0.é x",)
    ]


@pytest.mark.parametrize("name", ["missing", "file", "photos"])
def test_what_is_no_store_is_refused_with_the_next_step(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(StoreError, match="clipdecoder tag") as caught:
        open_catalog(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_remote_prefix_without_anything_is_no_store(bucket: str) -> None:
    with pytest.raises(StoreError, match="there is no store at 's3://.*clipdecoder tag"):
        open_catalog(f"{bucket}/nothing")


def test_damage_is_named(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {"0": Shard(scores={"ant": [0.9] * 3})})
    path = Path(folder.path("runs/r1/run.json"))
    record = path.read_text()
    path.write_text(record.replace('"floor"', '"flour"'))
    with pytest.raises(StoreError, match="RunRecord"):
        open_catalog(folder)
    path.write_text(record)
    Path(folder.path(f"taxonomies/{ANT_BEE.digest}.json")).unlink()
    with pytest.raises(StoreError, match=f"taxonomies/{ANT_BEE.digest}.json is missing"):
        open_catalog(folder)


_GONE = r"^a file of the store cannot be read: .*{}\.parquet['\"]; `clipdecoder audit` says what is lost$"


def test_a_part_that_is_gone_is_an_error_with_the_next_step(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {name: Shard(scores={"ant": [0.9] * 3}) for name in "01"})
    Path(folder.path("runs/r1/scores/1.parquet")).unlink()
    with open_catalog(folder) as connection, pytest.raises(StoreError, match=_GONE.format(1)):
        run_query(connection, "SELECT count(score) FROM scores WHERE score > 0.1")
    Path(folder.path("runs/r1/scores/0.parquet")).unlink()
    with pytest.raises(StoreError, match=_GONE.format(0)):
        open_catalog(folder)


def test_times_are_in_utc(folder: Folder) -> None:
    make_model(folder)
    make_run(folder, "r1", ANT_BEE, {"0": Shard()})
    assert ask(folder, "SELECT finished_at::VARCHAR FROM runs") == [("2026-06-01 12:00:00+00",)]
    assert ask(folder, "SELECT created_at FROM runs")[0][0].astimezone(UTC) == datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_opening_and_asking_imports_neither_torch_nor_prefect(folder: Folder) -> None:
    code = (
        "import sys; from storage.catalog import open_catalog; from storage.query import run_query\n"
        "with open_catalog(sys.argv[1]) as connection: run_query(connection, 'FROM tags')\n"
        "sys.exit(', '.join({'torch', 'prefect', 'rich', 'pandas'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder.root], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
