"""`clipdecoder pack`: from a folder of pictures, or a CSV that names them, to shards."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.output import Json, print_json, print_lines, say
from schemas.counts import counted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pack)


def pack(
    source: Annotated[
        str, typer.Argument(metavar="DIR_OR_CSV", help="Folder of images, or a CSV with a column `path`.")
    ],
    to: Annotated[str, typer.Option("--to", help='Where the shards go, e.g. "shards/{:05d}.tar" or an s3:// URL.')],
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    as_json: Json = False,
) -> None:
    """Pack images into WebDataset shards, bytes unchanged, with their side files and labels.

    A CSV has a header; `labels`, `absent` (separated by ; or |) and other columns go into each image's .json.

    Example: clipdecoder pack pictures/ --to "shards/{:05d}.tar"
    """
    from storage.pack import pack as pack_images

    report = pack_images(
        source,
        to,
        samples_per_shard=samples_per_shard,
        on_shard=lambda shard, samples: say(f"{shard}: {counted(samples, 'image')}"),
    )
    if as_json:
        print_json(asdict(report))
    else:
        print_lines(report.lines())
