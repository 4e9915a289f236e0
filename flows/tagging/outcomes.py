"""What became of a run and of its shards, and whether that is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from flows.tagging.plan import TagPlan
from flows.tagging.shard_job import ShardTrouble
from schemas.manifest import ShardReport
from schemas.sample import SampleStatus, ShardStatus

# A budget is judged on no fewer samples than this while the run goes on; at its end, on however many there are.
_BUDGET_SAMPLES = 100


@dataclass(kw_only=True)
class GroupOutcome:
    """What became of a group of shards."""

    reports: list[ShardReport] = field(default_factory=list)
    failures: list[ShardTrouble] = field(default_factory=list)

    def add(self, done: ShardReport | ShardTrouble) -> None:
        """Take what became of one shard."""
        if isinstance(done, ShardReport):
            self.reports.append(done)
        else:
            self.failures.append(done)


@dataclass(kw_only=True)
class RunOutcome:
    """What became of a run: `reports` of this time, and `resumed` ones of shards that needed no visit."""

    plan: TagPlan
    resumed: dict[str, ShardReport]
    reports: dict[str, ShardReport] = field(default_factory=dict)
    failures: list[ShardTrouble] = field(default_factory=list)
    shared_keys: int = 0
    over_budget: bool = False
    wall_seconds: float = 0.0
    more: list[RunOutcome] = field(default_factory=list)  # of the plan's further runs
    # Rows by status over all planned shards that are done; kept up, as it is asked for after every shard.
    statuses: Counter[SampleStatus] = field(init=False)

    def __post_init__(self) -> None:
        """Count what was done before."""
        self.statuses = count_statuses(self.resumed.values())

    def add(self, group: GroupOutcome) -> None:
        """Take what became of some shards, and judge the run by it."""
        self.reports |= {report.shard: report for report in group.reports}
        self.statuses.update(count_statuses(group.reports))
        self.failures += group.failures
        self.judge()

    @property
    def all_reports(self) -> list[ShardReport]:
        """The report of every planned shard that is done, by shard."""
        return [report for _, report in sorted((self.resumed | self.reports).items())]

    @property
    def finished(self) -> bool:
        """Whether every shard of this run has its rows; where no label is scored, no shard is visited."""
        return not self.plan.vocabulary or len(self.all_reports) == len(self.plan.shards)

    @property
    def complete(self) -> bool:
        """Whether every planned shard has its rows, in the plan's further runs too."""
        more = len(self.more) == len(self.plan.more) and all(outcome.complete for outcome in self.more)
        return self.finished and more

    @property
    def whole(self) -> bool:
        """Whether nothing is left to complain of: complete, no shard truncated, within budget, something scored."""
        samples, ok = self.statuses.total(), self.statuses[SampleStatus.OK]
        untruncated = all(report.status is ShardStatus.OK for report in self.all_reports)
        sound = untruncated and not self.over_budget and (ok > 0 or samples == 0)
        return self.complete and sound and all(outcome.whole for outcome in self.more)

    def judge(self, *, at_end: bool = False) -> None:
        """Note whether the run is over its budget of failures."""
        self.over_budget |= exceeds_budget(self.statuses, self.plan.request.max_bad, at_end=at_end)


def count_statuses(reports: Iterable[ShardReport]) -> Counter[SampleStatus]:
    """Return the rows by status of several shards together."""
    statuses: Counter[SampleStatus] = Counter()
    for report in reports:
        statuses.update(report.statuses)
    return statuses


def exceeds_budget(statuses: Counter[SampleStatus], max_bad: float | None, *, at_end: bool = False) -> bool:
    """Whether the share of failed samples is above what the request allows."""
    samples = statuses.total()
    if max_bad is None or samples == 0 or (samples < _BUDGET_SAMPLES and not at_end):
        return False
    return (samples - statuses[SampleStatus.OK]) / samples > max_bad
