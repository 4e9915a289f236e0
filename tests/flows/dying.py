"""Kill a tagging run with SIGKILL at every step of every write, finish it, and compare with a run left alone.

Run as a program by test_kill.py: `python -m tests.flows.dying FOLDER`. The store lies on a file system of our own that
counts its steps and kills the process at the chosen one. Each run is a fork of this process, which has loaded the model
but computed nothing, so that a hundred killed runs cost seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import torch

from clipdecoder.encoders.model import load_model
from storage.audit import audit_run
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from tests.flows.disks import NEVER, DyingDisk
from tests.flows.world import World, make_world, pictures
from tests.nasty import TEXT_AS_JPEG


def in_fork(work: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether a fork that does `work` was killed, and what `work` returned otherwise."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        result = json.dumps(work())
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), json.loads(text) if text else None


def tag(world: World, store: str, dies_at: int = NEVER, **changes: Any) -> int:
    """Tag, dying at a step; return the number of steps if alive."""
    DyingDisk.dies_at, DyingDisk.steps = dies_at, 0
    world.tag(store=f"dying://{store}", **changes)
    return DyingDisk.steps


def half_written(store: Path) -> list[str]:
    """Return the files with a final name that are not whole."""
    broken = []
    for path in store.rglob("*"):
        if path.is_file() and not path.name.startswith(".tmp-"):
            try:
                if path.suffix == ".json":
                    json.loads(path.read_text())
                else:
                    pq.read_table(path)
            except (ValueError, OSError) as error:
                broken.append(f"{path.name}: {error}")
    return broken


def parts(store: Path) -> dict[str, str]:
    """Return the checksum of every Parquet part."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*.parquet"))
        if not path.name.startswith(".tmp-")
    }


def kill_everywhere(world: World, place: Path, begun: Path | None, **changes: Any) -> dict[str, Any]:
    """Kill a run at each of its steps, finish it, and compare; `begun` is a store to start from, each time anew.

    Returns the number of steps, and whatever went wrong at any of them.
    """

    def fresh(name: str) -> Path:
        store = place / name
        if begun is not None:
            shutil.copytree(begun, store)
        return store

    reference = fresh("reference")
    _, steps = in_fork(lambda: tag(world, str(reference), **changes))
    wrong = []
    for step in range(1, steps + 1):
        store = fresh(f"killed-{step}")
        killed, _ = in_fork(lambda store=store, step=step: tag(world, str(store), step, **changes))
        broken = half_written(store) if store.exists() else []
        mixed = mixed_rows(store)
        in_fork(lambda store=store: tag(world, str(store), **changes))
        passed = audit_run(Folder(str(store)), None).passed
        if not killed or broken or mixed or parts(store) != parts(reference) or not passed:
            wrong.append({"step": step, "killed": killed, "broken": broken, "mixed": mixed, "audit": passed})
    return {"steps": steps, "wrong": wrong}


def mixed_rows(store: Path) -> list[str]:
    """Return shards that the views show with scores of samples that are not there: old scores beside new samples."""
    if not (store / "models" / "current.json").exists():
        return []
    query = "select distinct shard from scores where key is null"
    with open_catalog(str(store)) as connection:
        return [row["shard"] for row in run_query(connection, query).to_pylist()]


def main(folder: Path) -> dict[str, Any]:
    """Return what came of killing a first run, and one for which a shard has changed and another one is retried."""
    torch.set_num_threads(1)  # a fork has no thread pool
    fsspec.register_implementation("dying", DyingDisk)
    load_model("bundled:scenes", device="cpu")
    world = make_world(folder, shards=2, images=3)
    results = {"first": kill_everywhere(world, folder / "first", None)}
    world.shard("00001", [*pictures(1, 2), ("bad.jpg", TEXT_AS_JPEG)])
    begun = folder / "begun"
    in_fork(lambda: tag(world, str(begun)))
    world.shard("00000", pictures(5, 1))
    results["changed"] = kill_everywhere(world, folder / "changed", begun, retry_failed=True)
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
