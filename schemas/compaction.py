"""What compaction writes about itself, and what it reports.

`runs/<run_id>/compacted.json`   CompactedRun, after its files: which large file stands for which parts
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, computed_field

from schemas.counts import counted
from schemas.manifest import Part
from schemas.record import Record

Kind = Literal["samples", "scores"]


class CompactedFile(Record):
    """One large file with the rows of many parts. It stands for them while reports name just these parts."""

    kind: Kind
    file: Part
    parts: tuple[Part, ...]


class CompactedRun(Record):
    """The large files of one run."""

    run_id: str
    files: tuple[CompactedFile, ...]
    # Paths of files that stood here and do not any more, and since when: a query may still read them.
    dropped: dict[str, datetime] = Field(default_factory=dict)


class RunCompaction(Record):
    """What was done, or would be, for one run."""

    run_id: str
    parts: int  # of the run, samples and scores
    merged: int  # parts that the large files stand for
    files: int  # the large files
    written: int  # of these, those that were not there before
    bytes: int  # of the large files; 0 where nothing was written yet
    problems: tuple[str, ...] = ()

    def line(self) -> str:
        """Return it as text."""
        if not self.files:
            return f"{self.run_id}: {self.parts} parts, none of them to be merged"
        size = f", {self.bytes / 1e6:,.1f} MB" if self.bytes else ""
        return (
            f"{self.run_id}: {self.merged} of {counted(self.parts, 'part')} in "
            f"{counted(self.files, 'file')}{size}; {self.written} new"
        )


class CompactReport(Record):
    """What `compact` did, or with `dry_run` would do."""

    dry_run: bool
    runs: tuple[RunCompaction, ...]
    incomplete: tuple[str, ...]  # runs that were left alone

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether every part could be read."""
        return not any(run.problems for run in self.runs)

    def lines(self) -> list[str]:
        """Return the report as text."""
        problems = [f"FAILED {problem}" for run in self.runs for problem in run.problems]
        left = [f"{run_id}: not complete, left alone; its command goes on with it" for run_id in self.incomplete]
        empty = [] if self.runs or left else ["the store has no run; `clipdecoder tag` makes one"]
        after = ["nothing was written (--dry-run)"] * self.dry_run
        return [*problems, *(run.line() for run in self.runs), *left, *empty, *after]
