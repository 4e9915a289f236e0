"""A `.duckdb` file with the views of a store, for any tool that knows DuckDB. Parquet stays where it is.

What is small (runs, models, labels) is copied into the file; the views name the store's files by path or URL. The file
therefore shows the store of one moment and is written anew after a run. `catalog_info` says which moment it was.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from schemas.catalog import CatalogFile
from schemas.errors import ConfigError
from storage.catalog import build_errors, build_views, read_facts
from storage.catalog_tables import Facts
from storage.files import Folder
from storage.locations import Location, where_it_lies
from storage.sandbox import connect
from storage.views import literal

INFO = "catalog_info"
_INFO = pa.schema(
    [(name, pa.string()) for name in ("store", "clipdecoder", "model_id")]
    + [("written_at", pa.timestamp("us", tz="UTC"))]
    + [(name, pa.list_(pa.string())) for name in ("runs", "taxonomies")]
)
# Small blocks, as most tables have some rows only; and the oldest format that has all that is needed.
_FORMAT = "BLOCK_SIZE 16384, STORAGE_VERSION 'v1.0.0'"


def catalog_file(
    folder: Folder, *, model_id: str | None = None, run_id: str | None = None, now: datetime | None = None
) -> tuple[CatalogFile, bytes]:
    """Return what a catalog file says of itself, and its content. Arguments are as for `open_catalog`.

    Raises:
        StoreError: there is no store, no such run, something in it cannot be read, or DuckDB cannot name its files.
        ModelError: the store has no model of this id.
    """
    facts, location = read_facts(folder, model_id=model_id, run_id=run_id), where_it_lies(folder)
    record = _record(folder, facts, now or datetime.now(UTC))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "catalog.duckdb"
        views = _write(path, folder, facts, location, record)
        return record.model_copy(update={"views": views}), path.read_bytes()


def _record(folder: Folder, facts: Facts, now: datetime) -> CatalogFile:
    return CatalogFile(
        store=folder.root if folder.local else folder.url,
        clipdecoder=version("clipdecoder"),
        model_id=facts.model_id,
        written_at=now,
        runs=tuple(run.record.run_id for run in facts.runs),
        taxonomies=tuple(sorted({one.digest for several in facts.taxonomies.values() for one in several})),
    )


def _write(path: Path, folder: Folder, facts: Facts, location: Location, record: CatalogFile) -> tuple[str, ...]:
    """Write the file and return the names of its views."""
    with connect() as connection:
        if not folder.local:
            connection.register_filesystem(folder.fs)  # DuckDB looks at each view's files when it is made
        connection.execute(f"ATTACH {literal(str(path))} AS target ({_FORMAT})")
        connection.execute("USE target")
        with build_errors():
            build_views(connection, folder, facts, location)
        connection.register("read", pa.Table.from_pylist([record.model_dump(include={*_INFO.names})], schema=_INFO))
        connection.execute(f"CREATE TABLE {INFO} AS SELECT * FROM read")
        connection.unregister("read")
        names = connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE database_name = 'target' AND schema_name = 'main' ORDER BY ALL"
        )
        views = tuple(row[0] for row in names.fetchall())
        connection.execute("USE memory")
        connection.execute("DETACH target")
    return views


def check_destination(to: str, *, force: bool = False) -> Path:
    """Return where a catalog file may be written: a new file, or one in place of an older catalog.

    Args:
        to: a path.
        force: whatever stands there may be replaced.

    Raises:
        ConfigError: it is a URL or a folder, a program has it open to write, or it is something else.
    """
    path = Path(to)
    if urlsplit(to).scheme and "://" in to:
        raise ConfigError(f"--to {to!r} is a URL; DuckDB opens local files: write there, then copy the file")
    if path.is_dir():
        raise ConfigError(f"--to {to!r} is a folder; name a file in it, such as {str(path / 'catalog.duckdb')!r}")
    if path.with_name(f"{path.name}.wal").exists():
        raise ConfigError(f"--to {to!r} is open in another program that writes to it ({path.name}.wal); close it there")
    if path.exists() and not force and not _is_catalog(path):
        raise ConfigError(f"--to {to!r} is there and is no catalog of clipdecoder; take another name, or --force")
    return path


def _is_catalog(path: Path) -> bool:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.execute(f"SELECT * FROM {INFO} LIMIT 0").description is not None
    except duckdb.Error as error:
        if "lock on file" in str(error):
            raise ConfigError(f"--to {str(path)!r} is open in another program; close it there") from None
        return False
