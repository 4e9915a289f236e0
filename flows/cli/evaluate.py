"""`clipdecoder evaluate`: what a model is worth on annotated shards that it never learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import BatchSize, Device, Missing, ModelName, Name, Shards, TaxonomyFile, with_settings
from flows.cli.output import Json, Store, print_json, print_lines, say, shown_width, stderr


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    shards: Shards,
    taxonomy: TaxonomyFile,
    model: ModelName = None,
    novel: Annotated[
        str | None,
        typer.Option(help="File of label ids that ZSL is computed on.  [default: all the model was not trained on]"),
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="fused, decoder or clip.  [default: the model's best]")] = None,
    local: Annotated[bool, typer.Option("--local", help="clip: also look at the patch that fits best.")] = False,
    protocol: Annotated[
        str, typer.Option(help="A: all images count. F: only those with a label of the group that is measured.")
    ] = "A",
    missing: Missing = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for metrics.json and report.html; the store has them too."),
    ] = None,
    name: Name = None,
    batch_size: BatchSize = None,
    device: Device = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Measure a model on seen and on novel labels, beside chance, a constant predictor, ridge and plain CLIP.

    Images that the model learned from are found by their content and left out. Writes metrics.json and one HTML page.

    Example: clipdecoder evaluate "test/*.tar" --taxonomy taxonomy.yaml --model current --novel novel.txt -o evaluation
    """
    from flows.evaluate import plan_evaluation, run_evaluation
    from flows.evaluation.tables import draw_tables, statement
    from flows.training.progress import stage_bar
    from schemas.config import EvaluateRequest, make_request
    from schemas.counts import counted

    given = {
        "shards": tuple(shards),
        "taxonomy": taxonomy,
        "model": model,
        "novel": novel,
        "scorer": scorer,
        "local": local,
        "protocol": protocol,
        "missing": missing,
        "name": name,
        "batch_size": batch_size,
        "device": device,
        "store": store,
    }
    request = make_request(EvaluateRequest, **with_settings(EvaluateRequest, given))
    with stage_bar(stderr()) as watch:
        outcome = run_evaluation(plan_evaluation(request), watch)
    if outcome.left_out:
        say(f"{counted(outcome.left_out, 'annotated image', 'were')} left out: the model had learned from such")
    if outcome.passed_over:
        labels = counted(outcome.passed_over, "label")
        say(f"neither seen nor named as novel, and in no number: {labels} of the taxonomy")
    if output is not None:
        outcome.copy_to(output)
    if as_json:
        print_json(outcome.evaluation)
        return
    print_lines(statement(outcome.evaluation))
    for table in draw_tables(outcome.evaluation, shown_width()):
        typer.echo(table)
    print_lines([f"report: {outcome.report if output is None else output / 'report.html'}"])
