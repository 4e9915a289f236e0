"""A small tagged world of scenes with side files, and exports of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.export import run_export
from schemas.export import ExportRequest, ExportSummary
from schemas.sample import MemberCounts, Sample
from storage.shards import iter_samples
from tests.flows.annotated import scenes, side_files
from tests.flows.world import World, make_world

ALL = "select dataset, shard, key from samples"


def make_scenes_world(folder: Path, shards: int = 3, images: int = 5) -> World:
    """Return a world of annotated scenes. Tag it."""
    world = make_world(folder, shards=0)
    pictures = scenes(shards * images, 0)
    for number in range(shards):
        part = pictures[number * images : (number + 1) * images]
        world.shard(f"{number:05d}", side_files(part, lambda key, labels: {"labels": list(labels), "caption": key}))
    return world


def export(world: World, sql: str = ALL, to: str | None = None, **options: Any) -> ExportSummary:
    """Export into `out/`, unless told otherwise."""
    place = to or str(world.folder / "out" / "{:05d}.tar")
    return run_export(ExportRequest(**({"store": world.store, "sql": sql, "to": place} | options)))


def exported(*urls: str) -> dict[str, Sample]:
    """Return the samples of shards by key; no member of them is anything else."""
    counts = MemberCounts()
    samples = {sample.key: sample for url in urls for sample in iter_samples(url, counts)}
    assert (counts.images, counts.orphan_side_files, counts.other_files) == (len(samples), 0, 0)
    return samples


def said(sample: Sample) -> dict[str, Any]:
    """Return what a sample's .json says."""
    found: dict[str, Any] = json.loads(sample.side["json"])
    return found


def contents(folder: Path) -> Mapping[str, str]:
    """Return the checksum of every file, but temporary ones."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".tmp-")
    }
