"""`clipdecoder sql`: ask anything of the tags. Imports neither torch nor Prefect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.output import Json, Store, replaced, say, store_url
from flows.environment import end_soon
from schemas.errors import ConfigError, QueryError

Format = Literal["table", "csv", "json", "parquet"]
_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table", "": "table"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sql)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views; - reads it from stdin.")],
    format: Annotated[
        Format | None, typer.Option(help="How to write the result.  [default: by the suffix of -o, else table]")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Write the whole result to this file (.csv .json .parquet .txt)."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Show this model's scores.  [default: the promoted model]")] = None,
    run: Annotated[
        str | None, typer.Option(help="Show what this run wrote, and nothing else: its id or the start of it.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows shown as a table; other formats and -o give all.")] = 50,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Run a query over the views, read-only.

    Views: samples, scores, tags, labels, runs, failures, annotations, ground_truth, thresholds, models, all_scores,
    quality, duplicates.
    `clipdecoder sql "show tables"` and `clipdecoder sql "describe tags"` tell more.

    Example: clipdecoder sql "select label_id, count(*) from tags group by all order by all"
    """
    end_soon()
    from storage.catalog import open_catalog
    from storage.files import Folder
    from storage.labels import why_unlabelled
    from storage.query import run_query
    from storage.results import write_result

    chosen = _format("json" if as_json else format, output)
    if model is not None and run is not None:
        raise ConfigError(f"--run {run} shows the scores of its own model; leave out --model {model}")
    text = _stdin() if query == "-" else query
    folder = Folder(store_url(store))
    connection = open_catalog(folder, model_id=model, run_id=run)
    table = run_query(connection, text)
    for line in why_unlabelled(connection, folder, run):
        say(f"no label and no tag is shown: {line}")
    if output is None:
        write_result(table, chosen, sys.stdout.buffer, max_rows=max_rows)
        return
    with replaced(Path(output)) as file:
        write_result(table, chosen, file)


def _format(format: Format | None, output: str | None) -> Format:
    """Return the format that was asked for, else what the file's name says.

    Raises:
        ConfigError: its name says nothing that is known, or it is no local path.
    """
    if output is not None and "://" in output:
        raise ConfigError(f"-o {output!r} is a URL; -o takes local paths only: write there, then copy the file")
    if format is not None or output is None:
        return format or "table"
    suffix = Path(output).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise ConfigError(
            f"-o {output!r}: no format has the suffix {suffix!r}; known: .csv, .json, .parquet, .txt; "
            "or choose with --format csv, json, parquet or table"
        )
    return _BY_SUFFIX[suffix]


def _stdin() -> str:
    """Return what stands on stdin; bytes that are not UTF-8 as halves of surrogate pairs, which no query may have."""
    if sys.stdin is None:
        raise QueryError("- reads the query from the standard input, which is closed")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
