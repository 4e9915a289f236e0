"""`clipdecoder backfill`: score what the shown model has not scored yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import BatchSize, Device, with_settings
from flows.cli.output import Json, Store, print_json, print_lines, say, stderr

if TYPE_CHECKING:
    from schemas.config import BackfillRequest


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
    from schemas.config import BackfillRequest, make_request

    given = {"model": model or "current", "batch_size": batch_size, "device": device, "store": store}
    request = make_request(BackfillRequest, **with_settings(BackfillRequest, given))
    if plan:
        _plan(request, as_json)
        return
    try:
        _run(request, as_json)
    except KeyboardInterrupt:
        say("stopped; what is done stays done, and the same command goes on")
        raise typer.Exit(130) from None


def _plan(request: BackfillRequest, as_json: bool) -> None:
    from flows.backfill import plan_backfill
    from flows.backfill_summary import describe_backfill

    planned = describe_backfill(plan_backfill(request))
    if as_json:
        print_json(planned)
    else:
        print_lines(planned.lines())


def _run(request: BackfillRequest, as_json: bool) -> None:
    from flows.backfill import plan_backfill, run_backfill
    from flows.backfill_summary import summarise_backfill
    from flows.progress import progress_bar, watcher
    from flows.run import execute_here

    plan = plan_backfill(request)
    with progress_bar(stderr()):
        summary = summarise_backfill(run_backfill(plan, execute_here, watcher.get()))
    if as_json:
        print_json(summary)
    else:
        print_lines(summary.lines())
    if not summary.ok:
        raise typer.Exit(1)
