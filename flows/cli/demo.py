"""`clipdecoder demo`: the whole story, offline, on generated pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import print_lines, say
from schemas.commands import shell


def register(app: typer.Typer) -> None:
    """Add the command."""

    def run(*words: str) -> None:
        _show("clipdecoder", *words)
        code = app(list(words), standalone_mode=False)
        if code:  # without standalone mode, Ctrl-C and failures are only returned
            raise typer.Exit(code)

    @app.command()
    def demo(
        to: Annotated[Path, typer.Option("--to", help="Folder for everything that the demo makes.")] = Path("demo"),
        pictures: Annotated[int, typer.Option(min=8, help="Pictures to render.")] = 600,
    ) -> None:
        """Render pictures, tag, ask SQL, add labels, audit, train, evaluate, calibrate; print each command on the way.

        Example: clipdecoder demo --to demo
        """
        from flows.demo import play

        play(to, pictures, run=run, show=_show, tell=lambda title: print_lines(["", title]))


def _show(*words: str) -> None:
    """Print a command as a reader would type it."""
    say(f"$ {shell(*words)}")
