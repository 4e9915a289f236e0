"""A process killed at any moment, and two at once: the same command ends the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.audit import audit_run
from storage.files import Folder
from tests.flows.world import World, make_world

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(900)  # three hundred processes, beside whatever else the machine does
def test_killed_at_every_step_of_every_write(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.dying", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for scenario, result in json.loads(done.stdout).items():
        least = 4 if scenario == "withdrawn" else 40  # every write has several steps; a withdrawal is one write
        assert result["steps"] >= least, scenario
        assert result["wrong"] == [], scenario


def tag_command(world: World, store: str) -> list[str]:
    shards = str(world.folder / "shards" / "*.tar")
    options = ["--taxonomy", str(world.taxonomy), "--store", store, "--name", "world", "--batch-size", "4", "--json"]
    return [str(Path(sys.executable).with_name("clipdecoder")), "tag", shards, *options]


def test_two_at_once_leave_one_correct_result(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=6, images=8)
    environment = {**os.environ, "CLIPDECODER_ORCHESTRATE": "false"}
    both = [
        subprocess.Popen(
            tag_command(world, world.store), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({json.loads(answer)["run_id"] for answer in answers}) == 1
    assert audit_run(Folder(world.store), None).ok
    alone = str(tmp_path / "alone")
    world.tag(store=alone)
    query = "select shard, key, label_id, score from scores order by all"
    assert world.ask(query) == world.ask(query, alone)
    assert world.ask("select count(*) from runs where complete") == [(1,)]
