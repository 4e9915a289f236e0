"""The `tag` flow: a run's groups of shards as Prefect tasks, and what became of them as artifacts.

The results do not depend on Prefect: which shards are done is read from the store (its caches cannot see a deleted or
truncated output), so a run that is killed, retried or started twice ends the same.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.handover import planned
from flows.report.markdown import stored_markdown
from flows.tagging.outcomes import GroupOutcome, RunOutcome
from flows.tagging.plan import TagPlan, plan_tag
from flows.tagging.processes import execute_on_all
from flows.tagging.progress import watcher
from flows.tagging.run import Groups, Stop, run_tag, tag_group
from flows.tagging.summary import TagSummary, shard_rows, summarise
from schemas.config import TagRequest
from schemas.errors import ShardError
from schemas.sample import ShardStatus
from storage.patterns import ShardRef

# Two groups at a time: the device works on one while the other begins, ends, or waits to be tried again. They share the
# model, and their decoding threads take turns.
WORKERS = 2
RETRIES = 2
RUNNER: Any = ThreadPoolTaskRunner(max_workers=WORKERS)


@task(name="tag-group", cache_policy=NO_CACHE, persist_result=False, retries=RETRIES, retry_delay_seconds=[5, 30])
def tag_group_task(plan: TagPlan, refs: tuple[ShardRef, ...]) -> GroupOutcome:
    """Tag a group of shards. Shards that could not be read are tried again: networks recover."""
    outcome = tag_group(plan, refs)
    unreadable = [failure for failure in outcome.failures if failure.status is ShardStatus.UNREADABLE]
    if unreadable and runtime.task_run.run_count <= RETRIES:
        raise ShardError(ShardStatus.UNREADABLE, str(unreadable[0].error))
    return outcome


def execute_with_prefect(plan: TagPlan, groups: Groups, stop: Stop) -> Iterator[GroupOutcome]:
    """Run the groups as tasks, a few at a time, and yield each outcome as it comes; see `flows.tagging.run.Execute`."""
    waiting = deque(groups)
    running: list[PrefectFuture[GroupOutcome]] = []
    opaque_plan: Any = quote(plan)  # Prefect would search it for futures, item by item
    while running or (waiting and not stop()):
        while waiting and len(running) < WORKERS and not stop():
            refs: Any = quote(waiting.popleft())
            running.append(tag_group_task.submit(opaque_plan, refs))
        first = next(as_completed(running))
        running.remove(first)
        yield first.result()


@flow(name="tag", task_runner=RUNNER, persist_result=False)
def tag(request: TagRequest) -> TagSummary | State:
    """Tag shards with a vocabulary and write the scores to the store. The same request resumes.

    Returns the run's summary; as a failed state, if something failed that the same request can finish.
    """
    summary = tag_and_report(request)
    return summary if summary.ok else Failed(message="\n".join(summary.lines()), data=summary)


def tag_and_report(request: TagRequest) -> TagSummary:
    """Tag within a flow run, and leave a table of shards and a summary as artifacts."""
    started = time.perf_counter()
    plan = planned(request, TagPlan, lambda: plan_tag(request))
    outcome = run_tag(plan, partial(execute_on_all, otherwise=execute_with_prefect), watcher.get())
    summary = summarise(outcome, time.perf_counter() - started)
    for run, its_summary in zip((outcome, *outcome.more), (summary, *summary.more), strict=True):
        publish(run, its_summary)
    return summary


def publish(outcome: RunOutcome, summary: TagSummary) -> None:
    """Show the run in Prefect: its shards as a table, its summary and the figures of its report as text."""
    key = re.sub(r"[^a-z0-9]+", "-", summary.run_id.lower()).strip("-")
    create_table_artifact(key=f"shards-{key}", table=shard_rows(outcome), description="Shards, the worst first")
    create_markdown_artifact(key=f"summary-{key}", markdown="\n".join(summary.lines()), description="Tagging run")
    if summary.labels:
        figures = stored_markdown(summary.store, summary.run_id)
        create_markdown_artifact(key=f"report-{key}", markdown=figures, description="Figures of the run")
