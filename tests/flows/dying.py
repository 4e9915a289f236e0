"""Kill tagging, and applying a taxonomy, at every step of every write, finish it, and compare with one left alone.

Run as a program by test_kill.py: `python -m tests.flows.dying FOLDER`. The store lies on a file system of our own that
counts its steps and kills the process at the chosen one. Each run is a fork of this process (see forks.py).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import torch

from flows.apply import plan_apply, run_apply
from flows.models import load_model
from flows.taxonomies.withdrawal import run_withdrawal
from schemas.config import ApplyRequest
from storage.audit import audit_run
from storage.catalog import open_catalog
from storage.files import Folder
from storage.query import run_query
from storage.taxonomies import digest_in_force
from tests.flows.disks import NEVER, DyingDisk
from tests.flows.forks import KILLED, asked, in_fork
from tests.flows.world import LABELS, World, make_world, pictures, taxonomy_text
from tests.nasty import TEXT_AS_JPEG

UNSEEN = "black-moon"  # in no taxonomy so far


Work = Callable[[str], object]  # does its work in the store at this URL


def dying(work: Work, store: Path, dies_at: int = NEVER) -> int:
    """Work in a store, dying at a step; return the number of steps if alive."""
    DyingDisk.dies_at, DyingDisk.steps = dies_at, 0
    work(f"dying://{store}")
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


def kill_everywhere(work: Work, place: Path, begun: Path | None) -> dict[str, Any]:
    """Kill some work at each of its steps, finish it, and compare; `begun` is a store to start from, each time anew.

    Returns the number of steps, and whatever went wrong at any of them.
    """

    def fresh(name: str) -> Path:
        store = place / name
        if begun is not None:
            shutil.copytree(begun, store)
        return store

    reference = fresh("reference")
    steps = asked(lambda: dying(work, reference))
    wrong = []
    for step in range(1, steps + 1):
        store = fresh(f"killed-{step}")
        killed, _ = in_fork(lambda store=store, step=step: dying(work, store, step))
        finished, found = in_fork(lambda store=store: _finish(work, store, reference))
        if (killed, finished) != (KILLED, "done") or any(found.values()):
            wrong.append({"step": step, "killed": killed, "finished": finished, "found": found})
    return {"steps": steps, "wrong": wrong}


def _finish(work: Work, store: Path, reference: Path) -> dict[str, list[str]]:
    """Finish what was killed; return what must not be seen before, and what must not be seen after."""
    before = {"broken": half_written(store) if store.exists() else [], "mixed": mixed_rows(store)}
    dying(work, store)
    findings = [finding.message for finding in audit_run(Folder(str(store)), None).findings if not finding.warning]
    return before | {"audit": findings, "other": other_parts(store, reference)}


def other_parts(store: Path, reference: Path) -> list[str]:
    """Return what is not as in the other store: Parquet parts by their bytes, and the version in force."""
    these, those = parts(store), parts(reference)
    other = sorted(path for path in these.keys() | those.keys() if these.get(path) != those.get(path))
    return other + ["in force"] * (in_force(store) != in_force(reference))


def in_force(store: Path) -> str | None:
    """Return the version of the world's taxonomy that is in force."""
    return digest_in_force(Folder(str(store)), "t")


def mixed_rows(store: Path) -> list[str]:
    """Return what the views show that was never true together: scores beside other samples, new labels without any."""
    if not (store / "models" / "current.json").exists():
        return []
    queries = ["select distinct shard as wrong from scores where key is null"]
    if in_force(store) is not None and UNSEEN in (store / "taxonomies" / f"{in_force(store)}.json").read_text():
        scored = f"select key from scores where label_id = '{UNSEEN}'"
        queries.append(f"select key as wrong from samples where status = 'ok' and key not in ({scored})")
    with open_catalog(str(store)) as connection:
        return [row["wrong"] for query in queries for row in run_query(connection, query).to_pylist()]


def main(folder: Path) -> dict[str, Any]:
    """Return what came of killing runs and an `apply`.

    They are a first run, one for which a shard has changed and another one is retried, and a taxonomy with a new, a
    reworded and a merged label.
    """
    torch.set_num_threads(1)  # no pool of threads, which a fork would not have
    fsspec.register_implementation("dying", DyingDisk)
    load_model(Folder(str(folder)), "bundled:scenes", "cpu")
    world = World(folder)
    asked(lambda: make_world(folder, shards=2, images=3) and None)
    results = {"first": kill_everywhere(lambda store: world.tag(store=store), folder / "first", None)}
    asked(lambda: str(world.shard("00001", [*pictures(1, 2), ("bad.jpg", TEXT_AS_JPEG)])))
    begun = folder / "begun"
    asked(lambda: dying(lambda store: world.tag(store=store), begun))
    results["withdrawn"] = kill_everywhere(
        lambda store: run_withdrawal(Folder(store), "t"), folder / "withdrawn", begun
    )
    results["applied"] = kill_everywhere(lambda store: apply_grown(world, store), folder / "applied", begun)
    asked(lambda: str(world.shard("00000", pictures(5, 1))))
    retry = folder / "changed"
    results["changed"] = kill_everywhere(lambda store: world.tag(store=store, retry_failed=True), retry, begun)
    return results


def apply_grown(world: World, store: str) -> None:
    """Apply a taxonomy with something to score, something to show otherwise, and nothing to learn."""
    text = taxonomy_text((*LABELS, UNSEEN)).replace("name: red circle", "name: crimson disc")
    grown = world.folder / "grown.yaml"
    grown.write_text(text.replace("name: white heart}", "name: white heart, merged_into: blue-star}"))
    run_apply(plan_apply(ApplyRequest(taxonomy=str(grown), store=store, batch_size=4)))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
