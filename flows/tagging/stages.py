"""Which stage of a run was the limit, from what the reports of its shards say of their seconds and queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from schemas.manifest import QueueFacts, ShardReport

# What each thread, or group of threads, of the pipeline spends its time with. Reading threads look up features too.
_STAGES = {
    "read": ("read", "features"),
    "decode": ("decode",),
    "device": ("encode", "score"),
    "write": ("write",),
}


def total_seconds(reports: Sequence[ShardReport]) -> dict[str, float]:
    """Return the seconds by stage of several shards together."""
    stages = sorted({stage for report in reports for stage in report.seconds})
    return {stage: sum(report.seconds.get(stage, 0.0) for report in reports) for stage in stages}


def total_queues(reports: Iterable[ShardReport]) -> dict[str, QueueFacts]:
    """Return what the queues were like over several shards: seconds added up, depths averaged over them."""
    found: dict[str, list[QueueFacts]] = {}
    for report in reports:
        for name, facts in report.queues.items():
            found.setdefault(name, []).append(facts)
    return {name: _joined(facts) for name, facts in sorted(found.items())}


def limit(seconds: Mapping[str, float], queues: Mapping[str, QueueFacts]) -> str | None:
    """Return the stage that had the least idle time: "decode-bound: 4 threads, 96 % busy"; None if nothing is known.

    A stage is busy by the clock: on a processor that all share, also while it waits for its turn.
    """
    if "files" not in queues or not queues["files"].seconds:
        return None
    wall, threads = queues["files"].seconds, queues["files"].threads
    busy = {stage: sum(seconds.get(name, 0.0) for name in names) / wall for stage, names in _STAGES.items()}
    busy["decode"] /= threads
    stage = max(busy, key=lambda name: busy[name])
    how_many = f"{threads} thread{'s' * (threads != 1)}, " if stage == "decode" else ""
    return f"{stage}-bound: {how_many}{100 * min(1.0, busy[stage]):.0f} % busy"


def _joined(facts: Sequence[QueueFacts]) -> QueueFacts:
    seconds = sum(each.seconds for each in facts)
    return QueueFacts(
        seconds=seconds,
        mean=sum(each.mean * each.seconds for each in facts) / seconds if seconds else 0.0,
        most=max(each.most for each in facts),
        waited_to_put=sum(each.waited_to_put for each in facts),
        waited_to_get=sum(each.waited_to_get for each in facts),
        threads=max(each.threads for each in facts),
    )
