"""A small dataset on disk with its taxonomy and store, tagged by the plain functions with the bundled model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.tagging.outcomes import RunOutcome
from flows.tagging.plan import plan_tag
from flows.tagging.run import run_tag_here
from schemas.config import TagRequest, tag_request
from storage.catalog import open_catalog
from storage.query import run_query
from tests.nasty import Member, build_tar, jpeg

LABELS = ("red-circle", "blue-star", "green-square", "white-heart")


def taxonomy_text(label_ids: Sequence[str] = LABELS, *, name: str = "t") -> str:
    """Return a taxonomy file of labels whose names are their ids in words."""
    labels = "".join(f"  - {{id: {label_id}, name: {label_id.replace('-', ' ')}}}\n" for label_id in label_ids)
    return f'name: {name}\ntemplates: ["a photo of a {{}}.", "a {{}}."]\nlabels:\n{labels}'


def pictures(shard: int, count: int) -> list[Member]:
    """Return members `s<shard>-<i>.jpg`, all different."""
    return [(f"s{shard}-{i}.jpg", jpeg(1000 * shard + i, 40 + i, 50)) for i in range(count)]


@dataclass(frozen=True)
class World:
    """A folder with `shards/`, `taxonomy.yaml` and `store/`."""

    folder: Path

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def taxonomy(self) -> Path:
        return self.folder / "taxonomy.yaml"

    def shard(self, name: str, members: Sequence[Member]) -> Path:
        return self.raw_shard(name, build_tar(members))

    def raw_shard(self, name: str, data: bytes) -> Path:
        path = self.folder / "shards" / f"{name}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def request(self, **changes: Any) -> TagRequest:
        values = {
            "shards": (str(self.folder / "shards" / "*.tar"),),
            "taxonomy": str(self.taxonomy),
            "store": self.store,
            "name": "world",
            "batch_size": 4,
        }
        return tag_request(**(values | changes))

    def tag(self, **changes: Any) -> RunOutcome:
        return run_tag_here(plan_tag(self.request(**changes)))

    def ask(self, sql: str, store: str | None = None) -> list[tuple[Any, ...]]:
        with open_catalog(store or self.store) as connection:
            return [tuple(row.values()) for row in run_query(connection, sql).to_pylist()]


def decoded(outcome: RunOutcome) -> int:
    """Images that the run decoded this time."""
    return sum(report.decoded for report in outcome.reports.values())


def make_world(folder: Path, shards: int = 2, images: int = 5) -> World:
    """Return a world of whole shards."""
    world = World(folder)
    for number in range(shards):
        world.shard(f"{number:05d}", pictures(number, images))
    world.taxonomy.write_text(taxonomy_text())
    return world
