"""Shards shared out to processes: the same store, whoever ran what; a process that dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flows.tagging.plan import plan_tag
from flows.tagging.processes import execute_in_processes
from schemas.errors import ConfigError, RunError
from tests.flows.world import World, make_world


@pytest.mark.slow
def test_two_processes_fill_the_store_as_one_does(tmp_path: Path) -> None:
    world = make_world(tmp_path, shards=3, images=3)
    world.raw_shard("broken", b"no tar")
    alone = world.tag(shards_per_task=1, store=f"{world.store}-alone")
    shared = world.tag(shards_per_task=1, device="cpu,cpu")
    assert len(shared.all_reports) == 3
    assert [trouble.shard for trouble in shared.failures] == [trouble.shard for trouble in alone.failures] == ["broken"]
    ask = "select shard, key, label_id, score from scores order by all"
    assert world.ask(ask) == world.ask(ask, f"{world.store}-alone") != []


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_with_advice(world: World) -> None:
    class Deadly:
        """A shard that ends the process which unpacks it."""

        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (3,)

    groups: Any = [(Deadly(),), (Deadly(),)]
    with pytest.raises(RunError, match=r"process that tagged shards died.*same command goes on"):
        list(execute_in_processes(plan_tag(world.request()), groups, lambda ahead=None: False, ("cpu", "cpu")))


def test_devices_are_named_one_by_one(world: World) -> None:
    with pytest.raises(ConfigError, match="device"):
        world.request(device="cpu,gpu")
