"""`clipdecoder audit`: prove that images in = scored + failed."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import Json, Store, print_summary, store_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            help="A run id, its start, or a dataset: its newest run.  [default: all that the views show]",
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Read the shards and the parts again, and compare: every image a row, every part whole, every score accounted for.

    Exit 1 if something does not hold.

    Example: clipdecoder audit --run street-0123456789abcdef
    """
    from storage.audit import audit_run
    from storage.catalog import check_store
    from storage.files import Folder

    folder = Folder(store_url(store))
    check_store(folder)
    report = audit_run(folder, run)
    print_summary(report, as_json=as_json)
