"""A progress bar for a tagging run, on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.tagging.outcomes import RunOutcome
from flows.tagging.run import Progress as Watcher
from schemas.counts import counted
from schemas.sample import SampleStatus


def _nobody(outcome: RunOutcome) -> None:
    """Watch nothing: the default where there is no terminal."""


# A flow's parameters are data, so whoever wants to watch one that runs in this process says so here.
watcher: ContextVar[Watcher] = ContextVar("watcher", default=_nobody)


@contextmanager
def progress_bar(console: Console) -> Iterator[None]:
    """Show the shards of the runs inside this block as they are done, if `console` is a terminal."""
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
    with Progress(*columns, TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("tagging", total=None, note="")

        def show(outcome: RunOutcome) -> None:
            failed = outcome.statuses.total() - outcome.statuses[SampleStatus.OK]
            note = f"{counted(outcome.statuses.total(), 'image')}" + (f", {failed:,} failed" if failed else "")
            done = len(outcome.all_reports) + len(outcome.failures)
            bar.update(task, total=len(outcome.plan.shards), completed=done, note=note)

        token = watcher.set(show)
        try:
            yield
        finally:
            watcher.reset(token)
