"""Kill an export at every step of every write, finish it, and compare with one left alone.

Run as a program by test_export.py: `python -m tests.flows.dying_export FOLDER`, where FOLDER is that of a tagged world.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from schemas.export import ExportManifest
from storage.catalog import open_catalog
from storage.exports.selection import select_samples
from storage.exports.shards import export_shards
from storage.pack import parse_target
from tests.flows.disks import DyingDisk
from tests.flows.dying import dying, half_written
from tests.flows.exports import ALL, contents, export, exported
from tests.flows.forks import KILLED, asked, in_fork
from tests.flows.world import World


def main(world: World) -> dict[str, Any]:
    """Return the number of steps, and whatever went wrong at any of them."""
    fsspec.register_implementation("dying", DyingDisk)
    reference = world.folder / "reference"
    wanted = asked(lambda: _export(world, reference))

    def work(place: str) -> None:
        record = ExportManifest.model_validate_json((reference / "manifest.json").read_text()).record
        with open_catalog(world.store) as connection:
            rows = select_samples(connection, ALL).rows
        export_shards(parse_target(f"{place}/{{:05d}}.tar"), record, rows)

    def finish(place: Path) -> list[bool]:
        whole = not _broken(place)
        dying(work, place)
        return [whole, contents(place) == wanted]

    steps = asked(lambda: dying(work, world.folder / "alive"))
    wrong = []
    for step in range(1, steps + 1):
        place = world.folder / f"killed-{step}"
        killed, _ = in_fork(lambda place=place, step=step: dying(work, place, step))
        end, found = in_fork(lambda place=place: finish(place))
        if killed != KILLED or found != [True, True]:
            wrong.append({"step": step, "killed": killed, "end": end, "whole, the same": found})
    return {"steps": steps, "wrong": wrong, "files": sorted(wanted)}


def _export(world: World, place: Path) -> Mapping[str, str]:
    """Export by the command's own way, and return what it wrote."""
    export(world, to=f"{place}/{{:05d}}.tar", samples_per_shard=4)
    return contents(place)


def _broken(place: Path) -> list[str]:
    """Return what has its final name and is not whole, or says more than is there."""
    tars = sorted(str(path) for path in place.glob("*.tar") if not path.name.startswith(".tmp-"))
    samples = exported(*tars)
    broken = [name for name in half_written(place) if not name.startswith("0")] if place.exists() else []
    unmarked = [path.name for path in place.glob("0*.parquet") if str(path.with_suffix(".tar")) not in tars]
    manifest = place / "manifest.json"
    if manifest.exists():
        said = ExportManifest.model_validate_json(manifest.read_text())
        unmarked += [] if len(samples) == said.record.samples else ["manifest.json"]
    return broken + unmarked


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(World(Path(sys.argv[1])))))
