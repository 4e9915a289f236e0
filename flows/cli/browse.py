"""`clipdecoder browse`: the local page. Loads a model only where somebody asks for what needs one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli.output import Json, Store, print_json, say, store_url


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(browse)


def browse(
    store: Store = None,
    host: Annotated[str, typer.Option(help="Where to listen. Others than 127.0.0.1 need a --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="CLIPDECODER_BROWSE_TOKEN",
            help="What a browser must show once, in the address: at least 16 letters.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at the pictures of a store in a browser, with their tags, until Ctrl-C.

    Filter by label, score, status, dataset, model or run; try thresholds; compare two models or runs; ask SQL; search
    by text or picture; answer yes, no or unsure; export what is shown. The page is served to this machine alone, loads
    nothing from elsewhere, and reads shards by byte range. Answers go to the store's annotations.

    Example: clipdecoder browse --store store
    """
    from flows.browse.server import serve

    def started(address: str) -> None:
        if as_json:
            print_json({"url": address})
            sys.stdout.flush()
        else:
            say(f"open {address} in a browser; Ctrl-C ends it")

    serve(store_url(store), host, port, token, started)
