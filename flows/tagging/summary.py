"""What a tagging run came to: the numbers a person, a program and Prefect are told."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from flows.tagging.outcomes import RunOutcome
from flows.tagging.shard_job import ShardTrouble, trouble_of
from flows.tagging.stages import limit, total_queues, total_seconds
from schemas.commands import store_command
from schemas.counts import counted
from schemas.manifest import QueueFacts
from schemas.sample import SampleStatus, ShardStatus
from storage.files import Folder
from storage.models import read_promotion

_NAMED = 5  # labels named in a sentence
_WHY_FAILED = "select status, error, count(*) from failures group by all"
MAX_LISTED = 500  # rows of the shard table; the worst come first


class TagSummary(BaseModel):
    """A run's result, as `tag --json` prints it."""

    run_id: str
    dataset: str
    store: str
    model_id: str
    promoted: bool  # whether `scores` and `tags` show this model
    calibration: str
    labels: int
    retired: bool  # whether the taxonomy has no label that is scored, new or not
    shards: int
    tagged: int  # shards done this time
    resumed: int  # shards that were done before
    truncated: int  # of both: shards that end early, whose rows before the cut are there
    samples: int
    statuses: dict[SampleStatus, int]
    shared_keys: int
    troubles: list[ShardTrouble]
    decoded: int
    lenient: int  # of these, JPEGs that the strict decoder refused and Pillow read, this time
    seconds: dict[str, float]  # by stage, this time; decode is the sum over its threads
    queues: dict[str, QueueFacts] = {}  # between the stages, this time; see ShardReport
    limit: str | None = None  # the stage that had the least idle time, e.g. "decode-bound: 4 threads, 96 % busy"
    wall_seconds: float
    complete: bool
    over_budget: bool  # more samples failed than --max-bad allows
    ok: bool  # exit code 0
    next_steps: list[str]
    more: list[TagSummary] = []  # further runs of the request: where labels were to be `new`, shards lacked other ones

    def lines(self) -> list[str]:
        """Return the summary as Markdown lines, readable as plain text."""
        if not self.labels:
            every_label = "every label of the taxonomy is retired; nothing is scored, and `tags` shows none"
            no_new_label = "no label is new; every one is scored on every tagged shard"
            return [
                f"dataset {self.dataset}: {every_label if self.retired else no_new_label}",
                *(f"- next: {step}" for step in self.next_steps),
            ]
        failed = Counter(self.statuses)
        ok = failed.pop(SampleStatus.OK, 0)
        lines = [
            f"run {self.run_id}: {self._state()}",
            f"- {counted(self.shards, 'shard')}: {self._shard_counts()}",
            f"- {counted(self.samples, 'image')}: {ok} scored, {failed.total()} failed"
            + (f" ({_counts(failed)})" if failed else ""),
            f"- {counted(self.labels, 'label')}, model {self.model_id}, calibration: {self.calibration}",
        ]
        if self.decoded:
            lines.append(f"- {self.decoded / self.wall_seconds:,.0f} images per second; {stage_line(self.seconds)}")
            lines += [f"- {self.limit}"] if self.limit else []
            if self.lenient:
                lines.append(f"- read by Pillow, as the strict decoder refuses them: {counted(self.lenient, 'JPEG')}")
        elif self.tagged:
            lines.append("- no image was decoded: their embeddings were stored")
        if self.shared_keys:
            lines.append(
                f"- {counted(self.shared_keys, 'key', 'stand')} in more than one shard; rows are told apart by shard"
            )
        lines += [f"- shard {t.shard}: {t.status}: {t.error}" for t in self.troubles[:10]]
        lines += [f"- next: {step}" for step in self.next_steps]
        return lines + [line for summary in self.more for line in summary.lines()]

    def _state(self) -> str:
        state = "complete" if self.complete else "NOT complete"
        if not self.over_budget:
            return state
        return f"TOO MANY FAILED, more than --max-bad allows; {state if self.complete else 'stopped, ' + state}"

    def _shard_counts(self) -> str:
        """Count each shard once: tagged, or why not."""
        lost = len(self.troubles) - self.truncated
        waiting = self.shards - self.tagged - self.resumed - lost
        counts = f"{self.tagged} tagged now, {self.resumed} before, {lost} in trouble"
        counts += f", {waiting} not begun" if waiting else ""
        return counts + (f"; {self.truncated} of those tagged end early" if self.truncated else "")


def summarise(outcome: RunOutcome, wall_seconds: float) -> TagSummary:
    """Return the summary of a run that has ended, well or not."""
    record = outcome.plan.record
    promotion = read_promotion(Folder(outcome.plan.request.store))
    now = list(outcome.reports.values())
    own_seconds = wall_seconds - sum(other.wall_seconds for other in outcome.more)
    return TagSummary(
        run_id=record.run_id,
        dataset=record.dataset,
        store=outcome.plan.request.store,
        model_id=record.model_id,
        promoted=promotion is not None and promotion.model_id == record.model_id,
        calibration=record.calibration,
        labels=len(outcome.plan.vocabulary),
        retired=not outcome.plan.taxonomy.vocabulary(),
        shards=len(outcome.plan.shards),
        tagged=len(now),
        resumed=len(outcome.all_reports) - len(now),
        truncated=sum(report.status is not ShardStatus.OK for report in outcome.all_reports),
        samples=outcome.statuses.total(),
        statuses=dict(outcome.statuses),
        shared_keys=outcome.shared_keys,
        troubles=_troubles(outcome),
        decoded=sum(report.decoded for report in now),
        lenient=sum(report.lenient for report in now),
        seconds={stage: round(value, 3) for stage, value in total_seconds(now).items()},
        queues=total_queues(now),
        limit=limit(total_seconds(now), total_queues(now)),
        wall_seconds=round(own_seconds, 3),
        complete=outcome.complete,
        over_budget=outcome.over_budget,
        ok=outcome.whole,
        next_steps=_next_steps(outcome, promoted=promotion is not None and promotion.model_id == record.model_id),
        more=[summarise(other, other.wall_seconds) for other in outcome.more],
    )


def shard_rows(outcome: RunOutcome) -> list[dict[str, str | int | float]]:
    """Return one row per shard for a table, the worst first, at most `MAX_LISTED`."""
    rows: list[dict[str, str | int | float]] = [
        {"shard": f.shard, "status": str(f.status), "samples": 0, "failed": 0, "seconds": 0.0} for f in outcome.failures
    ]
    reports = sorted(outcome.all_reports, key=lambda report: (-report.num_failed, report.shard))
    rows += [
        {
            "shard": report.shard,
            "status": str(report.status),
            "samples": report.num_samples,
            "failed": report.num_failed,
            "seconds": round((report.finished_at - report.started_at).total_seconds(), 2),
        }
        for report in reports
    ]
    return rows[:MAX_LISTED]


def stage_line(seconds: dict[str, float]) -> str:
    """Return seconds per stage, the longest first: "encode 12.0 s, decode 8.1 s, ..."."""
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {value:.1f} s" for stage, value in ordered)


def _counts(statuses: Counter[SampleStatus]) -> str:
    return ", ".join(f"{count} {status}" for status, count in statuses.most_common())


def _troubles(outcome: RunOutcome) -> list[ShardTrouble]:
    cut = [trouble for report in outcome.all_reports if (trouble := trouble_of(report))]
    return outcome.failures + cut


def _next_steps(outcome: RunOutcome, *, promoted: bool) -> list[str]:
    """Say what a person would do now."""
    steps = []
    if outcome.over_budget:
        steps.append(
            f"more than --max-bad {outcome.plan.request.max_bad} of the samples failed; ask "
            f"`{store_command('sql', _WHY_FAILED, store=outcome.plan.request.store)}` why, then mend the images or "
            "raise --max-bad"
        )
    elif not outcome.complete:
        steps.append("mend the shards above and run the same command again; what is done stays done")
    elif any(report.status is ShardStatus.TRUNCATED for report in outcome.all_reports):
        steps.append("replace the truncated shards and run the same command again; only they are read")
    if outcome.plan.shards and outcome.statuses.total() and not outcome.statuses[SampleStatus.OK]:
        steps.append("no image could be scored: are these image shards?")
    if removed := outcome.plan.removed:
        more = f" and {len(removed) - _NAMED} more" * (len(removed) > _NAMED)
        steps.append(
            f"taxonomy {outcome.plan.taxonomy.name!r} does not name {', '.join(removed[:_NAMED])}{more} any more, and "
            "the store has scores of them, which `tags` does not show: write them as retired: true, or merged_into "
            "another label"
        )
    if outcome.plan.vocabulary and not promoted:
        promote = store_command("models", "promote", outcome.plan.record.model_id, store=outcome.plan.request.store)
        steps.append(f"`scores` and `tags` show another model; show this one with `{promote}`")
    return steps
