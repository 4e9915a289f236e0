"""`clipdecoder demo`: the whole story, offline, on generated pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import print_lines, say


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
    say("$ " + " ".join(_quoted(word) for word in words))


def _quoted(word: str) -> str:
    """Quote a word for a shell; SQL, which is full of single quotes, in double ones."""
    plain_in_double_quotes = not set(word) & set('"$`\\!')
    return f'"{word}"' if "'" in word and plain_in_double_quotes else shlex.quote(word)
