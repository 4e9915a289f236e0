"""How commands speak: results to stdout (one JSON value with --json), everything else to stderr.

Keys, labels and messages may hold what others wrote, so nothing of theirs reaches the terminal as a control character.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Protocol

import typer

from schemas.commands import commands_about, default_store
from schemas.errors import ConfigError
from storage.terminal import draw_table, visible

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result on stdout.")]


def _told_store(context: typer.Context, store: str | None) -> str | None:
    """Let the commands that this one prints name the store that it was given."""
    context.with_resource(commands_about(store))
    return store


Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="URL of the store.  [default: `store` in clipdecoder.toml, else ./store]",
        callback=_told_store,
    ),
]


class Summary(Protocol):
    """What a command that can fail half-way came to."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""

    def lines(self) -> list[str]:
        """Return it as text."""


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    from pydantic import BaseModel

    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(json.dumps(plain, indent=2, ensure_ascii=False, default=str) + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """Print text on stdout."""
    for line in lines:
        typer.echo(visible(line))


def print_summary(summary: Summary, *, as_json: bool) -> None:
    """Print what a command came to, and end it with exit code 1 if something failed."""
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())
    if not summary.ok:
        raise typer.Exit(1)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C end work that another call goes on with: exit code 130, and a word on what to do."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; what is done stays done, and the same command goes on")
        raise typer.Exit(130) from None


@contextmanager
def progress_bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far work is, on a terminal and nowhere else; yields what is told how much is done, and of how much."""
    from rich.progress import Progress

    console = stderr()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(words, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table on stdout; numbers to the right."""
    numeric = [any(isinstance(row[c], int | float) and not isinstance(row[c], bool) for row in rows) for c in columns]
    cells = (["" if row[column] is None else str(row[column]) for column in columns] for row in rows)
    typer.echo(draw_table(list(zip(columns, numeric, strict=True)), cells, shown_width()), nl=False)


def shown_width() -> int | None:
    """Return how wide a table may be: as the terminal, or as it likes where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(message: str) -> None:
    """Tell the person at the terminal something, on stderr."""
    typer.echo(visible(message), err=True)


def say_error(error: Exception) -> None:
    """Tell the person what went wrong, on stderr."""
    from rich.text import Text

    stderr().print(Text.assemble(("error:", "bold red"), " ", visible(str(error))), soft_wrap=True)


def stderr() -> Console:
    """Return stderr as Rich knows it, for colours and what moves."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written: it takes the place of `path` when the block ends well, else `path` stays as it was.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no content to keep, and is not to be replaced
            with path.open("wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
        temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                yield file
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except BrokenPipeError:  # whoever read the output has enough of it
        raise
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}") from None


def store_url(store: str | None) -> str:
    """Return the store to use: the option, else the setting."""
    return store if store is not None else default_store()
