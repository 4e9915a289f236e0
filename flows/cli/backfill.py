"""`clipdecoder backfill`: score what the shown model has not scored yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import BatchSize, Device, with_settings
from flows.cli.orchestration import run_flow
from flows.cli.output import Json, Store, print_json, print_lines, print_summary, stderr, stoppable

if TYPE_CHECKING:
    from flows.backfill import BackfillPlan
    from flows.tagging.backfill_summary import BackfillSummary
    from schemas.config import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(backfill)


def backfill(
    model: Annotated[str | None, typer.Option(help="A model id, or current.  [default: the promoted model]")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be scored; write nothing.")] = False,
    batch_size: BatchSize = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Score the labels that are in force and that the model has not scored yet, on every shard that was tagged.

    After a promotion these are all labels, else those that were added or reworded. Scores come from stored features:
    shards are read only where these are missing. The same command goes on after an interruption.

    Example: clipdecoder backfill --plan
    """
    from flows.backfill import plan_backfill
    from schemas.config import BackfillRequest, load_settings, make_request

    given = {"model": model or "current", "batch_size": batch_size, "device": device, "store": store}
    request = make_request(BackfillRequest, **with_settings(BackfillRequest, given))
    settings, planned = load_settings(), plan_backfill(request)
    if plan:
        _show(planned, as_json)
        return
    with stoppable():
        summary = _run(planned, settings)
    print_summary(summary, as_json=as_json)


def _show(plan: BackfillPlan, as_json: bool) -> None:
    from flows.tagging.backfill_summary import describe_backfill

    planned = describe_backfill(plan)
    if as_json:
        print_json(planned)
    else:
        print_lines(planned.lines())


def _run(plan: BackfillPlan, settings: Settings) -> BackfillSummary:
    """Carry out a plan in this process, through Prefect unless the settings say otherwise, with a bar on a terminal."""
    from flows.backfill import run_backfill
    from flows.tagging.backfill_summary import summarise_backfill
    from flows.tagging.progress import progress_bar, watcher
    from flows.tagging.run import execute_here

    with progress_bar(stderr()):
        if not settings.orchestrate:
            return summarise_backfill(run_backfill(plan, execute_here, watcher.get()))
        from flows.deployed.backfill import backfill as backfill_flow
        from flows.handover import handed_over

        with handed_over(plan):
            return summarise_backfill(run_flow(backfill_flow, plan.request).unquote())
