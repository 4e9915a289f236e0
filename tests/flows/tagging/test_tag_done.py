"""A run that has nothing left to do is found out without the model, torch or Prefect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.tagging.plan import plan_tag
from storage.audit import audit_run
from storage.files import Folder
from storage.runs import read_runs
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text

LOADED = """
import json, sys
from flows.cli.app import app
code = 0
try:
    app(sys.argv[1:])
except SystemExit as error:
    code = error.code
print(json.dumps({"code": code, "heavy": [name for name in ("torch", "prefect") if name in sys.modules]}))
"""


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("done"))
    world.tag()
    return world


def loaded(world: World) -> dict[str, Any]:
    """Give the command once more, and return its exit code and which of the heavy libraries it loaded."""
    options = ["--taxonomy", str(world.taxonomy), "--store", world.store, "--name", "world", "--batch-size", "4"]
    arguments = ["tag", str(world.folder / "shards" / "*.tar"), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=environment | {"PREFECT_HOME": str(world.folder)},
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_what_is_done_is_seen_without_the_model(tagged: World) -> None:
    (before,) = read_runs(Folder(tagged.store))
    assert loaded(tagged) == {"code": 0, "heavy": []}
    (after,) = read_runs(Folder(tagged.store))
    assert after.record.asked_at > before.record.asked_at, "it was asked for again, and the store says so"


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ({}, True),
        ({"labels": "new"}, True),
        ({"retry_failed": True}, True),
        ({"model": "current"}, True),
        ({"model": "bundled:scenes"}, False),  # only loading it tells whether it is the model of that name still
        ({"labels": "red-circle"}, False),
        ({"top_k": 1}, False),
        ({"store_tokens": True}, False),
        ({"store": "another"}, False),
    ],
    ids=str,
)
def test_a_plan_knows_whether_it_is_done(tagged: World, change: dict[str, Any], done: bool) -> None:
    assert plan_tag(tagged.request(**change)).done is done


def test_new_work_is_no_done_plan(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    assert not plan_tag(world.request()).done
    world.tag()
    assert plan_tag(world.request()).done and world.tag().whole
    world.shard("00002", pictures(2, 3))
    assert not plan_tag(world.request()).done and not plan_tag(world.request(labels="new")).done
    world.tag()
    world.taxonomy.write_text(taxonomy_text(("red-circle", "blue-star", "gold-ring")))
    assert not plan_tag(world.request()).done


@pytest.mark.parametrize("kind", ["samples", "scores"])
def test_lost_rows_of_new_labels_are_new_again(tmp_path: Path, kind: str) -> None:
    world = make_world(tmp_path)
    world.tag()
    world.taxonomy.write_text(taxonomy_text((*LABELS, "black-moon")))
    run_id = world.tag(labels="new").plan.record.run_id
    assert plan_tag(world.request(labels="new")).done
    Path(world.store, "runs", run_id, kind, "00001.parquet").unlink()
    assert list(world.tag(labels="new").reports) == ["00001"]
    assert audit_run(Folder(world.store), None).ok
