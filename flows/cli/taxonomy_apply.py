"""`clipdecoder taxonomy apply`: put a taxonomy file in force, score what is new, decide on retraining."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.changes import print_changes
from flows.cli.options import BatchSize, Device, with_settings
from flows.cli.orchestration import held, run_flow
from flows.cli.output import Json, Store, print_json, print_lines, print_summary, stderr, stoppable

if TYPE_CHECKING:
    from flows.apply import ApplyPlan
    from flows.taxonomies.apply_summary import ApplySummary
    from schemas.config import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(apply)


def apply(
    file: Annotated[str, typer.Argument(help="Taxonomy file (path or URL).")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done and what it costs; write nothing.")
    ] = False,
    no_retrain: Annotated[
        bool, typer.Option("--no-retrain", help="Decide on retraining, and leave it to `clipdecoder retrain`.")
    ] = False,
    batch_size: BatchSize = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Put a taxonomy in force: score added and reworded labels from stored features, and retrain if there is evidence.

    Renamed, merged and retired labels change in the views alone. Scores of new labels appear with them. A label that
    has scores may be retired or merged, and not removed. A command that was stopped goes on when it is given again.

    Example: clipdecoder taxonomy apply taxonomy.yaml --plan
    """
    from flows.apply import plan_apply
    from schemas.config import ApplyRequest, load_settings, make_request

    given = {"taxonomy": file, "batch_size": batch_size, "device": device, "store": store}
    settings = load_settings()
    policy = {"policy": settings.retraining}
    planned = plan_apply(make_request(ApplyRequest, **with_settings(ApplyRequest, given | policy)))
    if plan:
        _show(planned, as_json)
        return
    with stoppable():
        summary = _run(planned, settings, retrain=not no_retrain)
    print_summary(summary, as_json=as_json)


def _run(plan: ApplyPlan, settings: Settings, *, retrain: bool) -> ApplySummary:
    """Carry out a plan in this process, through Prefect unless the settings say otherwise, with bars on a terminal.

    Starting Prefect takes seconds: where nothing is to be done, there is nothing to show in it either.
    """
    from flows.apply import ApplySteps, nothing_to_do, run_apply
    from flows.backfill import run_backfill
    from flows.retraining.run import run_retrain
    from flows.tagging.outcomes import RunOutcome
    from flows.tagging.progress import watcher
    from flows.tagging.run import execute_here
    from flows.taxonomies.apply_summary import summarise_apply
    from flows.training.progress import training_bar, training_watcher

    with training_bar(stderr()) as watch:

        def show(outcome: RunOutcome) -> None:
            done = len(outcome.all_reports) + len(outcome.failures)
            watch.on_progress("backfill", done, len(outcome.plan.shards))

        if not settings.orchestrate or nothing_to_do(plan):
            steps = ApplySteps(
                backfill=lambda part: run_backfill(part, execute_here, show),
                retrain=(lambda request: run_retrain(request, watch)) if retrain else None,
            )
            return summarise_apply(run_apply(plan, steps))
        from flows.deployed.apply import apply_taxonomy
        from flows.handover import handed_over

        with held(watcher, show), held(training_watcher, watch), handed_over(plan):
            return cast("ApplySummary", run_flow(apply_taxonomy, plan.request, retrain=retrain))


def _show(plan: ApplyPlan, as_json: bool) -> None:
    from flows.taxonomies.apply_summary import describe_plan
    from flows.taxonomies.summary import change_rows

    planned = describe_plan(plan)
    if as_json:
        print_json(planned)
        return
    print_lines(planned.head())
    print_changes(change_rows(planned.diff, planned.cost))
    print_lines(planned.lines())
