"""`clipdecoder retrain`: decide; train, compare and promote where it is worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.models import next_steps, print_gates
from flows.cli.options import BatchSize, Device, with_settings
from flows.cli.orchestration import held, run_flow
from flows.cli.output import Json, Store, print_json, print_lines, print_table, stderr, stoppable

if TYPE_CHECKING:
    from schemas.config import RetrainRequest, Settings
    from schemas.retraining import RetrainDecision, RetrainOutcome


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(retrain)


def retrain(
    taxonomy: Annotated[
        str | None, typer.Option(help="Name of a taxonomy that is applied.  [default: the only one]")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is decided and why; write and train nothing.")] = False,
    batch_size: BatchSize = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Retrain if there is something to learn, compare the new model with the current one, promote it if no gate fails.

    When to retrain, and what a new model must not lose, is the table retraining of clipdecoder.toml. One state of
    taxonomy and ground truth is trained on once. A retraining that was stopped goes on when the same command is given.

    Example: clipdecoder retrain --plan
    """
    from schemas.config import RetrainRequest, load_settings, make_request

    given = {"taxonomy": taxonomy, "batch_size": batch_size, "device": device, "store": store}
    settings = load_settings()
    policy = {"policy": settings.retraining}
    request = make_request(RetrainRequest, **with_settings(RetrainRequest, given | policy))
    if plan:
        _plan(request, as_json)
        return
    with stoppable():
        outcome = _run(request, settings)
    _print_outcome(request, outcome, as_json)


def _plan(request: RetrainRequest, as_json: bool) -> None:
    from flows.retraining.decide import decide
    from storage.files import Folder
    from storage.taxonomies import applied_taxonomy

    folder = Folder(request.store)
    decision = decide(folder, applied_taxonomy(folder, request.taxonomy), request.policy, keep=False)
    if as_json:
        print_json({"decision": decision.model_dump(mode="json"), "outcome": None, "gates": None})
    else:
        _print_decision(decision)


def _run(request: RetrainRequest, settings: Settings) -> RetrainOutcome:
    """Retrain in this process, through Prefect unless the settings say otherwise, with bars on a terminal.

    Raises:
        RequestError: found before any work; a taxonomy that is not in force also before Prefect is started.
    """
    from flows.retraining.run import run_retrain
    from flows.training.progress import training_bar, training_watcher
    from storage.files import Folder
    from storage.taxonomies import applied_taxonomy

    applied_taxonomy(Folder(request.store), request.taxonomy)
    with training_bar(stderr()) as watch:
        if not settings.orchestrate:
            return run_retrain(request, watch)
        from flows.deployed.retrain import retrain as retrain_flow

        with held(training_watcher, watch):
            return cast("RetrainOutcome", run_flow(retrain_flow, request))


def _print_outcome(request: RetrainRequest, outcome: RetrainOutcome, as_json: bool) -> None:
    from flows.retraining.summary import outcome_lines
    from storage.files import Folder
    from storage.retraining import find_decision, find_gates

    folder = Folder(request.store)
    decision = find_decision(folder, outcome.decision_id)
    gates = find_gates(folder, outcome.model_id) if outcome.model_id is not None else None
    if as_json:
        parts = {"decision": decision, "outcome": outcome, "gates": gates}
        print_json({name: part.model_dump(mode="json") if part is not None else None for name, part in parts.items()})
        return
    if decision is not None:
        _print_decision(decision)
    if gates is not None:
        print_gates(gates)
    print_lines([*outcome_lines(outcome), *next_steps(folder)])


def _print_decision(decision: RetrainDecision) -> None:
    from flows.retraining.summary import EVIDENCE_COLUMNS, decision_lines, evidence_rows

    print_lines(list(decision_lines(decision)))
    if decision.labels:
        print_table(evidence_rows(decision.labels), EVIDENCE_COLUMNS)
