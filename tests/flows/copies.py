"""A tagged world with copies in it: of two datasets, made smaller, compressed anew, byte for byte, blurred."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFilter

from examples.scenes.render import taxonomy_yaml
from tests.flows.annotated import LABELS, scenes
from tests.flows.world import World
from tests.nasty import Member, encoded

ORIGINALS = {f"scene-{number}": data for number, (_, data, _) in enumerate(scenes(16, 0))}


def changed(data: bytes, change: Callable[[Image.Image], Image.Image], quality: int = 85) -> bytes:
    return encoded(change(Image.open(io.BytesIO(data)).convert("RGB")), "JPEG", quality=quality)


def smaller(data: bytes) -> bytes:
    return changed(data, lambda image: image.resize((240, 180), Image.Resampling.BICUBIC))


def train_members() -> list[Member]:
    """Return the first dozen scenes, small copies of three, the bytes of one again, and what is black or broken."""
    first = list(ORIGINALS.items())[:12]
    members = [(f"{key}.jpg", data) for key, data in first]
    members += [(f"small-{key}.jpg", smaller(data)) for key, data in first[:3]]
    members += [("again-scene-3.jpg", ORIGINALS["scene-3"]), ("broken.jpg", b"no")]
    return [*members, ("black.png", encoded(Image.new("RGB", (40, 30)), "PNG"))]


def held_out_members() -> list[Member]:
    """Return four scenes that nobody else has, one of the others compressed anew, one blurred."""
    members = [(f"{key}.jpg", data) for key, data in list(ORIGINALS.items())[12:]]
    blurred = changed(ORIGINALS["scene-12"], lambda image: image.filter(ImageFilter.GaussianBlur(8)))
    leaked = changed(ORIGINALS["scene-5"], lambda image: image, quality=40)
    return [*members, ("leaked-scene-5.jpg", leaked), ("blurred-scene-12.jpg", blurred)]


def make_copies_world(folder: Path) -> World:
    """Return the world: dataset `train` in two shards, `held-out` in one."""
    world = World(folder)
    members = train_members()
    world.shard("train/0", members[:9])
    world.shard("train/1", members[9:])
    world.shard("held-out/0", held_out_members())
    world.taxonomy.write_text(taxonomy_yaml(LABELS))
    for name in ("train", "held-out"):
        world.tag(shards=(str(folder / "shards" / name / "*.tar"),), name=name)
    return world
