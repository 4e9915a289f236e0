"""`clipdecoder review`: questions about pictures for a person, and the answers brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import with_settings
from flows.cli.output import Json, Store, print_json, print_lines, progress_bar, store_url

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Let people answer what the model is unsure of: export, import.",
)


@app.command("export")
def export_questions(
    to: Annotated[Path, typer.Option("--to", help="Folder for review.html, tasks.json and label-config.xml.")],
    per_label: Annotated[int | None, typer.Option(help="Pictures for each label.  [default: 16]")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions in all, novel labels first.  [default: 320]")] = None,
    labels: Annotated[str | None, typer.Option(help="Label ids: dog,cat.  [default: all active labels]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the pictures drawn by lot.  [default: 0]")] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Choose the pictures that are worth a person's time; write a page that asks about them, and Label Studio tasks.

    Of a label's pictures most are those nearest its threshold, one in eight is drawn by lot, and of a label that the
    model never saw three in eight are the highest scores below the threshold. Novel labels come first, one picture of
    each content, nothing that side files or answers speak of already. Answer in a browser: y yes, n no, u unsure,
    s save. Nothing leaves the page but the file that it saves.

    Example: clipdecoder review export --to review --labels dog,bus
    """
    from flows.review.export import run_export
    from schemas.config import make_request
    from schemas.review import ReviewRequest

    given = {
        "per_label": per_label,
        "limit": limit,
        "labels": tuple(filter(None, map(str.strip, labels.split(",")))) if labels is not None else None,
        "seed": seed,
        "store": store,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    request = make_request(ReviewRequest, **with_settings(ReviewRequest, asked))
    with progress_bar("reading pictures, by shard") as watch:
        summary = run_export(request, to, watch)
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())


@app.command("import")
def import_answers(
    file: Annotated[str, typer.Argument(help="The page's answers file, or a Label Studio export of its tasks.")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Bring answers into the annotations of the store. The same file twice changes nothing.

    Example: clipdecoder review import answers.json
    """
    from flows.review.answers import run_import

    summary = run_import(store_url(store), file)
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())
