"""`clipdecoder export`: the samples that a query chooses, as shards or as a file of labels. Needs no model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows.cli.output import Json, Store, print_summary, progress_bar, say, stoppable, store_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    sql: Annotated[str, typer.Option("--sql", help="One SELECT that yields key; dataset and shard where keys repeat.")],
    to: Annotated[str, typer.Option("--to", help='Path or URL: shards like "out/{:05d}.tar", or a file of labels.')],
    format: Annotated[
        Literal["webdataset", "csv", "parquet", "coco", "labelstudio", "fiftyone"] | None,
        typer.Option(
            help="Shards, or labels alone. labelstudio and fiftyone are folders.  "
            "[default: by the suffix .tar .csv .parquet .json (coco)]"
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Copy the pictures too, into data/ beside labels.")
    ] = False,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in each shard but the last.")] = 1000,
    model: Annotated[str | None, typer.Option(help="Write this model's tags.  [default: the promoted model's]")] = None,
    run: Annotated[
        str | None, typer.Option(help="Ask this run alone, and write its tags: its id or the start of it.")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Copy the samples that a query chooses into shards of their own, bytes unchanged, with their tags.

    Pictures and side files are copied as they are; the tags go into each .json under the key clipdecoder. A Parquet
    index beside each shard says where every sample comes from, manifest.json what was asked and with which model,
    taxonomy and thresholds. The order is that of the source, whatever the query says. The same command goes on after a
    kill. Exit 1 if a sample cannot be copied: its shard is gone or was changed; all others are exported.

    Example: clipdecoder export --sql "select shard, key from tags where label_id = 'dog'" --to "dogs/{:05d}.tar"
    """
    from flows.export import format_of, run_export
    from schemas.config import make_request
    from schemas.export import ExportRequest

    request = make_request(
        ExportRequest,
        store=store_url(store),
        sql=sql,
        to=to,
        format=format or format_of(to),
        model=model,
        run=run,
        samples_per_shard=samples_per_shard,
        pictures=pictures,
    )
    with stoppable(), progress_bar("writing") as watch:
        summary = run_export(request, watch, say)
    print_summary(summary, as_json=as_json)
