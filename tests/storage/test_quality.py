"""Where statistics stand, and what the views make of statistics and groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.manifest import Fingerprint
from schemas.sample import SampleStatus
from storage.catalog import open_catalog
from storage.curation_paths import current_statistics, shard_of, statistics_by_shard, statistics_path
from storage.files import Folder
from storage.quality import StatisticsRow, write_statistics
from storage.query import run_query
from storage.runs import read_runs
from tests.stores import FIRST, OK, Shard, make_model, make_run, make_taxonomy

NEXT = Fingerprint(size=2, tag="next")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
PRINTS = st.builds(Fingerprint, size=st.integers(0, 3), tag=st.sampled_from(["", "a", "b"]))


def row(sample: int, phash: int | None = 2**64 - 1) -> StatisticsRow:
    return StatisticsRow(sample=sample, phash=phash, brightness=0.5, contrast=0.25, sharpness=100.0 + sample)


@given(NAMES, PRINTS, NAMES, PRINTS)
def test_each_shard_has_a_file_for_each_of_its_bytes(
    one: str, first: Fingerprint, other: str, second: Fingerprint
) -> None:
    paths = statistics_path("d", one, first), statistics_path("d", other, second)
    assert (paths[0] == paths[1]) == (one == other and first == second)
    assert (shard_of(paths[0]) == shard_of(paths[1])) == (one == other)
    assert all(path.startswith("quality/d/") and ".." not in path.split("/") for path in paths)


@pytest.mark.parametrize("shard", ["0", "x y/00%0", "a-b/it's [1]*", f"a-{'0' * 16}.parquet"])
def test_statistics_are_shown_of_the_bytes_that_a_shard_has(tmp_path: Path, shard: str) -> None:
    folder = Folder(str(tmp_path / "store"))
    make_model(folder)
    taxonomy = make_taxonomy("ant")
    statuses = (OK, OK, SampleStatus.DECODE_ERROR, OK)
    make_run(folder, "r1", taxonomy, {shard: Shard(statuses=statuses), "other": Shard()})
    path = statistics_path("street", shard, FIRST)
    write_statistics(folder, path, shard, [row(3), row(0, None)])
    query = (
        "select shard, sample, phash, sharpness, megapixels, aspect from quality where shard <> 'other' order by all"
    )
    with open_catalog(folder) as connection:
        assert [tuple(each.values()) for each in run_query(connection, query).to_pylist()] == [
            (shard, 0, None, 100.0, 12e-6, 4 / 3),
            (shard, 1, None, None, 12e-6, 4 / 3),
            (shard, 3, 2**64 - 1, 103.0, 12e-6, 4 / 3),
        ]
    make_run(folder, "r2", taxonomy, {shard: Shard(fingerprint=NEXT)}, hours=1)
    assert current_statistics(folder, read_runs(folder)) == {}
    newer = statistics_path("street", shard, NEXT)
    write_statistics(folder, newer, shard, [row(2)], statistics_by_shard(folder)[shard_of(newer)])
    assert folder.list("quality") == [newer] == list(current_statistics(folder, read_runs(folder)))
    with open_catalog(folder) as connection:
        assert run_query(connection, query)["sharpness"].to_pylist() == [None, None, 102.0]
