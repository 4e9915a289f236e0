"""`clipdecoder taxonomy status`: what is in force, what is lacking, what was decided on retraining."""

from __future__ import annotations

import typer

from flows.cli.output import Json, Store, print_json, print_lines, store_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(store: Store = None, as_json: Json = False) -> None:
    """Show the taxonomies in force, the labels that are not scored yet, the newest decision on retraining, the model.

    Example: clipdecoder taxonomy status
    """
    from flows.retraining.status import store_status
    from storage.files import Folder

    found = store_status(Folder(store_url(store)))
    if as_json:
        print_json(found)
    else:
        print_lines(found.lines())
