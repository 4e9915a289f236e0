"""Compaction: every question has the same answer before, meanwhile and after, whatever happens to the store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.compaction import Kind
from schemas.errors import StoreError
from schemas.manifest import Fingerprint
from schemas.sample import SampleStatus
from schemas.tables import SAMPLES
from storage.audit import audit_run
from storage.catalog import open_catalog
from storage.compact import KEPT_FOR, compact_store
from storage.compacted import find_compacted, write_compacted
from storage.files import Folder
from storage.findings import FindingCode
from storage.query import run_query
from tests.stores import Shard, make_model, make_run, make_taxonomy

ROOT = Path(__file__).parents[2]
TAXONOMY = make_taxonomy("cow", "ant", "bee")  # not by their letters
LABELS = ("ant", "bee", "cow")
FEW: Mapping[Kind, int] = {"samples": 8, "scores": 16}  # rows of a file: some two or three shards
QUESTIONS = (
    "FROM samples ORDER BY ALL",
    "FROM scores ORDER BY ALL",
    "FROM all_scores ORDER BY ALL",
    "FROM tags ORDER BY ALL",
)


def answers(folder: Folder) -> list[list[tuple[Any, ...]]]:
    with open_catalog(folder) as connection:
        return [connection.execute(question).fetchall() for question in QUESTIONS]


def files_read(folder: Folder, view: str = "internal.scores") -> str:
    """Return the SQL of a view, which names its files."""
    with open_catalog(folder) as connection:
        schema, _, name = view.rpartition(".")
        query = "SELECT sql FROM duckdb_views() WHERE schema_name = ? AND view_name = ?"
        row = connection.execute(query, [schema or "main", name]).fetchone()
    assert row is not None
    return str(row[0])


def shards(count: int = 5, score: float = 0.9) -> dict[str, Shard]:
    scores = {"ant": [score, 0.2, None], "bee": [None, 0.7, 0.6], "cow": [0.5, None, 0.1]}
    return {f"a/{number:02d} x": Shard(scores=scores) for number in range(count)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "store"))
    make_model(folder)
    make_run(folder, "r1", TAXONOMY, shards())
    return folder


def test_answers_stay_and_come_from_few_files(folder: Folder) -> None:
    before = answers(folder)
    report = compact_store(folder)
    (run,) = report.runs
    assert (run.parts, run.merged, run.files, run.written) == (10, 10, 2, 2) and report.ok
    assert answers(folder) == before
    assert "compacted/scores" in files_read(folder) and "r1/scores/" not in files_read(folder)
    assert "compacted/samples" in files_read(folder, "samples")


def test_keys_in_large_files_are_compressed_for_reading(folder: Folder) -> None:
    compact_store(folder)
    (large,) = folder.list("runs/r1/compacted/samples")
    row_group = pq.ParquetFile(folder.path(large)).metadata.row_group(0).to_dict()
    compression = {column["path_in_schema"]: column["compression"] for column in row_group["columns"]}
    assert compression == dict.fromkeys(SAMPLES.names, "ZSTD") | {"key": "LZ4"}


def test_a_dry_run_says_the_same_and_writes_nothing(folder: Folder) -> None:
    before = folder.list("")
    report = compact_store(folder, dry_run=True)
    assert report.lines() == ["r1: 10 of 10 parts in 2 files; 2 new", "nothing was written (--dry-run)"]
    assert folder.list("") == before


def test_compacting_again_writes_nothing(folder: Folder) -> None:
    compact_store(folder, file_rows=FEW)
    before = {path: os.stat(folder.path(path)).st_mtime_ns for path in folder.list("")}
    (run,) = compact_store(folder, file_rows=FEW).runs
    assert run.written == 0 and run.files == 4
    assert {path: os.stat(folder.path(path)).st_mtime_ns for path in folder.list("")} == before


def test_after_a_shard_was_tagged_again_its_parts_count_until_the_next_compaction(folder: Folder) -> None:
    compact_store(folder, file_rows=FEW)
    changed = shards() | {"a/00 x": Shard(scores={"ant": [0.1, 0.8, 0.3]}, fingerprint=Fingerprint(size=2, tag="new"))}
    make_run(folder, "r1", TAXONOMY, changed)
    ants = "SELECT round(score::DOUBLE, 2) FROM scores WHERE shard = 'a/00 x' AND label_id = 'ant' ORDER BY sample"
    with open_catalog(folder) as connection:
        assert connection.execute(ants).fetchall() == [(0.1,), (0.8,), (0.3,)]
    assert "r1/scores/a/00%20x" in files_read(folder) and "compacted/scores" in files_read(folder)
    expected = answers(folder)
    (run,) = compact_store(folder, file_rows=FEW).runs
    assert 0 < run.written < run.files
    assert answers(folder) == expected and "r1/scores/" not in files_read(folder)
    record = folder.read_bytes("runs/r1/compacted.json")
    compact_store(folder, file_rows=FEW)
    assert folder.read_bytes("runs/r1/compacted.json") == record


def test_a_query_goes_on_over_files_that_are_no_longer_named(folder: Folder) -> None:
    compact_store(folder)
    with open_catalog(folder) as connection:
        before = connection.execute(QUESTIONS[1]).fetchall()
        make_run(folder, "r2", TAXONOMY, shards(), hours=1)
        make_run(folder, "r1", TAXONOMY, shards(6, 0.8), hours=2)
        compact_store(folder)
        assert connection.execute(QUESTIONS[1]).fetchall() == before


def test_files_that_nobody_names_go_a_day_after_they_were_named_last(folder: Folder) -> None:
    compact_store(folder)
    first = folder.list("runs/r1/compacted")
    make_run(folder, "r1", TAXONOMY, shards(6, 0.8))
    compact_store(folder)
    both = folder.list("runs/r1/compacted")
    for path in both:
        os.utime(folder.path(path), (0, 0))  # when they were written does not matter
    expected = answers(folder)
    compact_store(folder)
    record = find_compacted(folder, "r1")
    assert folder.list("runs/r1/compacted") == both and len(both) == 4 and list(record.dropped) == sorted(first)
    long_ago = dict.fromkeys(first, datetime.now(UTC) - KEPT_FOR - timedelta(minutes=1))
    write_compacted(folder, record.model_copy(update={"dropped": long_ago}))
    compact_store(folder)
    assert set(folder.list("runs/r1/compacted")) == set(both) - set(first)
    assert find_compacted(folder, "r1").dropped == {} and answers(folder) == expected


def test_a_file_that_was_never_named_goes_a_day_after_it_was_written(folder: Folder) -> None:
    compact_store(folder)
    for name in ("old", "new"):
        folder.write_bytes(f"runs/r1/compacted/scores/{name}.parquet", b"left by a process that was killed")
    os.utime(folder.path("runs/r1/compacted/scores/old.parquet"), (0, 0))
    compact_store(folder)
    left = [path for path in folder.list("runs/r1/compacted") if path.endswith(("old.parquet", "new.parquet"))]
    assert left == ["runs/r1/compacted/scores/new.parquet"]


def test_two_compactions_may_remove_the_same_file(folder: Folder) -> None:
    class SecondToCome(Folder):
        def list(self, prefix: str, suffix: str = "") -> list[str]:
            found = super().list(prefix, suffix)
            self.remove(left)
            return found

    left = "runs/r1/compacted/scores/left.parquet"
    folder.write_bytes(left, b"x")
    compact_store(SecondToCome(folder.url))
    assert not folder.exists(left) and find_compacted(folder, "r1").files


@pytest.mark.parametrize("damage", ["lost file", "cut file", "lost record", "torn record"])
def test_without_its_files_or_its_record_the_parts_are_read(folder: Folder, damage: str) -> None:
    before = answers(folder)
    compact_store(folder)
    kind, what = damage.split()
    (path, *_) = folder.list("runs/r1/compacted") if what == "file" else ["runs/r1/compacted.json"]
    file = Path(folder.path(path))
    if kind == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    assert answers(folder) == before
    compact_store(folder)
    assert answers(folder) == before and "r1/scores/" not in files_read(folder)


def test_an_audit_finds_a_large_file_that_is_not_what_was_written(folder: Folder) -> None:
    compact_store(folder)
    file = Path(folder.path(folder.list("runs/r1/compacted")[0]))
    data = file.read_bytes()
    file.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    found = [each for each in audit_run(folder).findings if each.code is FindingCode.PART_CHANGED]
    assert [each.run_id for each in found] == ["r1"] and "` writes it again" in found[0].message


def test_a_part_that_cannot_be_read_is_named_and_the_others_are_merged(folder: Folder) -> None:
    part = Path(folder.path("runs/r1/scores/a/00%20x.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    report = compact_store(folder, file_rows=FEW)
    assert not report.ok and report.lines()[0].startswith("FAILED runs/r1/scores/a/00%20x.parquet is not what")
    assert report.runs[0].files == 3, "all but the one with that part"


def test_runs_that_are_not_complete_are_left_alone_or_refused(folder: Folder) -> None:
    make_run(folder, "r2", TAXONOMY, shards(), complete=False, hours=1)
    assert compact_store(folder).incomplete == ("r2",)
    with pytest.raises(StoreError, match="'r2' is not complete; finish it"):
        compact_store(folder, "r2")
    with pytest.raises(StoreError, match="unknown run 'r9'; known: r1, r2"):
        compact_store(folder, "r9")


def test_a_remote_store_is_compacted_too(bucket: str) -> None:
    folder = Folder(f"{bucket}/store")
    make_model(folder)
    make_run(folder, "r1", TAXONOMY, shards(3))
    before = answers(folder)
    assert compact_store(folder).runs[0].files == 2
    assert answers(folder) == before and "compacted/scores" in files_read(folder)
    assert compact_store(folder).runs[0].written == 0
    make_run(folder, "r1", TAXONOMY, shards(4, 0.8))
    after = answers(folder)
    assert [compact_store(folder).runs[0].written for _ in range(2)] == [2, 0]
    assert answers(folder) == after and len(folder.list("runs/r1/compacted")) == 4, "a day is not over"


@st.composite
def stories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Runs over some shards, labels and bytes, taken up again or not, with compactions between them."""
    steps: list[dict[str, Any]] = []
    for hours in range(draw(st.integers(1, 4))):
        names = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, unique=True))
        score = st.one_of(st.none(), st.integers(1, 99).map(lambda each: each / 100))
        sizes = {name: draw(st.integers(1, 3)) for name in sorted(names)}
        found = {
            name: Shard(
                scores={label: draw(st.lists(score, min_size=size, max_size=size)) for label in labels},
                statuses=[SampleStatus.OK] * size,
                keys=[f"{hours}/{name}/{sample}" for sample in range(size)],
                fingerprint=Fingerprint(size=1, tag=draw(st.sampled_from("xy"))),
            )
            for name, size in sizes.items()
        }
        run = draw(st.sampled_from(("r1", "r2")))
        complete = draw(st.integers(0, 4)) > 0
        steps.append({"run_id": run, "shards": found, "labels": labels, "hours": hours, "complete": complete})
        steps += [{"compact": draw(st.sampled_from((None, 4, 8, 100)))}] * draw(st.booleans())
    return steps


@given(stories())
@settings(max_examples=12, deadline=None)
def test_views_equal_those_of_a_store_that_was_never_compacted(story: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        plain, compacted = Folder(f"{place}/plain"), Folder(f"{place}/compacted")
        for folder in (plain, compacted):
            make_model(folder)
        for step in story:
            if "compact" in step:
                rows = step["compact"]
                limits: Mapping[Kind, int] = {"samples": rows, "scores": rows} if rows else FEW
                compact_store(compacted, file_rows=limits)
                continue
            for folder in (plain, compacted):
                make_run(folder, step["run_id"], TAXONOMY, step["shards"], **_rest(step))
        assert answers(compacted) == answers(plain)
        assert_keys_of_first_rows(plain)
        assert_keys_of_first_rows(compacted)


def assert_keys_of_first_rows(folder: Folder) -> None:
    """Rows that are joined to their keys late have those of the views."""
    columns = "score, dataset, run_id, shard, sample, label_id"
    with open_catalog(folder) as connection:
        for view in ("tags", "scores", "all_scores"):
            sql = f"SELECT key, {columns} FROM {view} ORDER BY {columns} LIMIT 5"
            found = run_query(connection, sql).to_pylist()
            assert [tuple(row.values()) for row in found] == connection.execute(sql).fetchall()


def _rest(step: Mapping[str, Any]) -> dict[str, Any]:
    return {name: step[name] for name in ("labels", "hours", "complete")}


# In a process of its own, which forks for every step before it has threads: so a killed compaction costs little.
_DYING = """
import json, os, shutil, sys
import fsspec
from storage.compact import compact_store
from storage.files import Folder
from tests.flows.disks import NEVER, DyingDisk

fsspec.register_implementation("dying", DyingDisk)
place = sys.argv[1]

def compact(store, dies_at=NEVER):
    child = os.fork()
    if child == 0:
        DyingDisk.dies_at = dies_at
        compact_store(Folder(f"dying://{place}/{store}"), file_rows={"samples": 8, "scores": 16})
        os._exit(DyingDisk.steps)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

shutil.copytree(f"{place}/begun", f"{place}/whole")
steps = compact("whole")
ends = []
for step in range(1, steps + 1):
    shutil.copytree(f"{place}/begun", f"{place}/killed-{step}")
    killed = compact(f"killed-{step}", step)
    shutil.copytree(f"{place}/killed-{step}", f"{place}/finished-{step}")
    ends.append([killed, compact(f"finished-{step}")])
print(json.dumps(ends))
"""


@pytest.mark.slow
def test_killed_at_every_step_the_answers_stay_and_the_next_one_ends_the_same(folder: Folder, tmp_path: Path) -> None:
    before = answers(folder)
    shutil.copytree(folder.root, tmp_path / "begun")
    words = [sys.executable, "-c", _DYING, str(tmp_path)]
    ends = json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert len(ends) >= 20 and {killed for killed, _ in ends} == {-9} and min(end for _, end in ends) >= 0
    for step in range(1, len(ends) + 1):
        assert answers(Folder(str(tmp_path / f"killed-{step}"))) == before, step
        assert contents(tmp_path / f"finished-{step}") == contents(tmp_path / "whole"), step
    assert answers(Folder(str(tmp_path / "whole"))) == before


def contents(store: Path) -> dict[str, bytes]:
    """Return what is in the files that have their final names."""
    files = (path for path in store.rglob("*") if path.is_file() and not path.name.startswith(".tmp-"))
    return {str(path.relative_to(store)): path.read_bytes() for path in files}
