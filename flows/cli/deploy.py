"""`clipdecoder deploy`: put the deployments of `prefect.yaml` on a Prefect server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import Json, print_json, print_lines


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(deploy)


def deploy(
    pool: Annotated[
        str | None, typer.Option(help="Work pool, created if there is none.  [default: as prefect.yaml says]")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="URL of the store.  [default: as prefect.yaml says]")
    ] = None,
    taxonomy: Annotated[
        list[str] | None,
        typer.Option(help="Taxonomy file; several make a deployment each.  [default: as prefect.yaml says]"),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="Added to every deployment's name, for several stores on one server.")
    ] = None,
    file: Annotated[Path, typer.Option(help="The file that says what there is.")] = Path("prefect.yaml"),
    as_json: Json = False,
) -> None:
    """Put the deployments of prefect.yaml on the server of PREFECT_API_URL: schedules, triggers, work pool.

    Also lets the server mark runs as crashed whose process and worker are gone. Again at any time: nothing is made
    twice. Run it in the folder that has the flows: runs start there.

    Example: clipdecoder deploy --store s3://bucket/store --taxonomy taxonomy.yaml
    """
    from flows.deployed.deployments import DeployOptions
    from flows.deployed.deployments import deploy as put_on_server

    options = DeployOptions(file=file, pool=pool, store=store, taxonomies=tuple(taxonomy or ()), suffix=suffix)
    report = put_on_server(options)
    if as_json:
        print_json(report)
    else:
        print_lines(report.lines())
