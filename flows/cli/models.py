"""`clipdecoder models`: which models scored what, and which one the views show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import Json, Store, print_json, print_lines, print_table, store_url

if TYPE_CHECKING:
    from schemas.manifest import ModelRecord, Promotion
    from schemas.retraining import GateReport
    from storage.files import Folder

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models of a store: list, show, promote, rollback.")
_COLUMNS = (
    *("model_id", "promoted", "kind", "name", "architecture", "calibration", "seen_labels", "learned_from"),
    "gates",
)
ModelId = Annotated[str, typer.Argument(help="A model id, from `clipdecoder models list`.")]


@app.command("list")
def list_models(store: Store = None, as_json: Json = False) -> None:
    """List the models that scored something or were trained, and which one is promoted.

    Example: clipdecoder models list
    """
    from storage.models import read_models, read_promotion
    from storage.retraining import find_gates

    folder = _store(store)
    promotion = read_promotion(folder)
    rows = [
        {
            "model_id": record.model_id,
            "promoted": promotion is not None and promotion.model_id == record.model_id,
            "kind": record.kind,
            "name": record.name,
            "architecture": record.architecture,
            "calibration": record.calibration,
            "seen_labels": len(record.seen_labels),
            "learned_from": _learned_from(record),
            "gates": _gates(find_gates(folder, record.model_id)),
        }
        for record in read_models(folder).values()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS)


@app.command()
def show(model_id: ModelId, store: Store = None, as_json: Json = False) -> None:
    """Show all that the store knows of a model; of a trained one its card, and how it compared with the one before.

    Example: clipdecoder models show 0123456789abcdef
    """
    from flows.retraining.card import without_comparison
    from storage.checkpoints import read_card
    from storage.models import read_model
    from storage.retraining import find_gates

    folder = _store(store)
    record, gates = read_model(folder, model_id), find_gates(folder, model_id)
    if as_json:
        print_json(record.model_dump(mode="json") | {"gates": gates.model_dump(mode="json") if gates else None})
        return
    if record.checkpoint is not None:
        print_lines(without_comparison(read_card(folder, model_id)).splitlines())
    else:
        print_lines([f"{name}: {value}" for name, value in record.model_dump(mode="json").items()])
    if gates is not None:
        print_gates(gates)


@app.command()
def promote(
    model_id: ModelId,
    reason: Annotated[str, typer.Option(help="Why; kept with the promotion.")] = "by hand",
    force: Annotated[
        bool, typer.Option("--force", help="Also a model whose gates kept it back; that is kept with the promotion.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Let the views `scores` and `tags` show this model. One that did not pass its gates is refused.

    Example: clipdecoder models promote 0123456789abcdef --reason "better on the canary shard"
    """
    from storage.models import promote as promote_model
    from storage.models import read_promotion

    folder = _store(store)
    before = read_promotion(folder)
    promotion = promote_model(folder, model_id, reason, force=force)
    if as_json:
        print_json(promotion)
    elif promotion == before:
        print_lines([f"{model_id} is promoted already: {promotion.reason}", *next_steps(folder)])
    else:
        print_lines([_told(promotion), *next_steps(folder)])


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept with the promotion.")] = "rolled back by hand",
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Go back to the model that was promoted before. Asked twice, it goes two models back.

    Example: clipdecoder models rollback
    """
    from storage.models import rollback as roll_back

    folder = _store(store)
    promotion = roll_back(folder, reason)
    if as_json:
        print_json(promotion)
    else:
        print_lines([_told(promotion), *next_steps(folder)])


def _learned_from(record: ModelRecord) -> str:
    """Say what a checkpoint was trained and calibrated on."""
    checkpoint = record.checkpoint
    if checkpoint is None:
        return ""
    trained, calibrated = checkpoint.data, checkpoint.calibration_data
    learned = trained.train_images + trained.validation_images if trained is not None else 0
    parts = [f"{learned} images of {trained.datasets}"] if trained is not None else []
    parts += [f"calibrated on {calibrated.images} of {calibrated.datasets}"] if calibrated is not None else []
    return ", ".join(parts)


def print_gates(report: GateReport) -> None:
    """Print how a new model compared with the one before: why, and the numbers as tables."""
    from flows.retraining.summary import GATE_COLUMNS, LABEL_COLUMNS, gate_lines, gate_rows, label_rows

    print_lines(list(gate_lines(report)))
    print_table(gate_rows(report), GATE_COLUMNS)
    if report.labels:
        print_table(label_rows(report), LABEL_COLUMNS)


def _gates(report: GateReport | None) -> str:
    """Say whether a model was kept back, and by which gates."""
    if report is None:
        return ""
    return "passed" if report.passed else f"kept back by {', '.join(report.holding)}"


def next_steps(folder: Folder) -> Iterator[str]:
    """Yield what the promoted model lacks, and the command that gives it."""
    from flows.backfill import plan_backfill
    from schemas.commands import store_command
    from schemas.config import BackfillRequest

    plan = plan_backfill(BackfillRequest(store=folder.url))
    if plan.runs and plan.model is not None:
        backfill = store_command("backfill", store=folder.url)
        yield f"next: {backfill}   (model {plan.model.model_id} lacks scores)"


def _told(promotion: Promotion) -> str:
    before = f", in place of {promotion.previous}" if promotion.previous else ""
    forced = f" (forced: {', '.join(promotion.forced)})" if promotion.forced else ""
    return f"promoted {promotion.model_id}{before}: {promotion.reason}{forced}"


def _store(store: str | None) -> Folder:
    """Return the store, which must be one: another folder has no models either, but that is no answer."""
    from storage.catalog import check_store
    from storage.files import Folder

    folder = Folder(store_url(store))
    check_store(folder)
    return folder
