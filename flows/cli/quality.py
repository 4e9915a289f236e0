"""`clipdecoder quality`: what the pictures are like, for SQL. Imports no model."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import with_settings
from flows.cli.output import Json, Store, print_summary, progress_bar, stoppable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(quality)


def quality(
    dataset: Annotated[str | None, typer.Option(help="Of this dataset only.  [default: of all]")] = None,
    decode_threads: Annotated[
        int | None, typer.Option("--decode-threads", help="Threads that decode; 0: one per core.  [default: 0]")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Measure the pictures of tagged shards: brightness, contrast, sharpness, perceptual hash. For the view quality.

    Each shard is read once; the same command goes on after a kill, and measures what is new or was tagged anew. Exit 1
    if a shard that is to be measured cannot be read, or is not the one that was tagged.

    Example: clipdecoder quality --dataset street
    """
    from flows.quality import run_quality
    from schemas.config import make_request
    from schemas.curation import QualityRequest

    given = with_settings(QualityRequest, {"store": store, "dataset": dataset, "decode_threads": decode_threads})
    request = make_request(QualityRequest, **given)
    with stoppable(), progress_bar("shards") as watch:
        summary = run_quality(request, watch)
    print_summary(summary, as_json=as_json)
