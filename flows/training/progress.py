"""Progress bars of training, evaluation and calibration, on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows.train import TrainWatch
from flows.training.ground_truth import Watch

if TYPE_CHECKING:
    from clipdecoder.training.report import EpochReport

# Who is told of the steps of a training that runs as a flow in this process; see `flows.tagging.progress.watcher`.
training_watcher: ContextVar[TrainWatch | None] = ContextVar("training_watcher", default=None)

_WORDS = {
    "backfill": "scoring, by shard",
    "features": "features, by shard",
    "score": "scoring",
    "choose": "first stage, some labels left out",
    "final": "second stage, all labels",
}


@contextmanager
def stage_bar(console: Console | None) -> Iterator[Watch]:
    """Show a bar per stage while the block runs; yields what is to be told of progress."""
    with _bars(console) as bars:
        yield bars.show


@contextmanager
def training_bar(console: Console | None) -> Iterator[TrainWatch]:
    """Show the steps of each epoch, and a line for each epoch that is done."""
    with _bars(console) as bars:
        yield TrainWatch(on_progress=bars.show, on_epoch=bars.tell)


class _Bars:
    """One bar at a time for each stage."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        if self.progress is None:
            return
        if stage not in self._tasks:
            self._tasks[stage] = self.progress.add_task(_WORDS.get(stage, stage), total=total)
        self.progress.update(self._tasks[stage], completed=done, total=total)

    def tell(self, stage: str, report: EpochReport) -> None:
        if self.progress is None:
            return
        value = (
            ""
            if report.value is None
            else f", validation mAP {100 * report.value:.1f} (best: epoch {report.best_epoch})"
        )
        self.progress.console.print(
            f"{_WORDS.get(stage, stage)}: epoch {report.epoch} of {report.epochs}, loss {report.losses['loss']:.3f}, "
            f"{report.images_per_second:,.0f} images per second{value}"
        )


@contextmanager
def _bars(console: Console | None) -> Iterator[_Bars]:
    if console is None or not console.is_terminal:
        yield _Bars(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)
