"""Keys that stand in several shards are counted once for the same rows, whichever run asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from schemas.sample import SampleStatus
from schemas.taxonomy import Label, Taxonomy
from storage.files import Folder
from storage.keys import known_keys, shared_keys
from storage.patterns import ShardRef
from storage.runs import StoredRun
from tests.stores import Shard, make_run

TAXONOMY = Taxonomy(name="t", labels=(Label(id="dog", name="dog"),))
REFS = tuple(ShardRef(shard=shard, url=f"file:///nowhere/{shard}.tar", fingerprint=None) for shard in ("0", "1"))


def shards(second: str) -> dict[str, Shard]:
    statuses = (SampleStatus.OK, SampleStatus.OK)
    return {"0": Shard(statuses=statuses, keys=("a", "b")), "1": Shard(statuses=statuses, keys=(second, "c"))}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def known_run(run: StoredRun, shared: int) -> StoredRun:
    """Return a run whose manifest says how many keys are shared: a number that no count would give."""
    assert run.manifest is not None
    return replace(run, manifest=run.manifest.model_copy(update={"shared_keys": shared}))


def test_what_a_complete_run_about_the_same_rows_knows_is_not_counted_again(folder: Folder) -> None:
    first = known_run(make_run(folder, "first", TAXONOMY, shards("b")), 17)
    again = make_run(folder, "again", TAXONOMY, shards("b"), hours=1)
    known = known_keys([first], REFS)
    assert shared_keys(folder, again.reports, known) == 17
    assert shared_keys(folder, again.reports, None) == 1


def test_other_rows_are_counted(folder: Folder) -> None:
    first = known_run(make_run(folder, "first", TAXONOMY, shards("b")), 17)
    other = make_run(folder, "other", TAXONOMY, shards("d"), hours=1)
    assert shared_keys(folder, other.reports, known_keys([first], REFS)) == 0
    assert shared_keys(folder, other.reports[:1], known_keys([first], REFS)) == 0


def test_only_a_complete_run_about_just_these_shards_knows(folder: Folder) -> None:
    begun = make_run(folder, "begun", TAXONOMY, shards("b"), complete=False)
    whole = known_run(make_run(folder, "whole", TAXONOMY, shards("b"), hours=1), 17)
    newer = known_run(make_run(folder, "newer", TAXONOMY, shards("b"), hours=2), 18)
    assert known_keys([begun], REFS) is None
    assert known_keys([whole], REFS[:1]) is None
    found = known_keys([newer, whole, begun], REFS)
    assert found is not None and found.shared == 18
