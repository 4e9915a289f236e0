"""What SQL must not be able to do, each tried on a real store, through `run_query` and on the bare connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import QueryError
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from storage.sandbox import SharedReader, StoreFiles
from tests.stores import Shard, make_model, make_run, make_taxonomy

STATEMENTS = [
    "COPY samples TO '{out}'",
    "COPY samples TO '{store}/out.parquet'",
    "COPY samples TO '{store}/runs/r1/scores/0.parquet' (USE_TMP_FILE false)",
    "COPY samples TO 'store://out.parquet'",
    "COPY samples TO 'store://runs/r1/scores/0.parquet' (USE_TMP_FILE false)",
    "COPY samples TO 'store://runs' (FORMAT parquet, PARTITION_BY (shard))",
    "COPY (SELECT 1) TO '{spill}/out.csv'",
    "COPY samples FROM '/etc/passwd'",
    "WITH a AS (COPY samples TO '{out}') FROM a",
    "WITH a AS (COPY samples TO '{store}/out.csv') FROM a",
    "WITH a AS (COPY (SELECT 1) TO '{spill}/out.csv') FROM a",
    "(WITH a AS (COPY samples TO '{out}') FROM a) UNION ALL SELECT 1",
    "EXPLAIN ANALYZE COPY samples TO '{out}'",
    "EXPLAIN /* SELECT */ ANALYZE -- SELECT\n COPY samples TO '{out}'",
    "EXPLAIN (ANALYZE, FORMAT json) COPY samples TO '{out}'",
    "EXPLAIN ANALYZE WITH a AS (COPY samples TO '{out}') FROM a",
    "PREPARE p AS COPY samples TO '{out}'",
    "EXECUTE p",
    "EXPORT DATABASE '{out}'",
    "EXPORT DATABASE '{store}/out'",
    "IMPORT DATABASE '{out}'",
    "ATTACH '{out}' AS other",
    "ATTACH '{store}/out.duckdb' AS other",
    "ATTACH ':memory:' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET temp_directory = '{out}'",
    "RESET allowed_directories",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "USE memory",
    "CREATE TABLE t (a INT)",
    "CREATE TEMP TABLE t (a INT)",
    "CREATE OR REPLACE VIEW tags AS SELECT 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE MACRO m() AS 1",
    "DROP VIEW tags",
    "INSERT INTO internal.labels BY NAME SELECT 'x' AS label_id",
    "UPDATE internal.labels SET name = 'x'",
    "DELETE FROM internal.labels",
    "MERGE INTO internal.labels USING internal.models ON false WHEN NOT MATCHED THEN INSERT BY NAME",
    "WITH a AS (DELETE FROM internal.labels RETURNING *) FROM a",
    "WITH a AS (UPDATE internal.labels SET name = 'x' RETURNING *) FROM a",
    "EXPLAIN ANALYZE DELETE FROM internal.labels",
    "BEGIN",
    "COMMIT",
    "SET VARIABLE x = 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY samples TO '{out}'",
    "SELECT 1 /* ; */; -- \n DROP VIEW tags",
    "",
    " ; ",
    "-- nothing",
    "PIVOT samples ON status USING count(*)",
    "COPY (PIVOT samples ON status USING count(*)) TO '{out}'",
]
READS = [
    "FROM read_csv('/etc/passwd')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_json('/etc/passwd')",
    "FROM read_parquet('/etc/passwd')",
    "FROM read_text('file:///etc/passwd')",
    "FROM read_text('~/.bashrc')",
    "FROM read_text('/proc/self/environ')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM glob('/etc/*')",
    "FROM glob('{store}/*')",
    "FROM '/etc/passwd'",
    "FROM '{sibling}'",
    "FROM '{relative}'",
    "FROM read_parquet('{sibling}')",
    "FROM read_parquet('{store}/../sibling/secret.parquet')",
    "FROM read_parquet('{store}/link/secret.parquet')",
    "FROM parquet_metadata('{sibling}')",
    "FROM read_parquet('store://../sibling/secret.parquet')",
    "FROM read_parquet('store://runs/../../sibling/secret.parquet')",
    "FROM read_parquet('store://{sibling}')",
    "FROM read_text('store:///etc/passwd')",
    "FROM read_text('store://models/current.json')",
    "FROM read_text('store://runs/r1/run.json')",
    "FROM read_parquet('http://127.0.0.1:1/secret.parquet')",
    "FROM 's3://bucket/secret.parquet'",
    "FROM query('FROM read_text(''/etc/passwd'')')",
    "FROM query('COPY samples TO ''{out}''')",
    "FROM query_table('{sibling}')",
    "SELECT getenv('HOME')",
    "FROM secret_table",
    "DESCRIBE FROM read_csv('/etc/passwd')",
    "SUMMARIZE '{sibling}'",
    "EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')",
    "FROM enable_logging()",
]


class World:
    """A store with one run, a secret beside it, and a connection whose spill folder is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        folder = Folder(str(self.store))
        make_model(folder)
        make_run(folder, "r1", make_taxonomy("ant"), {"0": Shard(scores={"ant": [0.9] * 3})})
        (root / "sibling").mkdir()
        pq.write_table(pa.table({"secret": ["s3cr3t"]}), root / "sibling" / "secret.parquet")
        (self.store / "link").symlink_to("../sibling")
        self.connection = open_catalog(folder)
        row = self.connection.execute("SELECT current_setting('temp_directory')").fetchone()
        assert row is not None
        self.spill = Path(row[0])
        self.spill.mkdir()

    def written(self, statement: str) -> str:
        names = {
            "out": self.root / "out",
            "store": self.store,
            "spill": self.spill,
            "sibling": self.root / "sibling" / "secret.parquet",
            "relative": os.path.relpath(self.root / "sibling" / "secret.parquet"),
        }
        for name, path in names.items():
            statement = statement.replace(f"{{{name}}}", str(path))
        return statement

    def files(self) -> dict[str, bytes]:
        found = (path for top in (self.root, self.spill) for path in top.rglob("*"))
        return {str(path): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.connection.close()
    for path in world.spill.iterdir():
        path.unlink()
    world.spill.rmdir()


@pytest.mark.parametrize("statement", STATEMENTS + READS)
def test_refused_and_nothing_touched(world: World, statement: str) -> None:
    secret_table = pa.table({"x": ["s3cr3t"]})  # a Python variable is no table
    before = world.files()
    answers = run_query(world.connection, "SELECT (SELECT count(*) FROM tags), (FROM labels SELECT name)").to_pylist()
    with pytest.raises(QueryError) as caught:
        run_query(world.connection, world.written(statement))
    assert "s3cr3t" not in str(caught.value) and "root:" not in str(caught.value), secret_table
    assert world.files() == before
    again = run_query(world.connection, "SELECT (SELECT count(*) FROM tags), (FROM labels SELECT name)").to_pylist()
    assert again == answers


@pytest.mark.parametrize("statement", [s for s in STATEMENTS if "COPY" in s and "spill" not in s] + READS)
def test_the_bare_connection_cannot_touch_files_either(world: World, statement: str) -> None:
    before = world.files()
    with world.connection.cursor() as cursor, pytest.raises((duckdb.Error, OSError)):
        cursor.execute(world.written(statement)).fetchall()
    assert world.files() == before


def test_settings_are_locked(world: World) -> None:
    expected = {
        "enable_external_access": False,
        "lock_configuration": True,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
        "allow_unsigned_extensions": False,
        "allow_extension_repositories": "forbidden",
        "python_enable_replacements": False,
        "allowed_directories": [f"{world.spill}/", "store://"],  # DuckDB adds the folder that it spills to
        "allowed_paths": [],
    }
    for name, value in expected.items():
        row = world.connection.execute("SELECT current_setting(?)", [name]).fetchone()
        assert row == (value,), name


def test_files_that_views_read_can_be_read_and_only_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").write_bytes(b"other")
    files = StoreFiles(Folder(str(tmp_path)), {"a": 10})
    assert files.open("store://a").read() == b"0123456789"
    assert files.glob("store://a") == ["store://a"] and not files.exists("store://b")
    for path, mode in (("store://b", "rb"), ("store://a", "wb")):
        with pytest.raises(QueryError):
            files.open(path, mode)
    with pytest.raises(QueryError):
        files.glob("store://*")


def test_each_thread_has_a_position_of_its_own(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(data)
    reader = SharedReader(Folder(str(tmp_path)), "a", len(data))

    def read(start: int) -> bool:
        reader.seek(start)
        return reader.read(16) == data[start : start + 16] and reader.tell() == start + 16

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [start * 16 for start in range(500)]))
    assert reader.seek(-2, 2) == len(data) - 2 and reader.read(99) == data[-2:] and reader.read(1) == b""
