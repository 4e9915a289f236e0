"""A catalog file answers as `sql` does, to a DuckDB that knows nothing of clipdecoder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import duckdb
import fsspec
import pytest

from schemas.errors import ConfigError, StoreError
from schemas.manifest import Fingerprint
from schemas.sample import SampleStatus
from schemas.taxonomy import Label
from storage.annotations import Annotation, write_annotations
from storage.catalog import open_catalog
from storage.catalog_file import catalog_file, check_destination
from storage.compact import compact_store
from storage.files import Folder
from storage.ground_truth import SampleLabels, ShardLabels
from storage.patterns import ShardRef
from storage.side_labels import keep_side_labels
from tests.stores import NOON, OK, Shard, make_model, make_run, make_taxonomy

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
COOKBOOK = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
VIEWS = (
    "samples",
    "scores",
    "tags",
    "labels",
    "thresholds",
    "failures",
    "annotations",
    "ground_truth",
    "runs",
    "models",
)
ON_VIEWS = [f"FROM {view}" for view in (*VIEWS, "all_scores")]
QUESTIONS = [*ON_VIEWS, *COOKBOOK]
TAXONOMY = make_taxonomy(
    *("red-circle", "blue-star", "white-heart"),
    Label(id="disc", name="it's a disc", merged_into="red-circle"),
    Label(id="pager", name="pager", retired=True),
)
# No site: what is installed for editing is found by a .pth file, so neither clipdecoder nor storage is there.
READER = """
import json, sys
sys.path.append(sys.argv[1])
import importlib.util, duckdb
assert not any(map(importlib.util.find_spec, ("storage", "schemas", "flows", "clipdecoder")))
connection = duckdb.connect(sys.argv[2], read_only=True)
for question in json.load(sys.stdin):
    rows = connection.execute(question).fetchall()
    print(json.dumps(sorted(repr([sorted(v) if isinstance(v, list) else v for v in row]) for row in rows)))
"""


def make_store(folder: Folder) -> Folder:
    """Write a store that has some of everything."""
    make_model(folder, seen=["red-circle"])
    statuses = (OK, SampleStatus.EMPTY, OK)
    scores = {"red-circle": [0.9, None, 0.3], "disc": [0.4, None, 0.8], "blue-star": [0.7, None, 0.6]}
    old = make_taxonomy("red-circle", "disc", "blue-star", "white-heart", "pager")
    shards = {"x y/0%": Shard(scores=scores, statuses=statuses), "1": Shard(scores={"pager": [0.9] * 3})}
    make_run(folder, "r1", old, shards)
    compact_store(folder)
    make_run(folder, "r2", TAXONOMY, {"2": Shard(scores={"white-heart": [0.8, 0.2, 0.9]})}, hours=1)
    at = {"source": "it's me", "at": NOON}
    write_annotations(folder, [Annotation(key="2/0.é x", label_id="white-heart", value=1, **at)])
    ref = ShardRef(shard="x y/0%", url="file:///x.tar", fingerprint=Fingerprint(size=1, tag="x"))
    found = ShardLabels(
        changed_at=NOON, samples={0: SampleLabels(labels=("it's a disc",), absent=())}, keys={0: "x y/0%/0.é x"}
    )
    keep_side_labels(folder, "street", ref, found)
    return folder


def asked(folder: Folder, questions: list[str]) -> list[list[str]]:
    with open_catalog(folder) as connection:
        return [answer(connection, question) for question in questions]


def answer(connection: duckdb.DuckDBPyConnection, question: str) -> list[str]:
    """Return rows as text in an order of their own, and lists too: they are made in the order in which files come."""
    rows = connection.execute(question).fetchall()
    return sorted(repr([sorted(v) if isinstance(v, list) else v for v in row]) for row in rows)


@pytest.mark.parametrize("name", ["plain", "it's a stôre %41", "[x]*", "a{b,c}?[", "**"])
def test_a_plain_duckdb_has_the_answers_of_sql(tmp_path: Path, name: str) -> None:
    for decoy in ("x", "[x]y", "ab?"):  # what the names are as patterns
        (tmp_path / decoy).mkdir()
        make_store(Folder(str(tmp_path / decoy)))
        Path(tmp_path, decoy, "runs/r2/samples/2.parquet").unlink()
    folder = make_store(Folder(str(tmp_path / name)))
    path = tmp_path / "it's.duckdb"
    record, content = catalog_file(folder)
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", READER, sysconfig.get_path("purelib"), str(path)],
        input=json.dumps(QUESTIONS),
        env=os.environ | {"TZ": "UTC"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = asked(folder, QUESTIONS)
    assert found == expected and all(expected[: len(VIEWS)])
    assert set(record.views) >= {*VIEWS, "all_scores"} and len(content) < 1_000_000


def test_it_says_what_it_is_of(tmp_path: Path) -> None:
    folder = make_store(Folder(str(tmp_path / "store")))
    record, content = catalog_file(folder, run_id="r1", now=NOON)
    (tmp_path / "x.duckdb").write_bytes(content)
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as connection:
        (row,) = connection.execute("FROM catalog_info").fetchall()
        runs = connection.execute("SELECT DISTINCT run_id FROM all_scores").fetchall()
        as_other = "ATTACH '{}' AS other (READ_ONLY)"
    assert runs == [("r1",)] and row[4] == ["r1"] == list(record.runs)
    assert row[:4] == (str(tmp_path / "store"), record.clipdecoder, "m1", NOON)
    with duckdb.connect() as connection:
        connection.execute(as_other.format(tmp_path / "x.duckdb"))
        assert connection.execute("SELECT count(*) > 0 FROM other.tags").fetchall() == [(True,)]
    assert "write it anew" in record.lines()[-1] and "1 run," in record.lines()[1]


def test_a_remote_store_is_named_by_its_url(bucket: str, tmp_path: Path) -> None:
    folder = make_store(Folder(f"{bucket}/a store/it's"))
    record, content = catalog_file(folder)
    (tmp_path / "x.duckdb").write_bytes(content)
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as connection:
        texts = connection.execute("SELECT sql FROM duckdb_views() WHERE sql LIKE '%read_parquet%'").fetchall()
        assert texts and all(f"{bucket}/a store/it''s/" in text for (text,) in texts)
        connection.register_filesystem(fsspec.filesystem("s3"))
        connection.execute("SET TimeZone = 'UTC'")
        found = [answer(connection, question) for question in ON_VIEWS]
    assert found == asked(folder, ON_VIEWS)
    assert any("httpfs" in line for line in record.lines())


def test_a_remote_store_whose_url_is_a_pattern_is_refused(bucket: str) -> None:
    folder = make_store(Folder(f"{bucket}/a[b"))
    with pytest.raises(StoreError, match=r"'\['.*clipdecoder sql"):
        catalog_file(folder)


def test_only_an_older_catalog_is_replaced(tmp_path: Path) -> None:
    path, other, text = (tmp_path / name for name in ("x.duckdb", "other.duckdb", "notes.txt"))
    path.write_bytes(catalog_file(make_store(Folder(str(tmp_path / "store"))))[1])
    duckdb.connect(str(other)).close()
    text.write_text("precious")
    assert check_destination(str(path)) == path and check_destination(str(tmp_path / "new.duckdb"))
    for place in (other, text):
        with pytest.raises(ConfigError, match="no catalog of clipdecoder.*--force"):
            check_destination(str(place))
        assert check_destination(str(place), force=True) == place
    with pytest.raises(ConfigError, match=r"is a folder.*catalog\.duckdb"):
        check_destination(str(tmp_path))
    with pytest.raises(ConfigError, match="is a URL"):
        check_destination("s3://bucket/x.duckdb", force=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine (a INT)")
        with pytest.raises(ConfigError, match="open in another program"):
            check_destination(str(path), force=True)


def test_a_database_that_another_program_has_open_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    path.write_bytes(catalog_file(make_store(Folder(str(tmp_path / "store"))))[1])
    program = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline()
        with pytest.raises(ConfigError, match="open in another program"):
            check_destination(str(path))
        other.stdin.write("\n")
    assert check_destination(str(path)) == path


def test_a_part_that_is_gone_is_refused(tmp_path: Path) -> None:
    folder = make_store(Folder(str(tmp_path / "store")))
    Path(folder.path("runs/r2/samples/2.parquet")).unlink()
    with pytest.raises(StoreError, match=r"a file of the store cannot be read.*2\.parquet.*clipdecoder audit"):
        catalog_file(folder)


def test_views_ask_for_what_is_there_now(tmp_path: Path) -> None:
    """The rows are in the store alone: a catalog of a store that is moved finds nothing, and says which file."""
    folder = make_store(Folder(str(tmp_path / "store")))
    (tmp_path / "x.duckdb").write_bytes(catalog_file(folder)[1])
    (tmp_path / "store").rename(tmp_path / "moved")
    with duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True) as connection:
        with pytest.raises(duckdb.IOException, match=r"store/runs"):
            connection.execute("FROM samples")
        assert connection.execute("FROM runs").fetchall()


def test_the_example_of_the_documents_runs(tmp_path: Path) -> None:
    (tmp_path / "store.duckdb").write_bytes(catalog_file(make_store(Folder(str(tmp_path / "store"))))[1])
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", f"{example}\nassert best"], cwd=tmp_path, check=False)
    assert done.returncode == 0
