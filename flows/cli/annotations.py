"""`clipdecoder annotations`: bring in what people or other tools said about the pictures."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.cli.output import Json, Store, print_summary, store_url

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Ground truth beside the shards: import.")


@app.callback()
def group() -> None:
    """Ground truth beside the shards: import."""


@app.command("import")
def import_file(
    file: Annotated[str, typer.Argument(help="CSV, Parquet, COCO JSON or Label Studio JSON (path or URL).")],
    format: Annotated[
        Literal["csv", "parquet", "coco", "labelstudio"] | None,
        typer.Option(help="What the file is.  [default: by its suffix and content]"),
    ] = None,
    taxonomy: Annotated[
        str, typer.Option(help="Says what the words mean: a file, a digest, applied, or applied:NAME.")
    ] = "applied",
    dataset: Annotated[
        str | None, typer.Option(help="Dataset of the pictures, where the file does not say.  [default: any]")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Who answered, where the file does not say.  [default: the file's name]")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When (ISO 8601), where the file does not say.  [default: now]")
    ] = None,
    complete: Annotated[
        bool,
        typer.Option("--complete", help="Labels that the file names, and not on this picture, are absent from it."),
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Bring annotations into the store; the newest answer for a picture and a label counts.

    Tables have a row for each answer (key, label, and perhaps value, dataset, shard, at, source), or for each picture
    (path or key, labels and perhaps absent, separated by ; or |). A value is 1, 0, yes, no, true, false, or empty:
    unsure. Words may be ids, names or synonyms. A CSV has commas, semicolons or tabs. The same
    file twice changes nothing.

    Example: clipdecoder annotations import answers.csv --dataset street --source "Ana"
    """
    from flows.annotations import run_import
    from schemas.annotations import ImportRequest
    from schemas.config import make_request

    request = make_request(
        ImportRequest,
        store=store_url(store),
        file=file,
        format=format,
        taxonomy=taxonomy,
        dataset=dataset,
        source=source,
        at=at,
        complete=complete,
    )
    print_summary(run_import(request), as_json=as_json)
