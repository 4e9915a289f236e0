"""What an audit reports: counts, and what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from pydantic import computed_field

from schemas.counts import counted
from schemas.record import Record


class FindingCode(StrEnum):
    """What an audit can find."""

    RECORD = "record"  # a run's, a taxonomy's or a model's own file is lost or damaged
    NO_RUN = "no_run"  # the store has no run at all, so there is nothing that could be whole
    INCOMPLETE = "incomplete"  # the run has no manifest
    NO_REPORT = "no_report"  # the patterns name a shard that the run did not finish
    PART_MISSING = "part_missing"
    PART_CHANGED = "part_changed"  # not the bytes that the report names
    PART_UNREADABLE = "part_unreadable"  # not Parquet, or not with our columns
    ROWS = "rows"  # number, order or statuses of the sample rows
    SCORES = "scores"  # score rows that are missing, twice there, or of something that was not scored
    SHARD_CHANGED = "shard_changed"  # other bytes than those that were scored
    IMAGES = "images"  # the shard has more or fewer images than rows
    SHARD_UNREADABLE = "shard_unreadable"
    SHARD_GONE = "shard_gone"  # warning: the rows are there, and can no longer be compared
    SHARD_CUT = "shard_cut"  # warning: what stood behind the cut of a truncated shard is not known
    UNLISTABLE = "unlistable"  # warning: it cannot be told whether there are new shards
    GROUND_TRUTH = "ground_truth"  # answers, or what side files say, that cannot be read
    CURATION = "curation"  # picture statistics, or groups of duplicates, that cannot be read
    STALE = "stale"  # warning: groups of duplicates of other samples, embeddings or statistics than there are now
    LEFTOVER = "leftover"  # warning: a file that nothing reads: of a process that was killed, or damaged and replaced


WARNINGS = frozenset(
    (
        *(FindingCode.SHARD_GONE, FindingCode.SHARD_CUT, FindingCode.UNLISTABLE),
        *(FindingCode.STALE, FindingCode.LEFTOVER),
    )
)
LINES_PER_CODE = 10  # of each kind of finding in the text; all of them are in the data


class Finding(Record):
    """One thing that does not hold, or that cannot be proven."""

    code: FindingCode
    run_id: str | None
    shard: str | None = None
    message: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def warning(self) -> bool:
        """Whether the run passes all the same."""
        return self.code in WARNINGS

    def line(self) -> str:
        """Return the finding as text."""
        place = f" {' '.join(filter(None, (self.run_id, self.shard)))}:" if self.run_id else ""
        return f"{'warning' if self.warning else 'FAILED'} {self.code}:{place} {self.message}"


class RunCounts(Record):
    """What was counted of one run. Runs of one dataset count the same images, so there is no sum over runs."""

    run_id: str
    shards: int = 0
    images: int = 0  # counted in the shards that are there
    samples: int = 0  # rows
    ok: int = 0
    failed: int = 0
    scores: int = 0  # score rows
    shared_keys: int = 0  # keys that stand in more than one shard of the run; allowed, and worth knowing

    def line(self) -> str:
        """Return the counts as text."""
        return (
            f"{self.run_id}: {counted(self.shards, 'shard')}, {counted(self.images, 'image')} in them, "
            f"{counted(self.samples, 'row')} = {self.ok} ok + "
            f"{self.failed} failed, {self.scores} scores, {self.shared_keys} keys in more than one shard"
        )


class AuditReport(Record):
    """What was counted of each run, and what was found."""

    runs: tuple[RunCounts, ...]
    findings: tuple[Finding, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether everything that could be compared holds."""
        return all(finding.warning for finding in self.findings)

    def lines(self) -> list[str]:
        """Return the report as text: the first findings of each kind, then a line for each run."""
        failed = {finding.run_id for finding in self.findings if not finding.warning}
        verdicts = (f"{'FAILED' if run.run_id in failed else 'passed'}: {run.line()}" for run in self.runs)
        return [*self._finding_lines(), *verdicts]

    def _finding_lines(self) -> Iterator[str]:
        told: Counter[FindingCode] = Counter()
        for finding in self.findings:
            told[finding.code] += 1
            if told[finding.code] <= LINES_PER_CODE:
                yield finding.line()
        for code, count in told.items():
            if count > LINES_PER_CODE:
                yield f"... and {count - LINES_PER_CODE} more of {code}; --json gives all"
