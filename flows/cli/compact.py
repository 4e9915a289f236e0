"""`clipdecoder compact`: few large files in place of many small ones, for faster answers. Imports no model."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import Json, Store, print_summary, store_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compact)


def compact(
    run: Annotated[
        str | None,
        typer.Option("--run", help="A run id, its start, or a dataset: its newest run.  [default: all complete]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be merged; write nothing.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Merge the many small parts of complete runs into few large files; every query then answers sooner, and the same.

    The parts stay, so tagging, retrying and auditing go on as before. A shard that is tagged again is read from its
    parts, with those that were merged with it, until the next `compact`. Exit 1 if a part cannot be read.

    Example: clipdecoder compact --dry-run
    """
    from storage.compact import compact_store
    from storage.files import Folder

    report = compact_store(Folder(store_url(store)), run, dry_run=dry_run)
    print_summary(report, as_json=as_json)
