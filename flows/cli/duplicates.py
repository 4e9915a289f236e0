"""`clipdecoder duplicates`: which samples are nearly the same, for SQL and export. Loads no model."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import with_settings
from flows.cli.output import Json, Store, print_summary, progress_bar, stoppable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(duplicates)


def duplicates(
    min_cosine: Annotated[
        float | None, typer.Option(help="Least cosine of two embeddings that are near, 0.5 to 1.  [default: 0.95]")
    ] = None,
    max_phash: Annotated[
        int | None,
        typer.Option(
            help="Join pictures whose perceptual hashes differ in so many bits of 64 at most, 0 to 16, too; needs "
            "`clipdecoder quality`.  [default: hashes join nothing]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose embeddings: a model id, or current.  [default: the promoted model]")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Find samples that are nearly the same, over all datasets, by stored embeddings. For the view duplicates.

    Each group has one representative: the one with most pixels, then most bytes. Every other is within the limits of
    it, and no two representatives are within the limits of each other. Copies of the same bytes are found always. No
    shard is read. Exit 1 if stored embeddings cannot be read.

    Example: clipdecoder duplicates --min-cosine 0.97
    """
    from flows.duplicates import run_duplicates
    from schemas.config import make_request
    from schemas.curation import DuplicatesRequest

    given = {"store": store, "min_cosine": min_cosine, "max_phash": max_phash, "model": model or "current"}
    known = {name: value for name, value in with_settings(DuplicatesRequest, given).items() if value is not None}
    request = make_request(DuplicatesRequest, **known)
    with stoppable(), progress_bar("comparing") as watch:
        summary = run_duplicates(request, watch)
    print_summary(summary, as_json=as_json)
