"""`clipdecoder report`: a run as a page. Imports neither torch nor Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import Json, Store, print_json, replaced, say, stoppable, store_url
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.report import ReportRequest, RunReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            help="A run id, the start of one, or a dataset: its newest run.  [default: the newest complete run]"
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Where the page goes (.html).  [default: RUN_ID.html]")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A label to show in full; may be given again.  [default: frequent, rare and novel ones]"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, max=50, help="Pictures of each kind and label.")] = 5,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write a run as one HTML page: what ran on what, failures, time, tags per label, scores, pictures that tell most.

    It loads nothing and can be mailed. With --json its figures are printed; the page is then written only with -o.

    Example: clipdecoder report street --label dog --label bus -o street.html
    """
    from flows.report.figures import run_report
    from schemas.config import make_request
    from schemas.report import ReportRequest

    path = _page(output)
    request = make_request(
        ReportRequest, store=store_url(store), run=run, labels=tuple(label) if label else None, per_label=pictures
    )
    with stoppable():
        figures = run_report(request)
        if path is not None or not as_json:
            target = path or Path(f"{figures.run.run_id}.html")
            _write(target, request, figures)
            say(f"wrote {target}")
    if as_json:
        print_json(figures)


def _page(output: str | None) -> Path | None:
    """Return where the page goes.

    Raises:
        ConfigError: the name is no local HTML file.
    """
    if output is not None and ("://" in output or Path(output).suffix.lower() not in (".html", ".htm")):
        raise ConfigError(f"-o {output!r}: report writes a page; give it a local name that ends in .html")
    return Path(output) if output is not None else None


def _write(path: Path, request: ReportRequest, figures: RunReport) -> None:
    from flows.report.page import read_pictures, report_page

    page = report_page(figures, read_pictures(request, figures))
    with replaced(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
