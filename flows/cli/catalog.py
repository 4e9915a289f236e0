"""`clipdecoder catalog`: a .duckdb file with the views, for other tools. Imports neither torch nor Prefect."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.output import Json, Store, print_json, print_lines, replaced, store_url
from schemas.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(catalog)


def catalog(
    to: Annotated[str, typer.Option("--to", help="The file to write, such as store.duckdb; a local path.")],
    model: Annotated[str | None, typer.Option(help="Show this model's scores.  [default: the promoted model]")] = None,
    run: Annotated[
        str | None, typer.Option(help="Show what this run wrote, and nothing else: its id or the start of it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file even if it is no catalog.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write the views of `clipdecoder sql` into a small .duckdb file that any DuckDB tool opens, without clipdecoder.

    The rows stay in the store, which the file names by its absolute path or its URL; an older catalog is replaced.
    Tools need DuckDB 2.0 or later.

    Example: clipdecoder catalog --to store.duckdb
    """
    from storage.catalog_file import catalog_file, check_destination
    from storage.files import Folder

    if model is not None and run is not None:
        raise ConfigError(f"--run {run} shows the scores of its own model; leave out --model {model}")
    path = check_destination(to, force=force)
    record, content = catalog_file(Folder(store_url(store)), model_id=model, run_id=run)
    with replaced(path) as file:
        file.write(content)
    written = record.model_copy(update={"path": str(path), "bytes": len(content)})
    if as_json:
        print_json(written)
    else:
        print_lines(written.lines())
