"""Which groups of duplicates the view shows, of a whole store and of one run."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.sample import SampleStatus
from schemas.tables import DUPLICATES
from storage.catalog import open_catalog
from storage.curation_paths import duplicates_path
from storage.duplicates import GroupCounts, count_groups, count_samples, read_samples
from storage.files import Folder
from storage.parts import write_part
from storage.query import run_query
from tests.stores import Shard, make_model, make_run, make_taxonomy

SAMPLES = 5
RUNS = ("a", "b", "c")
Place = tuple[str, int]  # run (and so dataset) and ordinal
Groups = dict[str, list[Place]]  # the first of each represents it


def rows_of(groups: Groups) -> list[dict[str, Any]]:
    return [
        {
            "dataset": run,
            "shard": "0",
            "sample": sample,
            "sha256": f"{run}{sample}",
            "group_id": name,
            "representative": rank == 0,
            "reason": "near" if rank else None,
            "cosine": 0.97 if rank else 1.0,
        }
        for name, members in groups.items()
        for rank, (run, sample) in enumerate(members)
    ]


def make_store(place: str, groups: Groups, changed: set[Place]) -> Folder:
    folder = Folder(place)
    make_model(folder)
    for run in RUNS:
        contents = [f"{run}{sample}{'!' * ((run, sample) in changed)}" for sample in range(SAMPLES)]
        shard = Shard(statuses=("ok",) * SAMPLES, contents=contents)  # type: ignore[arg-type]
        make_run(folder, f"{run}-run", make_taxonomy("ant"), {"0": shard}, dataset=run)
    write_part(folder, duplicates_path("e1"), pa.Table.from_pylist(rows_of(groups), schema=DUPLICATES))
    return folder


def shown(folder: Folder, run: str | None) -> dict[str, dict[Place, bool]]:
    """Return by group the members that the view shows, and which of them stand for it."""
    found: dict[str, dict[Place, bool]] = defaultdict(dict)
    with open_catalog(folder, run_id=run and f"{run}-run") as connection:
        for row in run_query(connection, "SELECT * FROM duplicates").to_pylist():
            assert list(row) == ["dataset", "shard", "sample", "key", "group_id", "representative", "reason", "cosine"]
            found[row["group_id"]][row["dataset"], row["sample"]] = row["representative"]
    return dict(found)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Groups, set[Place]]:
    places = [(run, sample) for run in RUNS for sample in range(SAMPLES)]
    names = draw(st.lists(st.integers(0, 4), min_size=len(places), max_size=len(places)))
    groups: Groups = defaultdict(list)
    for name, place in zip(names, draw(st.permutations(places)), strict=True):
        groups[f"g{name}"].append(place)
    whole = {name: members for name, members in groups.items() if len(members) > 1}
    return whole, draw(st.sets(st.sampled_from(places), max_size=3))


@settings(max_examples=25, deadline=None)
@given(grouped())
def test_one_of_every_group_stays_in_whatever_is_looked_at(made: tuple[Groups, set[Place]]) -> None:
    groups, changed = made
    with tempfile.TemporaryDirectory() as place:
        folder = make_store(place, groups, changed)
        for run in (None, *RUNS):
            expected = {}
            for name, (head, *others) in groups.items():
                members = [each for each in (head, *others) if run in (None, each[0]) and each not in changed]
                inside = run in (None, head[0])
                if len(members) > 1 and (head in members or not inside):
                    # All have the same pixels and bytes: the first by name stands in.
                    first = head if inside else min(members)
                    expected[name] = {each: each == first for each in members}
            assert shown(folder, run) == expected


@pytest.mark.parametrize(("run", "stands"), [(None, ("a", 0)), ("a", None), ("b", ("b", 1))])
def test_a_member_stands_in_where_the_representative_is_in_another_run(
    tmp_path: Any, run: str | None, stands: Place | None
) -> None:
    folder = make_store(str(tmp_path), {"g": [("a", 0), ("b", 3), ("b", 1)]}, set())
    found = shown(folder, run).get("g", {})
    assert [place for place, stands_for in found.items() if stands_for] == ([stands] if stands else [])


def test_what_is_counted_is_what_is_there(tmp_path: Path) -> None:
    groups: Groups = {"one": [("a", 0), ("a", 3)], "two": [("b", 1), ("c", 1), ("c", 2)]}
    folder = make_store(str(tmp_path), groups, set())
    make_run(folder, "d-run", make_taxonomy("ant"), {"0": Shard(statuses=(SampleStatus.EMPTY,) * 2)}, dataset="d")
    with open_catalog(folder) as connection:
        assert count_groups(connection) == GroupCounts(groups=2, across_datasets=1, members={"near": 3})
        assert count_samples(connection) == read_samples(connection).table.num_rows == SAMPLES * len(RUNS)
